"""A job in an object store is held by one command, until it ends, dies or falls silent."""

import multiprocessing
from pathlib import Path

import msgspec
import pytest

from producer.lease import Holder, Lease
from producer.lock import LOCK, hold, is_held
from tests.desk import wait_for
from tests.s3_server import S3, Relay
from worker.contracts.errors import JobError
from worker.contracts.object_store import ObjectStore, open_store

KEY = f"job/{LOCK}"
FOREIGN = Holder("t", "elsewhere", 7, "another kernel", "1")


@pytest.fixture
def store(s3: S3) -> ObjectStore:
    made = open_store(f"{s3.url}/jobs")
    assert isinstance(made, ObjectStore)
    return made


def _hold_until_told(root: str, said: "multiprocessing.connection.Connection") -> None:
    with hold(open_store(root), "job"):
        said.send("held")
        said.recv()


def test_a_job_is_held_by_one_process_until_it_dies(store: ObjectStore) -> None:
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    other = context.Process(target=_hold_until_told, args=(store.name, theirs), daemon=True)
    other.start()
    assert ours.recv() == "held"
    assert is_held(store, "job")
    with (
        pytest.raises(JobError, match=rf"is being run by process {other.pid} of .*: follow it"),
        hold(store, "job"),
    ):
        pass
    other.kill()
    other.join()
    assert not is_held(store, "job"), "a process of this machine is known to be dead"
    with hold(store, "job"):
        assert is_held(store, "job")
    assert not is_held(store, "job")


def test_a_job_of_which_nothing_was_written_leaves_nothing(store: ObjectStore, s3: S3) -> None:
    with hold(store, "job"):
        pass
    assert s3.list() == []
    with hold(store, "job"):
        store.put_new("job/manifest.json", b"{}")
    with hold(store, "job"):
        pass
    assert "jobs/job/manifest.json" in s3.list()


def test_a_holder_elsewhere_that_falls_silent_lapses(store: ObjectStore) -> None:
    store.put_new(KEY, msgspec.json.encode(FOREIGN))
    assert Lease(store, KEY).take() == FOREIGN
    heir = Lease(store, KEY, seconds=3.0)
    wait_for(lambda: heir.find_holder() is None, "it lapses")
    assert heir.take() is None
    assert Lease(store, KEY).find_holder() is not None
    heir.release()


def test_a_holder_renews_its_lease(store: ObjectStore) -> None:
    lease = Lease(store, KEY, seconds=6.0)
    assert lease.take() is None
    first = store.look(KEY)
    assert first is not None
    wait_for(
        lambda: (now := store.look(KEY)) and now[1].changed_at > first[1].changed_at, "renewed"
    )
    assert Lease(store, KEY, seconds=6.0).find_holder() is not None
    lease.release()


def test_whoever_was_out_of_reach_too_long_learns_that_it_lost(
    s3: S3, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    through = open_store(f"{s3.url}/jobs")
    assert isinstance(through, ObjectStore)
    lease = Lease(through, KEY, seconds=6.0)
    assert lease.take() is None
    relay.cut()
    s3.put(f"jobs/{KEY}", msgspec.json.encode(FOREIGN))  # as whoever can reach the store does
    assert not lease.is_lost()
    relay.mend()
    wait_for(lease.is_lost, "it learns that the job was taken")
    lease.release()
    assert msgspec.json.decode(s3.read(f"jobs/{KEY}"), type=Holder) == FOREIGN


def test_garbage_in_the_lock_is_a_free_lock(store: ObjectStore) -> None:
    store.put_new(KEY, b"\xff")
    with hold(store, "job"):
        assert is_held(store, "job")


def test_a_local_path_knows_no_lease(tmp_path: Path) -> None:
    with hold(open_store(str(tmp_path)), "job") as is_lost:
        assert not is_lost()
