"""A producer's dealings with a job's folder and a ledger that others change meanwhile."""

import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from producer.diary import Diary
from producer.meter import Meter
from producer.progress import Progress
from producer.publish import Fleet, open_fleet
from producer.run import Published, Run
from tests.desk import make_rows, wait_for
from tests.fleet import FleetDesk
from tests.perils import open_perilous_tools
from tests.redis_server import RedisServer
from worker.contracts import scripts
from worker.contracts.broker import Broker
from worker.contracts.flight import MAX_BATCHES, MAX_BYTES, About, Counts
from worker.contracts.folder import JobFolder
from worker.contracts.ledger import Ledger
from worker.contracts.object_store import open_store
from worker.contracts.queue import WIRE_VERSION, Message
from worker.log import Log
from worker.place import Place
from worker.turn import Clerk

BATCHES = 2


class BusyFolder(JobFolder):
    """A job's folder, of which another batch is answered each time its shards were listed."""

    def __init__(self, fleet: FleetDesk) -> None:
        """Take the only job of a fleet."""
        super().__init__(open_store(str(fleet.desk.jobs)), fleet.desk.job())
        place = Place("here", fleet.server.broker, str(fleet.desk.jobs))
        self._clerk = Clerk(place, open_perilous_tools)
        self._next = 0

    def iter_done(self) -> Iterator[int]:
        """Yield what is done; what is answered then is not among it."""
        listed = list(super().iter_done())
        self.answer_next()
        yield from listed

    def answer_next(self) -> None:
        """Answer the next batch, as a worker does."""
        if self._next < BATCHES:
            message = Message(self.job, self._next, 1, time.time(), WIRE_VERSION)
            assert self._clerk.take(message, "here/1") == "answered"
            self._next += 1


class LeavingLedger(Ledger):
    """A ledger whose broker goes away just before the job is forgotten."""

    def __init__(self, broker: Broker, server: RedisServer) -> None:
        """Take the broker, and its server to stop."""
        super().__init__(broker)
        self._server = server

    def forget(self, job: str) -> None:
        """Forget a job, too late."""
        self._server.stop()
        super().forget(job)


@pytest.fixture
def folder(fleet: FleetDesk) -> BusyFolder:
    fleet.desk.write(make_rows(4 * BATCHES))
    assert fleet.submit("--no-wait").status == 0
    return BusyFolder(fleet)


def open_publisher(fleet: FleetDesk, *, wait: bool) -> Fleet:
    room = (MAX_BATCHES, MAX_BYTES)
    return open_fleet(fleet.server.url, "default", room, Meter(Log()), wait=wait)


def answer(fleet: Fleet, folder: JobFolder) -> None:
    manifest = folder.need_manifest()
    run = Run(folder, manifest, fleet.answer, 0.0, Progress(manifest.rows), lambda: False)
    fleet.answer(run, Diary(folder))


def begin_anew(fleet: FleetDesk) -> None:
    """Let the job in the folder be another than the one at the broker, of the same name."""
    path = fleet.desk.jobs / fleet.desk.job() / "manifest.json"
    path.write_text(path.read_text().replace('"created_at": "20', '"created_at": "19'))


def need_counts(fleet: FleetDesk) -> Counts:
    counts = fleet.counts()
    assert counts is not None
    return counts


def test_a_batch_done_while_shards_are_listed_is_not_taken_for_a_deleted_one(
    fleet: FleetDesk, folder: BusyFolder
) -> None:
    with pytest.raises(Published):
        answer(open_publisher(fleet, wait=False), folder)
    assert need_counts(fleet).batches_done == BATCHES


def test_a_broker_that_leaves_after_the_last_batch_fails_no_job(
    fleet: FleetDesk, folder: BusyFolder
) -> None:
    publisher = open_publisher(fleet, wait=True)
    leaving = LeavingLedger(fleet.server.broker, fleet.server)
    answer(replace(publisher, ledger=leaving), folder)
    assert list(folder.iter_done()) == [0, 1]


def test_a_payload_that_found_no_room_is_not_sent_until_there_is_some(fleet: FleetDesk) -> None:
    rows = make_rows(8)
    # Of the second batch, and hard to compress.
    letters = np.random.default_rng(7).integers(0x4E00, 0x9FA0, 100_000)
    rows[4]["context"] = "".join(map(chr, letters.tolist()))
    fleet.desk.write(rows)
    submitted = fleet.start("--in-flight-batches", "1")
    wait_for(lambda: (one := fleet.counts()) and one.in_flight == 1, "the first is published")
    client = fleet.server.client

    def received() -> int:
        return int(client.info("stats")["total_net_input_bytes"])

    wait_for(lambda: client.zscore(scripts.PRODUCERS, fleet.desk.job()), "it wants room")
    time.sleep(1.0)
    before = received()
    time.sleep(2.0)
    assert received() - before < 100_000  # of 40 tries or so
    submitted.kill()


def test_shards_that_came_without_the_broker_are_kept(fleet: FleetDesk, folder: BusyFolder) -> None:
    folder.answer_next()
    begin_anew(fleet)  # what is there is of the new job, as after `answer --overwrite`
    before = fleet.desk.shards()
    assert fleet.submit("--no-wait").status == 0
    assert fleet.desk.shards() == before
    assert need_counts(fleet).batches_done == 1


def test_a_shard_that_was_deleted_is_asked_for_again_and_one_too_many_is_not_counted(
    fleet: FleetDesk, folder: BusyFolder
) -> None:
    folder.answer_next()
    folder.answer_next()
    assert need_counts(fleet).batches_done == BATCHES
    shards = fleet.desk.jobs / fleet.desk.job() / "shards/0000"
    (shards / "0000001.parquet").rename(shards / f"000000{BATCHES}.parquet")
    assert fleet.submit("--no-wait").status == 0
    counts = need_counts(fleet)
    assert (counts.batches_done, counts.in_flight) == (1, 1)


def test_a_job_of_another_folder_with_the_same_name_is_left_alone(
    fleet: FleetDesk, folder: BusyFolder
) -> None:
    about = About(folder.job, "spanmill-default-v1", "another folder's token", "before", BATCHES)
    fleet.ledger.forget(folder.job)
    fleet.ledger.open_job(about)
    ran = fleet.submit("--no-wait")
    assert ran.status == 1
    assert "give this one another name by --job-id" in ran.err
    counts = need_counts(fleet)
    assert (counts.root, counts.made, counts.cancelled) == (about.root, about.made, False)
