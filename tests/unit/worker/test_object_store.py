"""Jobs in an object store: names are put once, and what goes wrong is said in one sentence."""

import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from tests.s3_server import S3, Relay
from worker.contracts.bucket import Bucket, open_bucket
from worker.contracts.errors import InputError, UsageError, WorldError
from worker.contracts.object_file import open_object
from worker.contracts.object_store import ObjectStore, open_store
from worker.contracts.store import LocalStore, Store


@pytest.fixture(params=["s3", "memory"])
def store(request: pytest.FixtureRequest) -> ObjectStore:
    """A store under a prefix: at a server, and in this process."""
    if request.param == "memory":
        return ObjectStore(Bucket("memory://", MemoryStore()), "jobs")
    s3: S3 = request.getfixturevalue("s3")
    made = open_store(f"{s3.url}/some/jobs")
    assert isinstance(made, ObjectStore)
    return made


def test_a_name_is_put_once_and_the_first_writer_wins(store: ObjectStore) -> None:
    assert store.put_new("job/shards/0000/0000001.parquet", b"first")
    assert not store.put_new("job/shards/0000/0000001.parquet", b"second")
    assert store.read("job/shards/0000/0000001.parquet") == b"first"


def test_of_many_writers_one_wins() -> None:
    store = ObjectStore(Bucket("memory://", MemoryStore()), "")
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda number: store.put_new("k", b"%d" % number), range(32)))
    assert won.count(True) == 1
    assert store.read("k") == b"%d" % won.index(True)


def test_what_is_not_there_is_none_and_lists_nothing(store: ObjectStore) -> None:
    assert store.read("none") is None
    assert store.read_tail("none", 9) is None
    assert store.open("none") is None
    assert not store.exists("none")
    assert store.names("none") == []
    store.remove("none")


def test_names_are_those_directly_in_a_folder(store: ObjectStore) -> None:
    for key in ("job/manifest.json", "job/shards/0000/b", "job/shards/0000/a", "jobs/x", "top"):
        store.put_new(key, b"1")
    assert store.names("") == ["job", "jobs", "top"]
    assert store.names("job") == ["manifest.json", "shards"]
    assert store.names("job/shards/0000") == ["a", "b"]


def test_a_folder_is_removed_with_all_in_it_and_nothing_beside(store: ObjectStore) -> None:
    for key in ("job/shards/0000/a", "job/shards/0001/b", "job/shards-too", "job2/shards/c"):
        store.put_new(key, b"1")
    store.remove("job/shards")
    assert store.names("job") == ["shards-too"]
    assert store.exists("job2/shards/c")
    store.remove("job/shards-too")
    assert store.names("") == ["job2"]


def test_a_folder_of_many_objects_is_removed_by_few_requests(s3: S3, relay: Relay) -> None:
    for number in range(30):
        s3.put(f"jobs/job/shards/0000/{number}", b"1")
    s3.put("jobs/job/manifest.json", b"1")
    open_store(f"{s3.url}/jobs").remove("job/shards")
    assert s3.list() == ["jobs/job/manifest.json"]
    assert 1 < len(relay.asked) < 5, relay.asked


def test_tails_are_as_long_as_was_asked_or_the_whole(store: ObjectStore) -> None:
    store.put_new("k", b"0123456789")
    store.put_new("empty", b"")
    assert store.read_tail("k", 4) == b"6789"
    assert store.read_tail("k", 40) == b"0123456789"
    assert store.read_tail("empty", 4) == b""


def test_a_large_file_is_put_in_parts_in_place_of_the_old_one(
    store: ObjectStore, tmp_path: Path
) -> None:
    raw = os.urandom(9 * 1024 * 1024)
    (tmp_path / "large").write_bytes(raw)
    store.put_new("large", b"old")
    store.put_file("large", tmp_path / "large")
    assert store.read("large") == raw
    stream = store.open("large")
    assert stream is not None
    stream.seek(-7, io.SEEK_END)
    assert stream.read() == raw[-7:]


def test_an_object_is_replaced_only_as_it_was_seen(store: ObjectStore) -> None:
    store.put_new("lock", b"mine")
    first = store.look("lock")
    assert first is not None
    assert store.replace(first[1], b"mine still")
    assert not store.replace(first[1], b"too late")
    assert store.read("lock") == b"mine still"


def test_a_store_that_refuses_second_writers_is_fit_for_jobs(store: ObjectStore) -> None:
    store.prove()
    assert store.names("") == []


def test_the_kind_of_a_root_chooses_its_store(tmp_path: Path, s3: S3) -> None:
    store: Store = open_store(f"{s3.url}/jobs/")
    assert store.name == f"{s3.url}/jobs"
    for root in (str(tmp_path), f"file://{tmp_path}"):
        store = open_store(root)
        assert isinstance(store, LocalStore)
        assert store.root == tmp_path
    for wrong in ("memory://x", "http://host/x", "s3:///key", "file://host/x"):
        with pytest.raises(UsageError, match=r": (give|write)"):
            open_store(wrong)


def test_a_bucket_that_is_not_there_is_named(s3: S3) -> None:
    store = open_store("s3://no-such-bucket/jobs")
    why = r"\(there is no such bucket\): make the bucket s3://no-such-bucket"
    with pytest.raises(WorldError, match=rf"cannot write s3://no-such-bucket/jobs/k {why}"):
        store.put_new("k", b"1")
    with pytest.raises(WorldError, match=rf"cannot read .* {why}"):
        store.read("k")
    with pytest.raises(WorldError, match=rf"cannot list .* {why}"):
        store.names("")


def test_credentials_that_nobody_knows_are_refused(s3: S3) -> None:
    store = open_store(f"{s3.url}/jobs")
    s3.demand_credentials(yes=True)
    try:
        with pytest.raises(WorldError, match=r"\(403 Forbidden\): check the credentials"):
            store.put_new("k", b"1")
    finally:
        s3.demand_credentials(yes=False)


@pytest.mark.parametrize("fault", ["cut", "503 Slow Down"])
def test_a_store_that_fails_is_the_worlds_fault_until_it_is_back(
    s3: S3, relay: Relay, fault: str
) -> None:
    store = open_store(f"{s3.url}/jobs")
    assert store.put_new("k", b"1")
    if fault == "cut":
        relay.cut()
    else:
        relay.refuse(fault)
    for ask in (lambda: store.read("k"), lambda: store.put_new("j", b"1"), lambda: store.names("")):
        with pytest.raises(WorldError, match=r"cannot .*: check ") as raised:
            ask()
        assert fault == "cut" or "503" in str(raised.value)
    relay.mend()
    assert store.read("k") == b"1"
    assert store.names("") == ["k"]


def test_the_end_of_an_object_is_read_without_the_rest(s3: S3, relay: Relay) -> None:
    s3.put("large", os.urandom(8 * 1024 * 1024))
    bucket = open_bucket(s3.url)
    stat = bucket.stat("large")
    assert stat is not None
    with open_object(bucket, stat) as stream:
        stream.seek(-100_000, io.SEEK_END)
        assert len(stream.read()) == 100_000
    assert relay.passed_bytes < 1024 * 1024


def test_an_object_that_changes_while_it_is_read_is_refused(s3: S3) -> None:
    s3.put("k", b"a" * 3_000_000)
    bucket = open_bucket(s3.url)
    stat = bucket.stat("k")
    assert stat is not None
    with open_object(bucket, stat) as stream:
        assert stream.read(10) == b"a" * 10
        s3.put("k", b"b" * 3_000_000)
        with pytest.raises(InputError, match="has changed while it was read"):
            stream.read()


def test_a_reader_waits_for_its_store(s3: S3, relay: Relay) -> None:
    s3.put("k", b"a" * 3_000_000)
    bucket = open_bucket(s3.url)
    stat = bucket.stat("k")
    assert stat is not None
    heard: list[int] = []

    def wait(error: WorldError, failures: int) -> None:
        heard.append(failures)
        if failures == 2:
            relay.mend()

    relay.cut()
    with open_object(bucket, stat, wait) as stream:
        assert stream.read() == b"a" * 3_000_000
    assert heard == [1, 2]
