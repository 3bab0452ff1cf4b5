"""The first look at the input: counts, digests, and what deserves a warning."""

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from producer import scan as scan_module
from producer.scan import Scan, prove_input, scan
from producer.source import open_source, stream_batches, stream_rows
from tests.making import write_input
from worker.contracts.errors import InputError
from worker.contracts.job import Columns, InputFile, choose_cut


def look(*paths: Path, batch_rows: int | None = None, **columns: Any) -> Scan:
    return scan(open_source(paths, Columns(**columns)), batch_rows)


def test_files_are_counted_and_proved(tmp_path: Path) -> None:
    one = write_input(tmp_path / "a.parquet", 3)
    (tmp_path / "b.jsonl").write_text('{"id": 1, "question": "q", "context": "c"}\n')
    found = look(one, tmp_path / "b.jsonl")
    assert found.rows == 4
    assert found.files == tuple(
        InputFile(
            str(path), path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest(), rows
        )
        for path, rows in ((one, 3), (tmp_path / "b.jsonl", 1))
    )
    assert (found.null_ids, found.repeated_ids) == (0, 0)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 2000), max_size=60), st.none() | st.integers(1, 30))
def test_the_batches_counted_are_those_that_are_cut(
    tmp_path: Path, lengths: list[int], batch_rows: int | None
) -> None:
    path = write_input(
        tmp_path / "a.parquet",
        len(lengths),
        context=pa.array(["é" * length * 9 for length in lengths], pa.string()),
        question=pa.array(["q"] * len(lengths), pa.string()),
    )
    source = open_source([path], Columns())
    found = scan(source, batch_rows)
    assert found.cut == choose_cut(len(lengths), batch_rows)
    assert found.batches == sum(1 for _ in stream_batches(stream_rows(source), found.cut))


def test_the_cut_of_a_large_job_follows_from_its_number_of_rows(tmp_path: Path) -> None:
    rows = 64 * 256 + 100
    path = tmp_path / "a.parquet"
    texts = pa.array(["x"] * rows)
    pq.write_table(pa.table({"question": texts, "context": texts}), path)
    found = look(path, id=None)
    assert found.rows == rows
    assert found.cut == choose_cut(rows, None)
    assert found.batches == -(-rows // found.cut.max_rows)


def test_null_and_repeated_ids_are_counted(tmp_path: Path) -> None:
    ids = ["a", None, "a", "a", None, "b"]
    one = write_input(tmp_path / "a.parquet", 6, id=ids)
    two = write_input(tmp_path / "b.parquet", 2, id=["b", "c"])
    found = look(one, two)
    assert (found.null_ids, found.repeated_ids) == (2, 3)
    assert look(one, two, id=None).repeated_ids == 0


def test_ids_are_looked_at_in_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan_module, "CHECKED_IDS", 3)
    paths = [write_input(tmp_path / f"{number}.parquet", 3) for number in range(3)]
    assert look(*paths).repeated_ids == 0
    monkeypatch.setattr(scan_module, "CHECKED_IDS", 4)
    assert look(*paths).repeated_ids == 1
    monkeypatch.setattr(scan_module, "CHECKED_IDS", 10)
    assert look(*paths).repeated_ids == 6


def test_damage_anywhere_in_the_input_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    texts = pa.array([f"{number * 7919 % 100_003} words" for number in range(9_000)])
    pq.write_table(pa.table({"id": texts, "question": texts, "context": texts}), path)
    raw = bytearray(path.read_bytes())
    raw[len(raw) * 2 // 3] ^= 0xFF
    raw[len(raw) * 2 // 3 + 1 : len(raw) * 2 // 3 + 30] = b"\xff" * 29
    path.write_bytes(raw)
    with pytest.raises(InputError, match=r"a\.parquet is damaged"):
        look(write_input(tmp_path / "b.parquet"), path)


def test_an_input_that_is_gone_cannot_be_proved(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none cannot be read \(No such file"):
        prove_input(tmp_path / "none", 0)
