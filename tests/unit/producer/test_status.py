"""A job's status: what its folder says, each shard looked at once."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from producer.lock import hold
from producer.status import StatusReader, find_store
from tests.making import make_answer, make_job, put_shard, typed_columns
from worker.contracts.errors import JobError, UsageError
from worker.contracts.folder import JobFolder
from worker.contracts.job import State, shard_key
from worker.contracts.records import Status
from worker.contracts.store import LocalStore

NONE = pa.table(typed_columns()).select([])
GOOD = [make_answer(row) for row in range(4)]
BAD = [make_answer(4), make_answer(5, Status.ERROR)]


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    folder, _ = make_job(tmp_path, [GOOD, BAD])
    for number in range(2):
        (tmp_path / shard_key("job", number)).unlink()
    folder.put_event(State.VALIDATING)
    folder.put_event(State.RUNNING)
    return folder


def at(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat(timespec="milliseconds")


def put(folder: JobFolder, number: int, answers: Any, **stats: Any) -> None:
    put_shard(folder, number, answers, NONE, **stats)


def test_a_running_job_tells_its_progress(folder: JobFolder, tmp_path: Path) -> None:
    reader = StatusReader(folder)
    with hold(folder.store, "job"):
        found = reader.read()
        assert (found.state, found.rows, found.rows_done, found.batches_done) == (
            "running",
            6,
            0,
            0,
        )
        assert (found.seconds_left, found.in_flight, found.reason) == (None, None, None)
        put(folder, 0, GOOD, started_at=at(1), tokenize_ms=0, inference_ms=2000, decode_ms=0)
        found = reader.read()
        assert (found.rows_done, found.errors, found.batches_done, found.batches) == (4, 0, 1, 2)
        assert found.rows_per_second == pytest.approx(2.0)
        assert found.seconds_left == pytest.approx(1.0)
        assert found.workers == 1
        put(folder, 1, BAD, started_at=at(1), pid=8)
        found = reader.read()
        assert (found.rows_done, found.errors, found.batches_done, found.workers) == (6, 1, 2, 2)


def test_a_job_that_nobody_runs_says_how_to_go_on(folder: JobFolder, tmp_path: Path) -> None:
    put(folder, 1, BAD)
    found = StatusReader(folder).read()
    assert found.state == "running"
    assert found.reason is not None
    assert "no command runs it" in found.reason
    assert f"spanmill resume job --jobs-root {tmp_path}" in found.reason
    assert (found.workers, found.in_flight, found.seconds_left) == (0, 0, None)


def test_a_finished_job_has_no_time_left(folder: JobFolder, tmp_path: Path) -> None:
    for number, answers in enumerate((GOOD, BAD)):
        put(folder, number, answers)
    folder.put_event(State.COMPLETED_WITH_ERRORS)
    found = StatusReader(folder).read()
    assert (found.state, found.seconds_left, found.errors) == ("completed_with_errors", 0.0, 1)


def test_a_pause_tells_its_reason(folder: JobFolder, tmp_path: Path) -> None:
    folder.put_event(State.PAUSED, "the disk is full")
    with hold(folder.store, "job"):
        assert StatusReader(folder).read().reason == "the disk is full"


def test_each_shard_is_read_once(folder: JobFolder, tmp_path: Path) -> None:
    put(folder, 0, GOOD)
    reader = StatusReader(folder)
    reader.read()
    (tmp_path / shard_key("job", 0)).write_bytes(b"junk")
    assert reader.read().rows_done == 4
    with pytest.raises(JobError, match=r"0000000\.parquet: a shard cannot be read .+: delete it"):
        StatusReader(folder).read()


def test_of_a_shard_its_footer_alone_is_read(folder: JobFolder, tmp_path: Path) -> None:
    put(folder, 0, GOOD)
    put(folder, 1, BAD)

    class FootersOnly(LocalStore):
        def read(self, key: str) -> bytes | None:
            assert not key.endswith(".parquet"), "a shard may be large, and there may be millions"
            return super().read(key)

    found = StatusReader(JobFolder(FootersOnly(tmp_path), "job")).read()
    assert (found.rows_done, found.errors) == (6, 1)


def test_a_look_writes_nothing(folder: JobFolder, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    StatusReader(folder).read()
    assert sorted(tmp_path.rglob("*")) == before


def test_the_jobs_folder_is_the_one_named_or_the_one_here(
    folder: JobFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_store(str(tmp_path), "job").name == str(tmp_path)
    with pytest.raises(UsageError, match="there is no jobs' folder spanmill-jobs"):
        find_store(None, "job")
    with pytest.raises(UsageError, match="there is no job 'none' in"):
        find_store(str(tmp_path), "none")
    with pytest.raises(UsageError, match=r"'\.\./x' is no job id"):
        find_store(str(tmp_path), "../x")


@pytest.mark.parametrize("empty", ["", "file://"])
def test_a_jobs_folder_without_a_name_is_not_the_one_here(empty: str) -> None:
    with pytest.raises(UsageError, match="--jobs-root is empty"):
        find_store(empty, None)
