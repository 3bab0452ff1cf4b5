"""Collecting: every row of the shards once, in order, laid over by its retry; all or nothing."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer import answers as answers_module
from producer.answers import read_answers_meta
from producer.collect import collect, overlay
from tests.making import (
    BUNDLE_DIGEST,
    CALIBRATION,
    make_answer,
    make_job,
    put_shard,
    typed_columns,
    values,
)
from worker.contracts.errors import JobError, WorldError
from worker.contracts.job import shard_key
from worker.contracts.records import Answer, Status
from worker.contracts.shard import ANSWER_SCHEMA, make_answer_table

STATUSES = [Status.ANSWERED, Status.UNANSWERABLE, Status.ERROR]
TYPED = pa.table(typed_columns())
NONE = TYPED.select([])


def answer_rows(*rows: int, **changes: Any) -> list[Answer]:
    return [make_answer(row, STATUSES[row % 3], **changes) for row in rows]


def cut(rows: Sequence[int], sizes: Sequence[int]) -> Iterator[list[int]]:
    left = list(rows)
    for size in [*sizes, *[1] * len(left)]:
        if left and size:
            yield left[:size]
            left = left[size:]


def test_answers_come_in_the_order_of_rows_with_kept_columns(tmp_path: Path) -> None:
    kept = pa.concat_tables([TYPED] * 2)
    folder, manifest = make_job(
        tmp_path / "jobs",
        [answer_rows(0, 1, 2), answer_rows(3), answer_rows(*range(4, 10))],
        kept=kept,
    )
    summary = collect(folder, manifest, f"{tmp_path}/out.parquet", partial=False)
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.schema.names == [*ANSWER_SCHEMA.names, *TYPED.column_names]
    assert table.column("row").to_pylist() == list(range(10))
    assert table.column("status").to_pylist() == [str(STATUSES[row % 3]) for row in range(10)]
    assert values(table.select(TYPED.column_names)) == values(kept)
    assert (summary.rows, summary.answered, summary.unanswerable, summary.errors) == (10, 4, 3, 3)
    assert list(tmp_path.glob(".spanmill*")) == []


def test_the_books_lie_in_the_jobs_folder(tmp_path: Path) -> None:
    kept = pa.table({"k": [10, 11, 12, 13]})
    batches = [answer_rows(0, 1), answer_rows(2, 3)]
    folder, manifest = make_job(tmp_path / "jobs", batches, kept=kept, stats={"attempt": 3})
    collect(folder, manifest, manifest.output, partial=False)
    home = tmp_path / "jobs" / "job"
    assert pq.read_table(home / "errors.parquet").to_pylist() == [
        {"id": "q2", "row": 2, "error": "the question is empty", "attempts": 3, "k": 12}
    ]
    assert pq.read_table(home / "stats.parquet").column("batch").to_pylist() == [0, 1]
    summary = json.loads((home / "summary.json").read_text())
    assert summary["rows"] == 4
    assert summary["latency_ms"] == {"p50": 30.0, "p95": 30.0, "p99": 30.0}
    assert summary["output"] == manifest.output


def test_a_part_of_the_answers_leaves_the_books_of_the_whole_job_alone(tmp_path: Path) -> None:
    folder, manifest = make_job(tmp_path / "jobs", [answer_rows(0, 1), answer_rows(2, 3)])
    collect(folder, manifest, manifest.output, partial=False)
    home = tmp_path / "jobs" / "job"
    names = ("errors.parquet", "stats.parquet", "summary.json")
    before = {name: (home / name).read_bytes() for name in names}
    (home / "shards/0000/0000001.parquet").unlink()
    summary = collect(folder, manifest, f"{tmp_path}/part.parquet", partial=True)
    assert summary.rows == 2
    assert pq.read_metadata(tmp_path / "part.parquet").num_rows == 2
    assert {name: (home / name).read_bytes() for name in names} == before


def test_the_footer_says_what_judging_again_needs(tmp_path: Path) -> None:
    folder, manifest = make_job(tmp_path / "jobs", [answer_rows(0)], versions={"spanmill": "9"})
    collect(folder, manifest, manifest.output, partial=False)
    meta = read_answers_meta(Path(manifest.output))
    assert meta is not None
    assert (meta.job, meta.bundle, meta.bundle_name) == ("job", BUNDLE_DIGEST, "tiny")
    assert (meta.null_threshold, meta.calibration) == (0.0, CALIBRATION)
    assert meta.versions == {"spanmill": "9"}


def test_a_job_of_no_rows_gives_a_file_with_all_columns(tmp_path: Path) -> None:
    folder, manifest = make_job(tmp_path / "jobs", [], kept=TYPED.slice(0, 0))
    summary = collect(folder, manifest, manifest.output, partial=False)
    table = pq.read_table(manifest.output)
    assert table.num_rows == summary.rows == 0
    assert table.schema.names == [*ANSWER_SCHEMA.names, *TYPED.column_names]
    assert pq.read_table(tmp_path / "jobs" / "job" / "errors.parquet").num_rows == 0


def test_an_output_that_ends_in_a_slash_is_a_folder_of_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producer.collect.PART_ROWS", 4)
    folder, manifest = make_job(tmp_path / "jobs", [answer_rows(*range(6)), answer_rows(6, 7, 8)])
    collect(folder, manifest, f"{tmp_path}/out/", partial=False)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    assert pq.read_table(tmp_path / "out").column("row").to_pylist() == list(range(9))
    for name in names:
        assert read_answers_meta(tmp_path / "out" / name) is not None


def test_a_batch_that_is_missing_stops_it_and_the_old_output_stays(tmp_path: Path) -> None:
    folder, manifest = make_job(tmp_path / "jobs", [answer_rows(0, 1), answer_rows(2)])
    Path(manifest.output).write_bytes(b"old")
    (tmp_path / "jobs" / shard_key("job", 1)).unlink()
    with pytest.raises(JobError, match="the job job lacks its batch 1: resume it"):
        collect(folder, manifest, manifest.output, partial=False)
    assert Path(manifest.output).read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.parquet", "jobs"]
    summary = collect(folder, manifest, manifest.output, partial=True)
    assert summary.rows == 2


@pytest.mark.parametrize("second", [(3,), (1, 2), (2, 4), (3, 2)])
def test_shards_that_do_not_join_are_refused(tmp_path: Path, second: tuple[int, ...]) -> None:
    folder, manifest = make_job(tmp_path / "jobs", [answer_rows(0, 1), answer_rows(*second)])
    with pytest.raises(JobError, match="the shards of job do not join at row 2"):
        collect(folder, manifest, manifest.output, partial=False)


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    folder, manifest = make_job(tmp_path / "jobs", [answer_rows(0), answer_rows(1)])
    (tmp_path / "jobs" / shard_key("job", 1)).write_bytes(b"junk")
    with pytest.raises(JobError, match="a shard cannot be read"):
        collect(folder, manifest, manifest.output, partial=False)


def test_a_bundle_that_is_gone_is_named_before_anything_is_written(tmp_path: Path) -> None:
    folder, manifest = make_job(tmp_path / "jobs", [answer_rows(0)])
    (tmp_path / "jobs" / "bundles" / BUNDLE_DIGEST / "bundle.json").unlink()
    with pytest.raises(JobError, match=r"bundle\.json is missing beside the job"):
        collect(folder, manifest, manifest.output, partial=False)


def test_an_output_that_cannot_be_written_is_the_worlds_fault(tmp_path: Path) -> None:
    folder, manifest = make_job(tmp_path / "jobs", [answer_rows(0)])
    (tmp_path / "file").touch()
    with pytest.raises(
        WorldError, match=r"cannot write the answers to .*/file/x \(.+\): make room"
    ):
        collect(folder, manifest, f"{tmp_path}/file/x", partial=False)
    (tmp_path / "taken" / "x").mkdir(parents=True)
    with pytest.raises(WorldError, match="cannot write the answers"):
        collect(folder, manifest, f"{tmp_path}/taken", partial=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "jobs", "taken"]


def test_the_answers_file_is_whole_when_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, manifest = make_job(tmp_path / "jobs", [answer_rows(*range(30))])
    synced: list[str] = []
    real = answers_module.os.fsync
    monkeypatch.setattr(
        answers_module.os,
        "fsync",
        lambda descriptor: (
            synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name),
            real(descriptor),
        ),
    )
    collect(folder, manifest, manifest.output, partial=False)
    assert synced[0] == "part-00000.parquet"
    assert tmp_path.name in synced


parts = st.lists(st.integers(0, 5), max_size=8)


@given(st.integers(0, 25), st.sets(st.integers(0, 24)), parts, parts)
def test_laying_over_replaces_exactly_the_patched_rows(
    count: int, patched: set[int], base_sizes: list[int], patch_sizes: list[int]
) -> None:
    mine = sorted(row for row in patched if row < count)
    base = [make_answer_table(answer_rows(*rows), 1.0) for rows in cut(range(count), base_sizes)]
    patches = [
        make_answer_table([make_answer(row, warning="again") for row in rows], 2.0)
        for rows in cut(mine, patch_sizes)
    ]
    found = list(overlay(iter(base), iter(patches)))
    assert [table.num_rows for table in found] == [table.num_rows for table in base]
    expected = [
        make_answer(row, warning="again") if row in patched else answer_rows(row)[0]
        for row in range(count)
    ]
    rows = [row for table in found for row in table.to_pylist()]
    whole = make_answer_table(expected, 1.0).to_pylist() if expected else []
    for row, wanted in zip(rows, whole, strict=True):
        assert row == wanted | {"latency_ms": 2.0 if row["row"] in patched else 1.0}


def test_laying_over_keeps_columns_of_every_type(tmp_path: Path) -> None:
    base = make_answer_table(answer_rows(*range(5)), 1.0)
    patch = make_answer_table([make_answer(2), make_answer(4)], 1.0)
    for field, column in zip(TYPED.schema, TYPED.columns, strict=True):
        base = base.append_column(field, column)
        again = pa.concat_tables([TYPED.slice(2, 1), TYPED.slice(4, 1)]).column(field.name)
        patch = patch.append_column(field, again)
    (found,) = overlay(iter([base]), iter([patch]))
    assert found.schema.equals(base.schema)
    assert values(found.select(TYPED.column_names)) == values(TYPED)
    assert found.column("status").to_pylist()[2] == "answered"


def test_a_base_that_lacks_a_patched_row_loses_no_other(tmp_path: Path) -> None:
    base = [make_answer_table(answer_rows(0, 1), 1.0), make_answer_table(answer_rows(6, 7), 1.0)]
    patch = make_answer_table([make_answer(row, warning="again") for row in (1, 3, 7)], 1.0)
    rows = [row for table in overlay(iter(base), iter([patch])) for row in table.to_pylist()]
    assert [(row["row"], row["warning"]) for row in rows] == [
        (0, None), (1, "again"), (6, None), (7, "again"),
    ]  # fmt: skip


def test_a_retry_of_a_retry_gives_all_rows_with_the_newest_answers(tmp_path: Path) -> None:
    kept = pa.table({"k": pa.array([f"k{row}" for row in range(9)], pa.string_view())})
    parent, manifest = make_job(
        tmp_path / "jobs", [answer_rows(*range(4)), answer_rows(*range(4, 9))], kept=kept
    )
    for name, of, rows in (("child", "job", [2, 5, 8]), ("grandchild", "child", [5])):
        child, retried = make_job(tmp_path / "jobs", [], job=name, parent=of, kept=kept.slice(0, 0))
        taken = pa.table({"k": pa.array([f"k{row}" for row in rows], pa.string_view())})
        failed = [
            make_answer(row, Status.ERROR if (name, row) == ("child", 5) else Status.ANSWERED)
            for row in rows
        ]
        put_shard(child, 0, failed, taken)
        retried = replace(retried, batches=1, rows=len(rows))
        (tmp_path / "jobs" / name / "manifest.json").unlink()
        child.put_manifest(retried)
        summary = collect(child, retried, f"{tmp_path}/{name}.parquet", partial=False)
        table = pq.read_table(tmp_path / f"{name}.parquet")
        assert table.column("row").to_pylist() == list(range(9))
        assert table.column("k").to_pylist() == [f"k{row}" for row in range(9)]
        assert summary.rows == 9
        assert summary.errors == (1 if name == "child" else 0)
        errors = (
            pq.read_table(tmp_path / "jobs" / name / "errors.parquet").column("row").to_pylist()
        )
        assert errors == ([5] if name == "child" else [])
    assert collect(parent, manifest, manifest.output, partial=False).errors == 3
