"""The answers file: in parts of bounded size, put in place whole, and nobody else's."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from producer import answers as answers_module
from producer.answers import (
    VERSION,
    AnswersMeta,
    AnswerWriter,
    check_free,
    encode_meta,
    list_parts,
    put_in_place,
    read_answers_meta,
    scratch_folder,
)
from tests.making import CALIBRATION, typed_columns, values
from worker.contracts.errors import UsageError
from worker.contracts.verdict import Logistic

TYPED = pa.table(typed_columns())
META = AnswersMeta(VERSION, "job", "d" * 64, "tiny", None, CALIBRATION, {"spanmill": "0"})


@pytest.mark.parametrize("always", [None, Logistic(0.5, -0.1, 0.2)])
def test_the_footer_carries_what_judges_answers_again(
    tmp_path: Path, always: Logistic | None
) -> None:
    meta = replace(META, calibration=replace(CALIBRATION, always=always))
    path = tmp_path / "answers.parquet"
    pq.write_table(TYPED.replace_schema_metadata(encode_meta(meta)), path)
    assert read_answers_meta(path) == meta


def write(folder: Path, tables: list[pa.Table], part_rows: float = float("inf")) -> list[pa.Table]:
    schema = tables[0].schema.with_metadata(encode_meta(META))
    with AnswerWriter(folder, schema, part_rows) as writer:
        for table in tables:
            writer.write(table)
    return [pq.read_table(part) for part in list_parts(str(folder))]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(st.lists(st.integers(0, 7), max_size=9), st.integers(1, 9), st.integers(1, 9))
def test_parts_hold_every_row_in_order_and_no_more_than_they_may(
    tmp_path: Path, sizes: list[int], part_rows: int, group_rows: int
) -> None:
    folder = tmp_path / f"{time.monotonic_ns()}"
    rows = pa.table(
        {"row": range(sum(sizes)), "k": pa.array([f"{n % 3}" for n in range(sum(sizes))])}
    )
    ends = [sum(sizes[:count]) for count in range(len(sizes) + 1)]
    tables = [rows.slice(first, size) for first, size in zip(ends, sizes, strict=False)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answers_module, "GROUP_ROWS", group_rows)
        parts = write(folder, [*tables, rows.slice(0, 0)], part_rows)
    assert pa.concat_tables(parts).equals(rows)
    assert all(part.num_rows == part_rows for part in parts[:-1])
    assert 0 < parts[-1].num_rows <= part_rows or not sum(sizes)


def test_columns_of_every_type_reach_the_file_unchanged(tmp_path: Path) -> None:
    nearest = pq.read_table(pa.BufferReader(write_bytes(TYPED)))
    (part,) = write(tmp_path / "out", [TYPED.slice(0, 2), TYPED.slice(2, 0), TYPED.slice(2)])
    assert part.schema.equals(nearest.schema)
    assert values(part) == values(TYPED)


def write_bytes(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue()


def test_row_groups_are_bounded_by_bytes_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers_module, "GROUP_BYTES", 5000)
    table = pa.table({"k": ["x" * 1000] * 4})
    write(tmp_path / "out", [table] * 10)
    assert pq.ParquetFile(tmp_path / "out" / "part-00000.parquet").num_row_groups >= 5


def test_dictionaries_that_do_not_fit_into_one_get_row_groups_of_their_own(tmp_path: Path) -> None:
    small = pa.dictionary(pa.int8(), pa.string())
    words = [[f"{letter}{number}" for number in range(100)] for letter in "abc"]
    (part,) = write(tmp_path / "out", [pa.table({"k": pa.array(one, small)}) for one in words])
    assert part.schema.field("k").type == small
    assert part.column("k").to_pylist() == [word for one in words for word in one]


def test_the_footer_is_read_back_and_other_files_have_none(tmp_path: Path) -> None:
    write(tmp_path / "out", [TYPED])
    assert read_answers_meta(list_parts(str(tmp_path / "out"))[0]) == META
    pq.write_table(TYPED, tmp_path / "plain.parquet")
    pq.write_table(TYPED.replace_schema_metadata({"spanmill": "{}"}), tmp_path / "odd.parquet")
    (tmp_path / "text.parquet").write_text("no Parquet")
    for name in ("plain.parquet", "odd.parquet", "text.parquet", "none.parquet", "out"):
        assert read_answers_meta(tmp_path / name) is None


def fail_while_writing(folder: Path) -> None:
    with AnswerWriter(folder, TYPED.schema, 5) as writer:
        writer.write(pa.table({"other": [1]}))
        raise KeyError("mine")


def test_a_failure_while_writing_is_the_one_that_is_heard(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="mine"):
        fail_while_writing(tmp_path / "out")


def test_parts_are_listed_in_their_order(tmp_path: Path) -> None:
    for name in ("part-00010.parquet", "part-00002.parquet", "notes.txt"):
        (tmp_path / name).touch()
    assert [part.name for part in list_parts(str(tmp_path))] == [
        "part-00002.parquet",
        "part-00010.parquet",
    ]
    assert list_parts(str(tmp_path / "notes.txt")) == [tmp_path / "notes.txt"]
    with pytest.raises(UsageError, match="none do not exist"):
        list_parts(str(tmp_path / "none"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no parts of answers"):
        list_parts(str(tmp_path / "empty"))


def test_an_output_that_exists_is_replaced_only_if_asked_and_only_answers(tmp_path: Path) -> None:
    check_free(f"{tmp_path}/new.parquet", overwrite=False)
    (tmp_path / "empty").mkdir()
    check_free(f"{tmp_path}/empty/", overwrite=False)
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "part-00000.parquet").touch()
    (tmp_path / "file.parquet").touch()
    for name in ("file.parquet", "parts/"):
        with pytest.raises(UsageError, match="exists: choose another --out, or give --overwrite"):
            check_free(f"{tmp_path}/{name}", overwrite=False)
        check_free(f"{tmp_path}/{name}", overwrite=True)
    (tmp_path / "parts" / "mine.txt").touch()
    with pytest.raises(UsageError, match="holds more than parts of answers"):
        check_free(f"{tmp_path}/parts/", overwrite=True)


def test_parts_are_put_in_place_of_a_file_or_of_older_parts(tmp_path: Path) -> None:
    for number, name in enumerate(("out.parquet", "out.parquet", "parts/", "parts/")):
        made = tmp_path / f"made-{number}"
        write(made, [TYPED.slice(0, number + 1)], part_rows=1 if name.endswith("/") else 99)
        put_in_place(made, f"{tmp_path}/{name}")
        assert (
            sum(pq.read_metadata(one).num_rows for one in list_parts(str(tmp_path / name)))
            == number + 1
        )


def fail_in_scratch(output: str) -> None:
    with scratch_folder(output, "job") as scratch:
        (scratch / "x").mkdir()
        raise KeyError(str(scratch.parent))


def test_a_scratch_folder_goes_whatever_happens(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match=str(tmp_path / "made")):
        fail_in_scratch(f"{tmp_path}/made/out.parquet")
    assert list((tmp_path / "made").iterdir()) == []


KILLED = """
import os, signal, sys
from producer.answers import scratch_folder
with scratch_folder(sys.argv[1], sys.argv[2]) as scratch:
    (scratch / "answers").mkdir()
    print("made", flush=True)
    if sys.argv[3] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    sys.stdin.read()
"""


def start(output: str, owner: str, how: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, output, owner, how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "made\n"
    return process


def test_what_a_killed_process_left_goes_and_what_a_living_one_uses_stays(tmp_path: Path) -> None:
    output = f"{tmp_path}/out.parquet"
    dead = start(output, "job", "die")
    dead.communicate()
    living = start(output, "job", "live")
    other = start(output, "another", "die")
    other.communicate()
    before = {*tmp_path.iterdir()}
    with scratch_folder(output, "job"):
        pass
    after = {*tmp_path.iterdir()}
    assert len(before) == 2
    assert before == after, "the living one's and the other job's stay"
    living.communicate("")
    with scratch_folder(output, "another"):
        pass
    assert list(tmp_path.iterdir()) == []
