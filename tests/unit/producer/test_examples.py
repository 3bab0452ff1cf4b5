"""The examples keep what their README promises: gold that is exact, varied, and honest."""

import json
import re
import runpy
import unicodedata
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer

from worker.reading.windows import slice_passage

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples"
WINDOW_TOKENS, OVERLAP_TOKENS, SPECIAL_TOKENS = 384, 128, 3

ARTICLES = json.loads((EXAMPLES / "questions.json").read_text(encoding="utf-8"))["data"]
PASSAGES = [paragraph for article in ARTICLES for paragraph in article["paragraphs"]]
QUESTIONS = [(passage["context"], row) for passage in PASSAGES for row in passage["qas"]]
UNANSWERABLE = [(context, row) for context, row in QUESTIONS if row["is_impossible"]]
SPANS = [
    (context, span)
    for context, row in QUESTIONS
    for span in [*row["answers"], *row.get("plausible_answers", [])]
]
SIGNS = {
    "emoji": r"[\U0001F300-\U0001FAFF]",
    "joined emoji": "\u200d",
    "combining mark": r"[\u0300-\u036F]",
    "Chinese": r"[\u4E00-\u9FFF]",
    "Arabic": r"[\u0621-\u064A]",
    "tab": r"\t",
    "newline": r"\n",
    "no-break space": "\u00a0",
    "curly quote": r"[\u2018\u2019\u201C\u201D]",
}


def find_tokens(text: str) -> list[tuple[int, int]]:
    """Return the tokens' offsets: the bundle's, or else words and signs, which are never more."""
    bundled = sorted((ROOT / "worker" / "bundles").glob("*/tokenizer.json"))
    if not bundled:
        return [match.span() for match in re.finditer(r"\w+|[^\w\s]", text)]
    tokenizer = Tokenizer.from_file(str(bundled[0]))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return list(tokenizer.encode(text, add_special_tokens=False).offsets)


def find_place(question: str, tokens: list[tuple[int, int]], span: dict[str, Any]) -> str:
    """Say whether a span lies in the first window, in the last one alone, or between."""
    capacity = WINDOW_TOKENS - SPECIAL_TOKENS - len(find_tokens(question))
    windows = list(slice_passage(len(tokens), capacity, OVERLAP_TOKENS))
    end = span["answer_start"] + len(span["text"])
    last_token = max(number for number, token in enumerate(tokens) if token[0] < end)
    if last_token < windows[0][1]:
        return "first"
    return "last" if last_token >= windows[-2][1] else "middle"


def load_script() -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / "make_parquet.py"))


def test_every_answer_lies_at_its_offset_in_code_points() -> None:
    assert SPANS
    for context, span in SPANS:
        start = span["answer_start"]
        assert span["text"]
        assert context[start : start + len(span["text"])] == span["text"]


def test_no_answer_cuts_a_character_or_carries_white_space() -> None:
    for context, span in SPANS:
        end = span["answer_start"] + len(span["text"])
        following = context[end : end + 1]
        assert span["text"] == span["text"].strip()
        assert not (following and unicodedata.combining(following))
        assert following not in {"\u200d", "\ufe0f"}


def test_there_are_enough_passages_and_questions() -> None:
    assert len(PASSAGES) >= 45
    assert len(QUESTIONS) >= 220
    assert len({passage["context"] for passage in PASSAGES}) == len(PASSAGES)


def test_a_quarter_of_the_questions_is_unanswerable() -> None:
    assert len(UNANSWERABLE) >= max(56, len(QUESTIONS) / 4)


def test_answers_are_there_exactly_when_a_question_is_answerable() -> None:
    for _, row in QUESTIONS:
        assert bool(row["answers"]) is not row["is_impossible"]
        assert bool(row.get("plausible_answers")) is row["is_impossible"]


def test_every_passage_has_a_question_of_each_kind() -> None:
    for passage in PASSAGES:
        assert {row["is_impossible"] for row in passage["qas"]} == {True, False}


def test_ids_are_unique_and_readable() -> None:
    ids = Counter(row["id"] for _, row in QUESTIONS)
    assert max(ids.values()) == 1
    assert all(re.fullmatch(r"[a-z]+-\d\d", name) for name in ids)


def test_no_question_is_asked_twice_of_a_passage() -> None:
    asked = Counter((context, row["question"]) for context, row in QUESTIONS)
    assert max(asked.values()) == 1


def test_several_passages_take_several_windows() -> None:
    counts = sorted(len(find_tokens(passage["context"])) for passage in PASSAGES)
    assert counts[-5] > 700
    assert counts[-1] > 2000


def test_long_passages_are_asked_about_their_first_middle_and_last_window() -> None:
    for passage in PASSAGES:
        tokens = find_tokens(passage["context"])
        if len(tokens) > 700:
            places = {
                find_place(row["question"], tokens, row["answers"][0])
                for row in passage["qas"]
                if row["answers"]
            }
            assert places == {"first", "middle", "last"}, passage["qas"][0]["id"]


@pytest.mark.parametrize("sign", SIGNS.values(), ids=SIGNS.keys())
def test_some_answer_holds_or_touches(sign: str) -> None:
    assert any(
        re.search(sign, context[max(0, start - 2) : start + len(span["text"]) + 2])
        for context, span in SPANS
        for start in [span["answer_start"]]
    )


def test_accents_are_decomposed_where_they_are_meant_to_be() -> None:
    assert any(unicodedata.normalize("NFC", context) != context for context, _ in SPANS)
    assert any(unicodedata.normalize("NFC", span["text"]) != span["text"] for _, span in SPANS)


def test_the_parquet_file_says_what_the_json_says() -> None:
    table = pq.read_table(EXAMPLES / "questions.parquet")
    assert table.schema.names == ["id", "question", "context", "title", "published"]
    assert [str(kind) for kind in table.schema.types] == [*["string"] * 4, "date32[day]"]
    expected = [
        {
            "id": row["id"],
            "question": row["question"],
            "context": passage["context"],
            "title": article["title"],
            "published": date.fromisoformat(article["published"]),
        }
        for article in ARTICLES
        for passage in article["paragraphs"]
        for row in passage["qas"]
    ]
    assert table.to_pylist() == expected


def test_the_script_makes_the_same_bytes_each_time(tmp_path: Path) -> None:
    script = load_script()
    rows = script["read_rows"](EXAMPLES / "questions.json")
    for name in ("one.parquet", "two.parquet"):
        script["write_parquet"](rows, tmp_path / name)
    made = (tmp_path / "one.parquet").read_bytes()
    assert made == (tmp_path / "two.parquet").read_bytes()
    shipped = EXAMPLES / "questions.parquet"
    writers = {pq.read_metadata(path).created_by for path in (shipped, tmp_path / "one.parquet")}
    if len(writers) == 1:  # another pyarrow may lay the same rows out differently
        assert made == shipped.read_bytes()


def test_the_readme_tells_the_counts() -> None:
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert load_script()["count"](EXAMPLES / "questions.json") in readme
