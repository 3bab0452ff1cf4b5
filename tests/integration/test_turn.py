"""One message's way through a worker's process, with a real ledger and a real reader."""

import os
import signal
import time
from collections.abc import Callable

import pytest

from tests.desk import make_rows, wait_for
from tests.fleet import FleetDesk
from tests.perils import open_perilous_tools
from worker.attempts import MAX_NAMELESS_FAILURES
from worker.contracts import scripts
from worker.contracts.queue import WIRE_VERSION, Message
from worker.contracts.shard import open_shard
from worker.place import Place
from worker.task import Tools
from worker.tools import JobTools
from worker.turn import Clerk

Take = Callable[[], str]


@pytest.fixture
def publish(fleet: FleetDesk) -> Callable[..., Take]:
    """Publish eight rows, and return what takes the message of the first four."""

    def publish(
        peril: str = "",
        opening: Callable[[JobTools], Tools] = open_perilous_tools,
        hang_seconds: float = 300.0,
    ) -> Take:
        rows = make_rows(8)
        rows[1]["context"] += peril
        fleet.desk.write(rows)
        assert fleet.submit("--no-wait").status == 0
        place = Place("here", fleet.server.broker, str(fleet.desk.jobs), hang_seconds)
        clerk = Clerk(place, opening)
        message = Message(fleet.desk.job(), 0, 1, time.time(), WIRE_VERSION)

        def take() -> str:
            fleet.server.client.zadd(scripts.LEASES, {f"{message.job}:0": 1.0}, xx=True)
            return clerk.take(message, "here/1")

        return take

    return publish


def test_a_message_is_answered_once(fleet: FleetDesk, publish: Callable[..., Take]) -> None:
    take = publish()
    assert [take(), take()] == ["answered", "done"]
    counts = fleet.counts()
    assert counts is not None
    assert (counts.batches_done, counts.rows_done, counts.in_flight) == (1, 4, 1)


def test_a_lost_ledger_counts_a_shard_that_is_there(
    fleet: FleetDesk, publish: Callable[..., Take]
) -> None:
    take = publish()
    assert take() == "answered"
    fleet.server.client.flushall()
    assert take() == "gone"
    assert fleet.submit("--no-wait").status == 0
    counts = fleet.counts()
    assert counts is not None
    assert (counts.batches_done, counts.rows_done) == (1, 4)


def test_a_batch_that_fails_before_a_row_is_read_is_given_up_in_the_end(
    fleet: FleetDesk, publish: Callable[..., Take]
) -> None:
    take = publish("<<raise@start>>")
    assert [take() for _ in range(MAX_NAMELESS_FAILURES)] == ["failed"] * MAX_NAMELESS_FAILURES
    assert take() == "answered"
    (path,) = fleet.desk.jobs.glob("*/shards/*/*.parquet")
    stats = open_shard(path.read_bytes())[0].stats
    assert (stats.rows, stats.errors, stats.attempt) == (4, 4, MAX_NAMELESS_FAILURES + 1)


def test_a_row_that_fails_is_an_error_and_its_neighbours_are_answered(
    fleet: FleetDesk, publish: Callable[..., Take]
) -> None:
    take = publish("<<raise@score>>")
    assert take() == "failed"
    assert take() == "answered"
    counts = fleet.counts()
    assert counts is not None
    assert (counts.rows_done, counts.errors) == (4, 1)


def test_a_reader_that_cannot_be_opened_pauses_the_job_with_the_reason(
    fleet: FleetDesk, publish: Callable[..., Take]
) -> None:
    def opening(_: JobTools) -> Tools:
        raise AttributeError("a library has changed")

    take = publish(opening=opening)
    assert take() == "paused"
    counts = fleet.counts()
    assert counts is not None
    assert not counts.stuck  # that may have been a moment's trouble
    assert fleet.desk.states()[-1] == "running"
    about = f"spanmill:{{{fleet.desk.job()}}}:about"
    fleet.server.client.hset(about, "troubled", str(time.time() - scripts.STUCK_SECONDS - 1))
    assert take() == "paused"
    counts = fleet.counts()
    assert counts is not None
    assert counts.stuck
    assert "it cannot begin (AttributeError: a library has changed)" in (counts.trouble or "")
    assert fleet.desk.states()[-1] == "paused"


def test_a_job_that_cannot_go_on_here_holds_up_no_other_and_uses_no_attempt(
    fleet: FleetDesk,
) -> None:
    fleet.desk.write(make_rows(8))
    for job, alternatives in (("well", 0), ("sick", 1)):
        words = ("--job-id", job, "--top-k", alternatives, "--out", f"{job}.parquet")
        assert fleet.submit("--no-wait", *words).status == 0
    is_broken = True

    def opening(recipe: JobTools) -> Tools:
        if is_broken and recipe.reading.top_k == 1:
            raise OSError("a library is gone")
        return open_perilous_tools(recipe)

    clerk = Clerk(Place("here", fleet.server.broker, str(fleet.desk.jobs)), opening)

    def take(job: str, batch: int) -> str:
        return clerk.take(Message(job, batch, 1, time.time(), WIRE_VERSION), f"here/{job}")

    assert [take("sick", 0), take("sick", 1), take("well", 0)] == ["paused", "held", "answered"]
    counts = fleet.ledger.count("sick")
    assert counts is not None
    assert "a library is gone" in (counts.trouble or "")
    assert (counts.in_flight, counts.busy) == (2, 0)
    assert fleet.ledger.begin("sick", 1, "elsewhere").turn == "leased"  # not before its time
    is_broken = False
    for batch in (0, 1):
        wait_for(lambda: take("sick", batch) == "answered", "it goes on")  # noqa: B023
    shards = fleet.desk.jobs.glob("sick/shards/*/*.parquet")
    assert [open_shard(path.read_bytes())[0].stats.attempt for path in shards] == [1, 1]


def test_a_process_that_stood_still_commits_nothing_to_a_job_begun_anew(
    fleet: FleetDesk, publish: Callable[..., Take], monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin_anew(recipe: JobTools) -> Tools:
        path = fleet.desk.jobs / fleet.desk.job() / "manifest.json"
        path.write_text(path.read_text().replace('"created_at": "20', '"created_at": "19'))
        monkeypatch.setattr("worker.lease.LEASE_SECONDS", 0.0)  # as if much time had passed
        return open_perilous_tools(recipe)

    take = publish(opening=begin_anew)
    assert take() == "paused"
    counts = fleet.counts()
    assert counts is not None
    assert "was begun anew meanwhile" in (counts.trouble or "")
    assert not fleet.desk.shards()


def test_a_batch_that_hangs_while_no_row_is_read_costs_none(
    fleet: FleetDesk, publish: Callable[..., Take]
) -> None:
    take = publish("<<hang@start>>", hang_seconds=1.0)
    for _ in range(2):
        assert end_of(take) == -signal.SIGKILL
    counts = fleet.counts()
    assert counts is not None
    assert "storing a batch takes too long" in (counts.trouble or "")
    assert read_deaths(fleet) == []


def test_a_reader_that_hangs_as_it_is_opened_has_its_time_and_then_stops_the_job(
    fleet: FleetDesk, publish: Callable[..., Take], monkeypatch: pytest.MonkeyPatch
) -> None:
    def opening(_: JobTools) -> Tools:
        time.sleep(1e6)
        raise AssertionError

    monkeypatch.setattr("worker.lease.START_SECONDS", 4.0)
    take = publish(opening=opening, hang_seconds=1.0)
    began = time.monotonic()
    assert end_of(take) == -signal.SIGKILL
    assert time.monotonic() - began > 4.0
    assert end_of(take) == -signal.SIGKILL
    counts = fleet.counts()
    assert counts is not None
    assert "a process hung before it read a row" in (counts.trouble or "")
    assert read_deaths(fleet) == [b"hung;-"] * 2


def end_of(take: Take) -> int:
    """Take a message in a process of its own, and return how that ended."""
    pid = os.fork()
    if pid == 0:
        take()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def read_deaths(fleet: FleetDesk) -> list[bytes]:
    key = f"spanmill:{{{fleet.desk.job()}}}:deaths:0"
    found: list[bytes] = fleet.server.client.lrange(key, 0, -1)
    return found


def test_a_payload_that_is_none_is_asked_for_again(
    fleet: FleetDesk, publish: Callable[..., Take]
) -> None:
    take = publish()
    fleet.server.client.set(f"spanmill:{{{fleet.desk.job()}}}:payload:0", b"garbage")
    assert take() == "unreadable"
    counts = fleet.counts()
    assert counts is not None
    assert (counts.wanted, counts.in_flight) == (1, 1)
    assert fleet.submit("--no-wait").status == 0
    assert take() == "answered"
