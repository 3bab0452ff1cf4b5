"""What breaks while a fleet answers: every row once, in order, with the answers of a quiet run."""

import base64
import json
import os
import pickle
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from celery import Celery

from tests.desk import ROWS, Row, make_rows, wait_for
from tests.fleet import PERILOUS, FleetDesk
from worker.contracts.queue import Message, make_app, name_queue, send
from worker.contracts.resend import Resender

#: Lies in the second of twelve batches.
HELD_ROW = 6
TAKEN_OVER_SECONDS = 20.0


class Gate:
    """Holds a worker in the middle of a batch until it is opened."""

    def __init__(self, fleet: FleetDesk) -> None:
        self.path = fleet.desk.folder / "gate"
        rows = make_rows(ROWS)
        rows[HELD_ROW]["context"] += f" <<gate@score:{self.path}>>"
        fleet.desk.write(rows)
        ran = fleet.desk.answer("--out", "quiet.parquet", "--jobs-root", "quiet-jobs")
        assert ran.status == 0, ran.err
        self.answers = fleet.desk.answers("quiet.parquet")

    def open(self) -> None:
        self.path.touch()


@pytest.fixture
def gate(fleet: FleetDesk) -> Gate:
    return Gate(fleet)


def wait_until_held(fleet: FleetDesk) -> None:
    """Wait until the held batch is all that is left."""

    def is_held() -> bool:
        counts = fleet.counts()
        return counts is not None and (counts.in_flight, counts.busy) == (1, 1)

    wait_for(is_held, "only the held batch is left")


def wait_until_reading(gate: Gate) -> None:
    """Wait until a worker reads the held row."""
    wait_for(gate.path.with_name("gate.reached").exists, "the held row is read")


def kill_child(fleet: FleetDesk, pid: int) -> None:
    os.kill(fleet.children(pid)[0], signal.SIGKILL)


def kill_main(fleet: FleetDesk, pid: int) -> None:
    children = [psutil.Process(child) for child in fleet.children(pid)]
    os.kill(fleet.mains(pid)[0], signal.SIGKILL)
    assert psutil.wait_procs(children, timeout=30)[1] == []


def kill_supervisor(fleet: FleetDesk, pid: int) -> None:
    """Its processes die with it: nobody would hear of what they do."""
    family = psutil.Process(pid).children(recursive=True)
    assert len(family) >= 2
    os.kill(pid, signal.SIGKILL)
    assert psutil.wait_procs(family, timeout=30)[1] == []
    fleet.start_worker(program=PERILOUS)


def kill_all(fleet: FleetDesk, pid: int) -> None:
    fleet.kill(pid)
    fleet.start_worker(program=PERILOUS)


@pytest.mark.parametrize("kill", [kill_child, kill_main, kill_supervisor, kill_all])
def test_a_killed_process_costs_no_row(
    fleet: FleetDesk, gate: Gate, kill: Callable[[FleetDesk, int], None]
) -> None:
    pid = fleet.start_worker(program=PERILOUS)
    submitted = fleet.start()
    wait_until_reading(gate)
    kill(fleet, pid)
    gate.open()
    ran = submitted.finish()
    assert ran.status == 0, ran.err
    assert fleet.desk.answers() == gate.answers


def test_another_worker_takes_over_before_long(fleet: FleetDesk, gate: Gate) -> None:
    first = fleet.start_worker(program=PERILOUS)
    submitted = fleet.start()
    wait_until_reading(gate)
    member = f"{fleet.desk.job()}:1"

    def holder() -> bytes | None:
        return fleet.server.client.hget("spanmill:holders", member)

    fleet.start_worker(program=PERILOUS)
    dead = holder()
    fleet.kill(first)
    killed_at = time.monotonic()
    wait_for(lambda: holder() not in (None, dead), "another has the lease")
    assert time.monotonic() - killed_at < TAKEN_OVER_SECONDS
    gate.open()
    assert submitted.finish().status == 0
    assert fleet.desk.answers() == gate.answers


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_restarted_broker_costs_no_row(fleet: FleetDesk, gate: Gate, how: signal.Signals) -> None:
    fleet.start_worker("--processes", "2", program=PERILOUS)
    submitted = fleet.start()
    wait_until_held(fleet)
    fleet.server.stop(how)
    wait_for(lambda: "paused" in fleet.desk.states(), "the producer misses it")
    fleet.server.start()
    gate.open()
    ran = submitted.finish()
    assert ran.status == 0, ran.err
    assert fleet.desk.answers() == gate.answers
    assert fleet.submit("--overwrite").status == 0  # the worker is well again
    assert fleet.desk.answers() == gate.answers


def test_a_flushed_broker_is_filled_again_from_the_jobs_folder(
    fleet: FleetDesk, gate: Gate
) -> None:
    fleet.start_worker(program=PERILOUS)
    submitted = fleet.start("--in-flight-batches", "3")
    fleet.wait_until_busy()
    fleet.server.client.flushall()
    gate.open()
    ran = submitted.finish()
    assert ran.status == 0, ran.err
    assert fleet.desk.answers() == gate.answers


def test_a_full_broker_pauses_the_job_until_there_is_room(fleet: FleetDesk, gate: Gate) -> None:
    fleet.start_worker(program=PERILOUS)
    submitted = fleet.start("--in-flight-batches", "2")
    wait_until_reading(gate)
    fleet.server.client.config_set("maxmemory", "1")
    gate.open()
    wait_for(lambda: "paused" in fleet.desk.states(), "the job pauses")
    fleet.server.client.config_set("maxmemory", "0")
    ran = submitted.finish()
    assert ran.status == 0, ran.err
    assert "takes no more data" in ran.err
    assert fleet.desk.answers() == gate.answers


def test_messages_that_the_transport_lost_are_sent_again(
    fleet: FleetDesk, undisturbed: list[Row]
) -> None:
    assert fleet.submit("--no-wait").status == 0
    for _ in range(3):  # as if a worker had died between taking a message and writing that down
        assert fleet.server.client.rpop(name_queue("default"))
    fleet.start_worker()
    wait_for(lambda: len(fleet.desk.shards()) == ROWS // 4, "all batches are answered")
    assert fleet.run("resume").status == 0
    assert fleet.desk.answers() == undisturbed


def test_a_stopped_worker_that_wakes_late_changes_nothing(fleet: FleetDesk, gate: Gate) -> None:
    first = fleet.start_worker(program=PERILOUS)
    submitted = fleet.start()
    wait_until_reading(gate)
    family = [psutil.Process(first), *psutil.Process(first).children(recursive=True)]
    for process in family:
        process.suspend()
    fleet.start_worker(program=PERILOUS)
    wait_until_held(fleet)
    gate.open()
    wait_for(lambda: len(fleet.desk.shards()) == ROWS // 4, "another answers its batch")
    before = fleet.desk.shards()
    for process in family:
        process.resume()
    assert submitted.finish().status == 0
    wait_for(lambda: "outcome=conflict" in fleet.log(), "it finds its batch committed")
    assert fleet.desk.shards() == before
    assert fleet.desk.answers() == gate.answers


@pytest.mark.parametrize("flush", [False, True])
def test_a_killed_producer_is_resumed(
    fleet: FleetDesk, undisturbed: list[Row], flush: bool
) -> None:
    submitted = fleet.start("--in-flight-batches", "3")
    wait_for(lambda: (one := fleet.counts()) and one.in_flight == 3, "it publishes")
    submitted.kill()
    if flush:
        fleet.server.client.flushall()
    fleet.start_worker()
    ran = fleet.run("resume")
    assert ran.status == 0, ran.err
    assert fleet.desk.answers() == undisturbed


def test_a_message_that_comes_five_times_is_answered_once(
    fleet: FleetDesk, undisturbed: list[Row]
) -> None:
    assert fleet.submit("--no-wait").status == 0
    resender = Resender(fleet.server.broker, fleet.ledger)
    for _ in range(4):
        for batch in range(ROWS // 4):
            resender.send(fleet.desk.job(), batch, 1, name_queue("default"))
    fleet.start_worker()
    fleet.start_worker()
    ran = fleet.run("resume", "--json")
    assert ran.json()["rows"] == ROWS
    assert fleet.desk.answers() == undisturbed


def test_a_batch_slower_than_the_visibility_timeout_is_answered_once(
    fleet: FleetDesk, gate: Gate
) -> None:
    fleet.start_worker("--visibility-seconds", "1", "--processes", "2", program=PERILOUS)
    submitted = fleet.start()
    wait_until_held(fleet)
    wait_for(
        lambda: fleet.log().count("outcome=leased") > 0, "it is delivered again, and not begun"
    )
    gate.open()
    assert submitted.finish().status == 0
    assert fleet.desk.answers() == gate.answers


@pytest.mark.parametrize(("peril", "crashes"), [("segv", 1), ("kill", 2), ("hang", 1)])
def test_a_row_that_ends_its_process_is_the_only_error(
    fleet: FleetDesk, undisturbed: list[Row], peril: str, crashes: int
) -> None:
    rows = make_rows(ROWS)
    rows[HELD_ROW]["context"] = f"<<{peril}@score>>"
    fleet.desk.write(rows)
    fleet.start_worker("--hang-seconds", "10", program=PERILOUS)
    ran = fleet.submit()
    assert ran.status == 3, ran.err
    answers = fleet.desk.answers()
    assert answers[HELD_ROW]["status"] == "error"
    assert "reading this row ended in" in answers[HELD_ROW]["error"]
    del answers[HELD_ROW]
    quiet = [row for row in undisturbed if row["row"] != HELD_ROW]
    assert answers == quiet
    assert fleet.log().count("exited with 'signal") == crashes


def test_a_row_that_ends_whole_workers_is_the_only_error(
    fleet: FleetDesk, undisturbed: list[Row]
) -> None:
    rows = make_rows(ROWS)
    rows[HELD_ROW]["context"] = "<<worker@score>>"
    fleet.desk.write(rows)
    # The first is not known to have died of a row; the next two mark theirs at the broker.
    for _ in range(4):
        fleet.launch_worker(program=PERILOUS)
    ran = fleet.submit()
    assert ran.status == 3, ran.err
    answers = fleet.desk.answers()
    assert answers[HELD_ROW]["status"] == "error"
    assert "ended in a kill from outside (signal 9) twice" in answers[HELD_ROW]["error"]
    del answers[HELD_ROW]
    assert answers == [row for row in undisturbed if row["row"] != HELD_ROW]
    assert fleet.count_alive() == 1


def test_a_full_disk_pauses_the_job_until_there_is_room(
    fleet: FleetDesk, undisturbed: list[Row]
) -> None:
    pid = fleet.start_worker()
    (child,) = fleet.children(pid)
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    psutil.Process(child).rlimit(psutil.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    submitted = fleet.start()
    trouble = wait_for(lambda: (one := fleet.counts()) and one.trouble, "the worker complains")
    assert "cannot write" in trouble
    wait_for(lambda: "paused: " in submitted.err.read_text(), "the producer says so")
    assert not fleet.desk.shards()
    psutil.Process(child).rlimit(psutil.RLIMIT_FSIZE, unlimited)
    ran = submitted.finish()
    assert ran.status == 0, ran.err
    assert fleet.desk.answers() == undisturbed
    states = fleet.desk.states()
    assert states.index("paused") < len(states) - 1 - states[::-1].index("running")


def test_what_is_no_message_of_ours_ends_nothing(fleet: FleetDesk, undisturbed: list[Row]) -> None:
    queue, bait = name_queue("default"), fleet.desk.folder / "bait"
    app = make_app(fleet.server.broker, (queue,))
    for version, job in ((99, "a-job"), (1, "../../etc"), (1, "unheard-of")):
        send(app, Message(job, 0, 1, time.time(), version), queue)
    app.send_task("spanmill.answer", args=[1, 2], kwargs={"x": "y"}, queue=queue)
    app.send_task("a.foreign.task", args=[{"a": "b" * 10_000_000}], queue=queue)
    for raw in (pickled(app, queue, bait), json.dumps({"a": 1}), "[1]", "garbage"):
        fleet.server.client.lpush(queue, raw)
    fleet.start_worker()
    ran = fleet.submit()
    assert ran.status == 0, ran.err
    assert fleet.desk.answers() == undisturbed
    assert fleet.server.client.llen(queue) == 0
    assert not bait.exists()


class Bait:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return Path.touch, (self._path,)  # type: ignore[return-value]


def pickled(app: Celery, queue: str, bait: Path) -> str:
    """Return a message of ours whose body is pickled."""
    send(app, Message("a-job", 0, 1, time.time(), 1), queue)
    message = json.loads(app.connection().default_channel.client.lpop(queue))
    message["content-type"] = "application/x-python-serialize"
    message["body"] = base64.b64encode(pickle.dumps(Bait(bait))).decode()
    return json.dumps(message)
