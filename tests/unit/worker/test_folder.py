"""A job's folder: its state is its last event, and a batch is done when its shard is there."""

import json
from pathlib import Path

import pytest

from tests.making import make_manifest
from worker.contracts.errors import JobError, UsageError
from worker.contracts.folder import JobFolder, list_jobs
from worker.contracts.job import State, encode_manifest, shard_key
from worker.contracts.store import LocalStore


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    return JobFolder(LocalStore(tmp_path), "job")


def test_a_manifest_is_put_once(folder: JobFolder) -> None:
    first = make_manifest("job", "o", 1, 1)
    assert folder.read_manifest() is None
    assert folder.put_manifest(first)
    assert not folder.put_manifest(make_manifest("job", "o", 2, 1))
    assert folder.need_manifest() == first


def test_a_job_that_is_none_and_one_that_was_never_validated_are_told_apart(
    folder: JobFolder,
) -> None:
    with pytest.raises(JobError, match="there is no job 'job' here"):
        folder.need_manifest()
    folder.put_event(State.VALIDATING)
    with pytest.raises(JobError, match="job ended before its input was checked: give its whole"):
        folder.need_manifest()


def test_another_jobs_manifest_is_refused(folder: JobFolder) -> None:
    folder.store.put_new("job/manifest.json", encode_manifest(make_manifest("old", "o", 1, 1)))
    with pytest.raises(JobError, match="the folder job holds the job 'old'"):
        folder.read_manifest()


def test_the_state_is_the_last_event(folder: JobFolder) -> None:
    assert folder.read_state() is None
    assert folder.read_events() == []
    folder.put_event(State.VALIDATING)
    folder.put_event(State.RUNNING)
    folder.put_event(State.PAUSED, "the disk is full")
    assert folder.read_state() is State.PAUSED
    assert [(one.state, one.reason) for one in folder.read_events()] == [
        (State.VALIDATING, None), (State.RUNNING, None), (State.PAUSED, "the disk is full"),
    ]  # fmt: skip
    assert folder.store.names("job/events") == [
        "0001-validating.json", "0002-running.json", "0003-paused.json",
    ]  # fmt: skip


def test_the_same_state_is_written_again_only_for_a_reason(folder: JobFolder) -> None:
    folder.put_event(State.FAILED, "one")
    folder.put_event(State.FAILED)
    folder.put_event(State.FAILED, "two")
    assert [one.reason for one in folder.read_events()] == ["one", "two"]
    assert folder.count_events(State.FAILED) == 2
    assert folder.count_events(State.RUNNING) == 0


def test_events_beyond_four_digits_are_later(folder: JobFolder) -> None:
    for name in ("9999-running", "10000-failed", "0002-validating"):
        raw = json.dumps({"state": name.split("-")[1], "at": "2026-01-01"}).encode()
        folder.store.put_new(f"job/events/{name}.json", raw)
    assert folder.read_state() is State.FAILED
    assert folder.read_events()[-1].state is State.FAILED
    folder.put_event(State.RUNNING)
    assert folder.store.exists("job/events/10001-running.json")


def test_a_name_that_is_taken_meanwhile_is_passed_over(folder: JobFolder) -> None:
    folder.put_event(State.RUNNING)
    names = folder.store.names("job/events")
    stale = JobFolder(LocalStore(folder.store.root), "job")  # type: ignore[attr-defined]
    stale._events = lambda: [(1, State.RUNNING)]  # type: ignore[method-assign]
    folder.put_event(State.PAUSED, "first")
    stale.put_event(State.PAUSED, "second")
    assert [one.reason for one in folder.read_events()] == [None, "first", "second"]
    assert names == ["0001-running.json"]


def test_foreign_files_are_passed_over(folder: JobFolder) -> None:
    folder.put_event(State.RUNNING)
    foreign = ("events/.swp", "events/0009-running.json~", "events/0009-dreaming.json")
    foreign += ("shards/notes/x", "shards/0000/x.parquet", "shards/0000/0000001.parquet.bak")
    for name in foreign:
        folder.store.put_new(f"job/{name}", b"junk")
    folder.store.put_new(shard_key("job", 0), b"")
    assert folder.read_state() is State.RUNNING
    assert list(folder.iter_done()) == [0]


def test_a_damaged_event_is_refused(folder: JobFolder) -> None:
    folder.store.put_new("job/events/0001-running.json", b"{")
    with pytest.raises(JobError, match=r"0001-running.json is not an event"):
        folder.read_events()


def test_done_batches_are_found_in_order(folder: JobFolder) -> None:
    numbers = [0, 7, 999, 1000, 1999, 10_000, 9_999_999, 10_000_000]
    for number in reversed(numbers):
        folder.store.put_new(shard_key("job", number), str(number).encode())
    assert list(folder.iter_done()) == numbers
    assert folder.list_done(0) == {0, 7, 999}
    assert folder.list_done(5) == frozenset()
    assert folder.need_shard(1999) == b"1999"
    assert folder.need_tail(1999, 2) == b"99"
    with pytest.raises(JobError, match="job lacks its batch 8: resume it"):
        folder.need_shard(8)


def test_jobs_are_the_folders_with_events_or_a_manifest(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    JobFolder(store, "a").put_event(State.VALIDATING)
    JobFolder(store, "b").put_manifest(make_manifest("b", "o", 1, 1))
    for key in ("bundles/x/manifest.json", "notes/readme", "My App/manifest.json", "file"):
        store.put_new(key, b"")
    assert list_jobs(store) == ["a", "b"]


def test_a_name_that_is_no_job_id_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        JobFolder(LocalStore(tmp_path), "../other")
