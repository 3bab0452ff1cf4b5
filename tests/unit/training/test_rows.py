"""A recipe's rows: found by name, drawn, mixed and augmented, and never of a held-out passage."""

import json
from pathlib import Path

import msgspec
import pytest

from training.data import Labelled, passage_key
from training.recipe import Recipe
from training.rows import Rows, find_file
from worker.contracts.errors import InputError


def _line(number: int, passage: int) -> str:
    context = f"The mill of town {passage} was built in {1700 + passage} by Joan."
    return json.dumps(
        {
            "id": f"{passage}-{number}",
            "question": f"Question {number}?",
            "context": context,
            "answers": {"text": ["Joan"], "answer_start": [context.index("Joan")]},
        }
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train").mkdir()
    lines = [_line(number, passage) for passage in range(40) for number in range(2)]
    (tmp_path / "train" / "towns.jsonl").write_text("\n".join(lines))
    again = [_line(9, passage).replace("The mill", "THE MILL") for passage in range(60)]
    (tmp_path / "again.jsonl").write_text("\n".join(again))
    return tmp_path


def _recipe(**changes: object) -> Recipe:
    table = {
        "name": "mine",
        "data": {
            "towns": {"licence": "MIT"},
            "few": {"licence": "MIT", "file": "again", "rows": 20, "seed": 1},
        },
        "held_out": {"files": ["towns"], "share": 0.3, "seed": 5, "judge_rows": 6},
        "mixtures": {"all": ["towns", "few"]},
        "augment": {"hard": {"how": "nearest", "of": ["all"], "rows": 12}},
        "steps": {"first": {"kind": "finetune", "stages": [{"rows": ["all"]}]}},
        "card": {"licence": "MIT", "summary": "", "limits": []},
    }
    return msgspec.convert(table | changes, Recipe)


def test_no_row_of_a_held_out_passage_is_trained_on_whatever_its_file(folder: Path) -> None:
    rows = Rows(_recipe(), folder)
    held = {passage_key(row.context) for row in rows.held_out}
    assert 5 < len(held) < 20
    assert len(rows.held_out) == 2 * len(held)
    trained = rows.get(["all", "hard"])
    assert not {passage_key(row.context) for row in trained} & held
    assert len(rows.get(["towns"])) == 80 - len(rows.held_out)
    assert len(rows.get(["few"])) < 20  # 20 are drawn, those of held-out passages left out


def test_mixtures_follow_their_names_in_order(folder: Path) -> None:
    rows = Rows(_recipe(), folder)
    assert rows.get(["all"]) == (*rows.get(["towns"]), *rows.get(["few"]))
    assert rows.get(["few", "few"]) == rows.get(["few"]) * 2


def test_made_rows_have_no_answer_and_are_as_many_as_asked_for(folder: Path) -> None:
    made = Rows(_recipe(), folder).get(["hard"])
    assert made == ()  # every passage here names the answer
    few = {"hard": {"how": "negations", "of": ["all"], "rows": 3, "seed": 2}}
    assert Rows(_recipe(augment=few), folder).get(["hard"]) == ()  # nothing to negate either
    number = {"hard": {"how": "numbers", "of": ["all"], "rows": 3, "seed": 2}}
    swapped = Rows(_recipe(augment=number), folder).get(["hard"])
    assert len(swapped) == 3
    assert not any(row.answers for row in swapped)


def _write_asked(folder: Path, passages: range, each: int) -> None:
    """Write unanswerable questions about some of the towns' passages."""
    lines = [json.loads(_line(number, passage)) for passage in passages for number in range(each)]
    for line in lines:
        line |= {"id": f"no-{line['id']}", "question": f"Who fell it in {line['id']}?"}
        line["answers"] = {"text": [], "answer_start": []}
    (folder / "asked.jsonl").write_text("\n".join(map(json.dumps, lines)))


def test_even_judges_are_of_passages_with_both_kinds_as_many_of_either(folder: Path) -> None:
    _write_asked(folder, range(20), each=5)
    data = {"towns": {"licence": "MIT"}, "asked": {"licence": "MIT"}}
    held_out = {"files": ["towns", "asked"], "share": 0.4, "seed": 5, "even": True}
    mine = {"all": ["towns", "asked"]}
    rows = Rows(_recipe(data=data, held_out=held_out, mixtures=mine, augment={}), folder)
    answerable = [row for row in rows.judges if row.answers]
    assert len(rows.judges) == 2 * len(answerable) >= 4
    assert all(int(row.context.split()[4]) < 20 for row in rows.judges)
    assert set(rows.judges) < set(rows.held_out)
    assert any(int(row.context.split()[4]) >= 20 for row in rows.held_out), "all calibrate"
    trained = {row.context for row in rows.get(["all"])}
    assert not trained & {row.context for row in rows.held_out}


def _write_chats(folder: Path) -> None:
    """Write two chats about each town, near copies, with questions of both kinds."""
    lines = []
    for town in range(120):
        words = " ".join(f"{word}{town}" for word in ("who", "saw", "it", "fall", "at", "noon") * 3)
        for copy in range(2):
            context = f"{words} says Joan {copy}"
            answers = {"text": ["Joan"], "answer_start": [context.index("Joan")]}
            row: dict[str, object] = {"question": "Who says?", "context": context}
            row["id"] = f"{town}-{copy}"
            nobody: dict[str, object] = {"text": [], "answer_start": []}
            lines.append(row | {"answers": answers})
            lines.append(row | {"id": f"no-{row['id']}", "question": "Who sat?", "answers": nobody})
    (folder / "chat.jsonl").write_text("\n".join(map(json.dumps, lines)))


def _town(row: Labelled) -> str:
    return row.context.split()[0]


def test_unread_rows_calibrate_and_are_of_passages_unlike_those_that_are_drawn(
    folder: Path,
) -> None:
    _write_chats(folder)
    data = {
        "towns": {"licence": "MIT"},
        "some": {"licence": "MIT", "file": "chat", "rows": 20, "seed": 1},
        "others": {"licence": "MIT", "file": "chat.jsonl", "rows": 20, "seed": 2},
    }
    held_out = {"files": ["towns"], "share": 0.3, "seed": 5}
    held_out |= {"unread": {"of": "some", "rows": 31, "seed": 3}}
    mixtures = {"all": ["towns", "some"]}
    rows = Rows(_recipe(data=data, held_out=held_out, mixtures=mixtures, augment={}), folder)
    unread = [row for row in rows.held_out if "says Joan" in row.context]
    assert [
        len([row for row in unread if bool(row.answers) is kind]) for kind in (True, False)
    ] == [
        15,
        15,
    ]
    drawn = (*rows.get(["some"]), *rows.get(["others"]))
    assert len(drawn) == 40, "what calibrates takes nothing from a set"
    assert not {_town(row) for row in drawn} & {_town(row) for row in unread}
    assert not set(unread) & set(rows.judges)
    assert "some" in rows.find(["towns"])


def test_unread_rows_of_a_file_that_is_read_whole_are_refused(folder: Path) -> None:
    held_out = {"files": ["few"], "share": 0.3, "unread": {"of": "towns", "rows": 4}}
    with pytest.raises(InputError, match=r"no new passage of towns .* draw fewer rows"):
        _ = Rows(_recipe(held_out=held_out), folder).held_out


def test_unasked_makes_rows_only_of_passages_without_an_unanswerable_question(folder: Path) -> None:
    _write_asked(folder, range(30), each=1)
    data = {"towns": {"licence": "MIT"}, "asked": {"licence": "MIT"}}
    made = {"hard": {"how": "numbers", "of": ["towns", "asked"], "rows": 99, "unasked": True}}
    rows = Rows(_recipe(data=data, mixtures={}, augment=made,
                        steps={"first": {"kind": "finetune", "stages": [{"rows": ["towns"]}]}}),
                folder).get(["hard"])  # fmt: skip
    assert len({row.context for row in rows}) > 3
    assert all(int(row.context.split()[4]) >= 30 for row in rows)


def test_held_out_rows_without_an_answer_are_made_from_the_others(folder: Path) -> None:
    held_out = {
        "files": ["towns"], "share": 0.3, "seed": 5,
        "unanswerable": {"how": "numbers", "rows": 4, "seed": 2},
    }  # fmt: skip
    plain = Rows(_recipe(), folder).held_out
    rows = Rows(_recipe(held_out=held_out), folder)
    made = rows.held_out[len(plain) :]
    assert rows.held_out[: len(plain)] == plain
    assert len(made) == 4
    assert not any(row.answers for row in made)
    assert {row.context for row in made} <= {row.context for row in plain}
    assert rows.get(["all"]) == Rows(_recipe(), folder).get(["all"])


def test_judges_are_some_of_the_held_out_rows(folder: Path) -> None:
    rows = Rows(_recipe(), folder)
    assert len(rows.judges) == 6
    assert set(rows.judges) < set(rows.held_out)


def test_what_is_read_is_said_once_with_what_was_dropped(folder: Path) -> None:
    bad = json.dumps(
        {"question": "q", "context": "c", "answers": {"text": ["x"], "answer_start": [0]}}
    )
    lines = (folder / "train" / "towns.jsonl").read_text()
    (folder / "train" / "towns.jsonl").write_text(lines + "\n" + bad)
    said: list[str] = []
    rows = Rows(_recipe(), folder, said.append)
    rows.get(["towns"])
    rows.get(["towns"])
    assert said == ["towns: 80 of 80 rows, 1 dropped"]


def test_a_file_that_is_not_there_is_one_sentence(folder: Path) -> None:
    recipe = _recipe(data={"towns": {"licence": "MIT"}, "few": {"licence": "MIT", "file": "gone"}})
    with pytest.raises(InputError, match=r"no file gone .* SPANMILL_DATA"):
        Rows(recipe, folder).find(["all"])
    assert set(Rows(_recipe(), folder).find(["few"])) == {"towns", "few"}


def test_two_files_of_one_name_are_refused(folder: Path) -> None:
    (folder / "towns.parquet").write_bytes(b"")
    with pytest.raises(InputError, match="have one name"):
        find_file(folder, "towns")
    assert find_file(folder, "train/towns") == folder / "train" / "towns.jsonl"
    assert find_file(folder, "towns.parquet") == folder / "towns.parquet"


def test_a_file_without_a_usable_row_is_refused(folder: Path) -> None:
    (folder / "again.jsonl").write_text("")
    with pytest.raises(InputError, match="few holds no usable row"):
        Rows(_recipe(), folder).get(["few"])
