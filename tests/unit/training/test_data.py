"""Reading, checking, splitting and measuring question-answering data."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny import SIZES, Tiny
from training.checkpoint import open_encoder, read_family
from training.data import (
    Gold,
    Labelled,
    Loaded,
    choose_answer,
    load,
    load_all,
    question_word,
    sample,
    split,
    summarize,
)
from worker.contracts.errors import InputError

CONTEXT = "The mill stands in Arden. Joan built the mill in 1742."
UNREAD = "nobody may read this sentence"


def _line(**changes: Any) -> dict[str, Any]:
    answers = {"text": ["Joan", "1742"], "answer_start": [26, 49]}
    line = {"id": "a", "title": "Mills", "context": CONTEXT, "question": "Who built it?"}
    return line | {"answers": answers, "is_impossible": False} | changes


def _without_answer(**changes: Any) -> dict[str, Any]:
    nothing: dict[str, Any] = {"answers": {"text": [], "answer_start": []}, "is_impossible": True}
    return _line(**(nothing | changes))


def _write_lines(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def _write_squad(path: Path, lines: list[dict[str, Any]]) -> Path:
    articles = []
    for line in lines:
        given = line["answers"]
        pairs = zip(given["text"], given["answer_start"], strict=True) if given else ()
        answers = [{"text": text, "answer_start": start} for text, start in pairs]
        asked = {
            "id": line["id"],
            "question": line["question"],
            "is_impossible": line["is_impossible"],
            "answers": answers if given else None,
        }
        paragraph = {"context": line["context"], "qas": [asked]}
        articles.append({"title": line["title"], "paragraphs": [paragraph]})
    path.write_text(json.dumps({"version": "v2.0", "data": articles}), encoding="utf-8")
    return path


def _write(path: Path, lines: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(lines), path)
        return path
    return {".jsonl": _write_lines, ".json": _write_squad}[path.suffix](path, lines)


def test_every_format_gives_the_same_rows(tmp_path: Path) -> None:
    lines = [_line(), _without_answer(id="b", question="Who broke it?")]
    jsonl = _write_lines(tmp_path / "set.jsonl", lines)
    squad = _write_squad(tmp_path / "set.json", lines)
    zipped = tmp_path / "set.jsonl.gz"
    zipped.write_bytes(gzip.compress(jsonl.read_bytes()))
    parquet = tmp_path / "set.parquet"
    pq.write_table(pa.Table.from_pylist(lines), parquet)
    expected = Loaded(
        (
            Labelled(
                "a", "Who built it?", CONTEXT, (Gold("Joan", 26), Gold("1742", 49)), "Mills", "set"
            ),
            Labelled("b", "Who broke it?", CONTEXT, (), "Mills", "set"),
        ),
        dropped=0,
    )
    for path in (jsonl, squad, zipped, parquet):
        assert load(path) == expected, path.name


def test_numbers_are_ids_too(tmp_path: Path) -> None:
    lines = [_line(id=0), _line(id=7)]
    pq.write_table(pa.Table.from_pylist(lines), tmp_path / "set.parquet")
    files = [
        _write_lines(tmp_path / "set.jsonl", lines),
        _write_squad(tmp_path / "set.json", lines),
        tmp_path / "set.parquet",
    ]
    assert [[row.id for row in load(file).rows] for file in files] == [["0", "7"]] * 3


def test_parquet_that_does_not_say_impossible_is_unanswerable_without_answers(
    tmp_path: Path,
) -> None:
    lines = [_line(), _without_answer()]
    for line in lines:
        del line["is_impossible"]
    pq.write_table(pa.Table.from_pylist(lines), tmp_path / "hub.parquet")
    assert [len(row.answers) for row in load(tmp_path / "hub.parquet").rows] == [2, 0]


@pytest.mark.parametrize(
    "changes",
    [
        {"answers": {"text": ["Joan"], "answer_start": [25]}},
        {"answers": {"text": ["Joan", "1742"], "answer_start": [26, 48]}},
        {"answers": {"text": [CONTEXT[-6:-1]], "answer_start": [-6]}},
        {"answers": {"text": ["Joan", "1742"], "answer_start": [26]}},
        {"answers": {"text": [""], "answer_start": [3]}},
        {"answers": {"text": [" "], "answer_start": [3]}},
        {"answers": {"text": [], "answer_start": []}},
        {"is_impossible": True},
        {"question": "  "},
    ],
)
def test_a_row_that_cannot_be_trusted_is_dropped_and_counted(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    loaded = load(_write_lines(tmp_path / "set.jsonl", [_line(), _line(**changes), _line()]))
    assert len(loaded.rows) == 2
    assert loaded.dropped == 1


@pytest.mark.parametrize("name", ["set.jsonl", "set.json", "set.parquet"])
@pytest.mark.parametrize("empty", ["question", "context", "answers"])
def test_a_row_with_a_null_where_a_text_belongs_is_dropped_and_counted(
    empty: str, name: str, tmp_path: Path
) -> None:
    lines = [_line(), _line(**{empty: None}), _without_answer()]
    loaded = load(_write(tmp_path / name, lines))
    assert [len(row.answers) for row in loaded.rows] == [2, 0]
    assert loaded.dropped == 1


@pytest.mark.parametrize("name", ["set.jsonl", "set.json", "set.parquet"])
@pytest.mark.parametrize(
    "answers",
    [
        {"text": ["Joan", None], "answer_start": [26, 45]},
        {"text": ["Joan", "1742"], "answer_start": [26, None]},
    ],
)
def test_a_row_with_a_null_among_its_answers_is_dropped_and_counted(
    answers: dict[str, Any], name: str, tmp_path: Path
) -> None:
    lines = [_line(), _line(answers=answers), _without_answer()]
    loaded = load(_write(tmp_path / name, lines))
    assert [len(row.answers) for row in loaded.rows] == [2, 0]
    assert loaded.dropped == 1


@pytest.mark.parametrize("nothing", [{"text": None}, {"answer_start": None}])
def test_a_null_instead_of_answers_is_dropped_and_counted(
    nothing: dict[str, None], tmp_path: Path
) -> None:
    answers = {"text": [], "answer_start": []} | nothing
    loaded = load(_write_lines(tmp_path / "set.jsonl", [_line(), _line(answers=answers)]))
    assert (len(loaded.rows), loaded.dropped) == (1, 1)


@pytest.mark.parametrize("name", ["set.jsonl", "set.json", "set.parquet"])
def test_a_null_beside_the_texts_is_as_if_it_were_absent(name: str, tmp_path: Path) -> None:
    lines = [_line(), _line(id=None, title=None)]
    rows = load(_write(tmp_path / name, lines)).rows
    assert [(row.id, row.title, row.source) for row in rows] == [
        ("a", "Mills", "set"),
        ("set-1", "", "set"),
    ]
    sourceless = load(_write_lines(tmp_path / "more.jsonl", [_line(source=None)]))
    assert [row.source for row in sourceless.rows] == ["more"]


def test_a_file_without_a_column_that_rows_need_is_refused(tmp_path: Path) -> None:
    line = _line()
    del line["question"]
    for name in ("set.jsonl", "set.parquet"):
        with pytest.raises(InputError, match="question"):
            load(_write(tmp_path / name, [line]))


def test_offsets_count_code_points(tmp_path: Path) -> None:
    context = "🌊🌊 Joan"
    answers = {"text": ["Joan"], "answer_start": [3]}
    line = _line(context=context, answers=answers)
    assert load(_write_lines(tmp_path / "set.jsonl", [line])).dropped == 0


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("missing.jsonl", None),
        ("set.csv", b"question,context\n"),
        ("broken.jsonl", b'{"question": "' + UNREAD.encode()),
        ("other.json", json.dumps({"rows": [UNREAD]}).encode()),
        ("other.jsonl", json.dumps({"question": UNREAD, "context": 3}).encode()),
        ("damaged.jsonl.gz", gzip.compress(UNREAD.encode() * 99, mtime=0)[:-9]),
        ("spoilt.jsonl.gz", gzip.compress(UNREAD.encode(), mtime=0)[:10] + b"\xff" * 40),
        ("plain.jsonl.gz", UNREAD.encode()),
        ("binary.jsonl", b"\xff\xfe" + UNREAD.encode()),
        ("broken.parquet", UNREAD.encode()),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_that_cannot_be_read_is_one_sentence(
    name: str, content: bytes | None, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        load(tmp_path / name)
    message = str(caught.value)
    assert name in message
    assert "\n" not in message
    assert UNREAD not in message


@pytest.mark.parametrize(
    ("lines", "word"),
    [([], "no usable row"), ([_without_answer()], "unanswerable")],
)
def test_data_without_an_answer_is_refused(
    lines: list[dict[str, Any]], word: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=word):
        load_all([_write_lines(tmp_path / "set.jsonl", lines)])


def test_several_files_make_one_set(tmp_path: Path) -> None:
    wrong = _line(context="Another text.")
    first = _write_lines(tmp_path / "first.jsonl", [_line(), wrong])
    second = _write_lines(tmp_path / "second.jsonl", [_without_answer()])
    loaded = load_all([first, second])
    assert [row.source for row in loaded.rows] == ["first", "second"]
    assert loaded.dropped == 1


_WORDS = st.sampled_from(["mill", "river", "stone", "wheel", "weir", "flood"])
_PASSAGES = st.lists(_WORDS, min_size=1, max_size=4).map(" ".join)
_ROWS = st.lists(
    st.builds(
        lambda number, text, shout: Labelled(
            str(number), f"{number}?", text.upper() + "!" if shout else text, ()
        ),
        st.integers(0, 10**6),
        _PASSAGES,
        st.booleans(),
    ),
    max_size=40,
)


@given(_ROWS, st.floats(0.05, 0.95), st.integers(0, 99))
def test_held_out_rows_share_no_passage_with_training_rows(
    rows: list[Labelled], share: float, seed: int
) -> None:
    parts = split(rows, share, seed)
    assert sorted(parts.train + parts.held_out, key=id) == sorted(rows, key=id)
    trained = {row.context.lower().rstrip("!") for row in parts.train}
    assert not trained & {row.context.lower().rstrip("!") for row in parts.held_out}


@given(_ROWS, st.integers(0, 99))
def test_a_passages_side_does_not_depend_on_other_rows(rows: list[Labelled], seed: int) -> None:
    whole = split(rows, 0.5, seed)
    for row in rows:
        alone = split([row], 0.5, seed)
        assert (row in whole.held_out) == (row in alone.held_out)


def test_a_split_holds_out_about_its_share_and_another_seed_holds_out_others() -> None:
    rows = [Labelled(str(number), "?", f"passage {number}", ()) for number in range(4000)]
    first, second = split(rows, 0.1, 1), split(rows, 0.1, 2)
    assert 320 < len(first.held_out) < 480
    assert first.held_out != second.held_out


def test_a_sample_follows_from_its_rows_and_seed() -> None:
    rows = [Labelled(str(number), "?", "text", ()) for number in range(50)]
    drawn = sample(rows, 10, 3)
    assert drawn == sample(rows[::-1], 10, 3)
    assert len(set(drawn)) == 10
    assert drawn != sample(rows, 10, 4)


def test_a_summary_counts_what_the_encoder_sees(tiny: Tiny) -> None:
    folder = tiny.checkpoint("bert")
    encoder = open_encoder(folder, read_family(folder), SIZES)
    long = "mill " * 1000
    rows = (
        Labelled("a", "Who built it?", CONTEXT, (Gold("Joan", 26),), source="one"),
        Labelled("b", "In what year?", CONTEXT, (), source="one"),
        Labelled("c", "Name the mill.", long, (), source="two"),
    )
    summary = summarize(Loaded(rows, dropped=4), encoder)
    tokens = [len(encoder.tokenize_passage(text)) for text in (CONTEXT, CONTEXT, long)]
    assert (summary.rows, summary.dropped, summary.unanswerable, summary.passages) == (3, 4, 2, 2)
    assert summary.context_tokens == pytest.approx(sum(tokens) / 3)
    assert summary.answer_chars == 4
    assert summary.windows == 2 + len(
        encoder.encode("Name the mill.", encoder.tokenize_passage(long)).windows
    )
    assert summary.windows > 3
    assert summary.question_words == {"who": 1, "what": 1, "other": 1}
    assert summary.sources == {"one": 2, "two": 1}
    assert summary.unanswerable_share == pytest.approx(2 / 3)


def test_the_answer_that_most_annotators_chose_is_learned() -> None:
    golds = (Gold("in 1742", 45), Gold("1742", 48), Gold("1742", 48))
    assert choose_answer(golds) == Gold("1742", 48)
    assert choose_answer((Gold("a", 0), Gold("b", 2))) == Gold("a", 0)


@pytest.mark.parametrize(
    ("question", "word"),
    [("Who's there?", "other"), ("On which day?", "which"), ("WHY?", "why"), ("", "other")],
)
def test_a_question_word_is_found_anywhere(question: str, word: str) -> None:
    assert question_word(question) == word
