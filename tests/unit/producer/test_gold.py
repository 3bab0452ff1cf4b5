"""Gold answers: whole sets are read, and damaged ones refused rather than scored in part."""

import gzip
import json
from pathlib import Path

import pytest

from producer.gold import read_gold
from worker.contracts.errors import InputError


def write(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def test_squad_and_lines_give_the_same_gold(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "question": "?", "answers": [{"text": "x", "answer_start": 0}, {"text": "y"}]},
        {"id": 7, "question": "?", "answers": [], "is_impossible": True},
        {"id": "c", "question": "?", "answers": [], "plausible_answers": [{"text": "z"}]},
    ]
    expected = {"a": ("x", "y"), "7": (), "c": ()}
    squad = {"data": [{"paragraphs": [{"context": "x y z", "qas": rows}]}]}
    assert read_gold(write(tmp_path / "a.json", squad)) == expected
    assert read_gold(write(tmp_path / "a.jsonl", *rows)) == expected
    zipped = tmp_path / "b.jsonl.gz"
    zipped.write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    assert read_gold(zipped) == expected


def test_answers_in_columns_are_read(tmp_path: Path) -> None:
    row = {"id": "a", "answers": {"text": ["x", "y"], "answer_start": [0, 2]}}
    assert read_gold(write(tmp_path / "a.jsonl", row)) == {"a": ("x", "y")}


@pytest.mark.parametrize(
    "row",
    [
        {"answers": []},
        {"id": "a"},
        {"id": "a", "answers": "x"},
        {"id": "a", "answers": ["x"]},
        {"id": "a", "answers": [{"text": 5}]},
        {"id": "a", "answers": {"text": "x"}},
        {"id": "a", "answers": [{"answer_start": 5}]},
        {"id": "a", "answers": None},
    ],
)
def test_a_question_without_gold_is_refused_by_its_place(tmp_path: Path, row: object) -> None:
    good = {"id": "g", "answers": []}
    with pytest.raises(InputError, match=r"question 1 of .*a\.jsonl has no id or no answers"):
        read_gold(write(tmp_path / "a.jsonl", good, row))


def test_a_line_that_cannot_be_read_is_refused_and_not_left_out(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"row 1 of .*a\.jsonl cannot be read: the line is not JSON"
    ):
        read_gold(write(tmp_path / "a.jsonl", {"id": "a", "answers": []}, "{"))


def test_an_id_that_repeats_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has the id 'a' twice"):
        read_gold(
            write(tmp_path / "a.jsonl", {"id": "a", "answers": []}, {"id": "a", "answers": []})
        )


def test_a_file_that_is_no_gold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json does not exist"):
        read_gold(tmp_path / "none.json")
    for name in ("gold", "gold.parquet", "gold.csv"):
        with pytest.raises(InputError, match=r"is not named \.json or \.jsonl"):
            read_gold(write(tmp_path / name))
    with pytest.raises(InputError, match="holds no questions"):
        read_gold(write(tmp_path / "a.jsonl"))
    with pytest.raises(InputError, match="is not SQuAD JSON"):
        read_gold(write(tmp_path / "a.json", "{"))
