"""What a fleet tells of itself: metrics that are right, and logs that quote nobody."""

import os
import signal
import socket
from pathlib import Path

import pytest

from tests.desk import ROWS, make_rows, wait_for
from tests.fleet import FleetDesk
from tests.scraping import Scraped, read_events, scrape
from worker.contracts.queue import make_app, name_queue

PERILOUS = ("-m", "tests.perilous_worker")
BATCHES = ROWS // 4
HELD_ROW, BAD_ROW = 6, 20
#: In every text of a job, and in every foreign message; in no log.
MARK = "Quetzalcoatlus"


def find_port(log: Path) -> int:
    """Return the port that a log in JSON tells of."""

    def look() -> int | None:
        served = read_events(log.read_text().splitlines(), "metrics-served")
        return served[0]["port"] if served else None

    port = wait_for(look, "metrics are served")
    assert isinstance(port, int)
    return port


def wait_until(port: int, name: str, value: float, **labels: str) -> Scraped:
    """Scrape until a metric has a value."""

    def look() -> Scraped | None:
        found = scrape(port)
        return found if found.samples.get(key) == value else None

    key = (f"spanmill_{name}", frozenset(labels.items()))
    found = wait_for(look, f"{name} is {value}")
    assert isinstance(found, Scraped)
    return found


def test_metrics_agree_with_the_summary_also_when_a_process_is_killed(fleet: FleetDesk) -> None:
    gate = fleet.desk.folder / "gate"
    rows = make_rows(ROWS)
    rows[HELD_ROW]["context"] += f" <<gate@score:{gate}>>"
    rows[BAD_ROW]["question"] = None
    fleet.desk.write(rows)
    pid = fleet.start_worker("--metrics-port", 0, "--log-format", "json", program=PERILOUS)
    worker_port = find_port(fleet.desk.folder / "worker-0.log")
    submitted = fleet.start("--metrics-port", 0, "--log-format", "json", "--json")
    wait_for(Path(f"{gate}.reached").exists, "the held row is read")

    _check_meanwhile(fleet, find_port(submitted.err))
    before = wait_until(worker_port, "worker_processes", 1)
    assert before("rows_total", status="answered") > 0
    assert before("batches_total", outcome="answered") == 1

    os.kill(fleet.children(pid)[0], signal.SIGKILL)
    gate.touch()
    ran = submitted.finish()
    assert ran.status == 3, ran.err
    summary = ran.json()
    after = wait_until(worker_port, "in_flight_bytes", 0)
    for status in ("answered", "unanswerable", "error"):
        counted = summary["errors" if status == "error" else status]
        assert after("rows_total", status=status) == counted, status
    assert after("batches_total", outcome="answered") == BATCHES
    assert after("processes_lost_total", how="SIGKILL") == 1
    assert after("redelivered_total") >= 1
    for stage in ("tokenize", "inference", "decode"):
        assert after("stage_duration_seconds_count", stage=stage) == BATCHES
    assert after("batch_duration_seconds_count") == after("queue_wait_seconds_count") == BATCHES
    assert after("bundle_info", digest=summary["bundle"][:12]) == 1
    assert before.counters <= after.counters
    assert all(after.samples[one] >= before.samples[one] for one in before.counters)
    _check_logs(fleet, ran.err, after("reconciled_total"))


def _check_meanwhile(fleet: FleetDesk, producer_port: int) -> None:
    """Scrape the producer while one batch is done, one begun, and all others wait."""
    wait_until(producer_port, "in_flight_batches", BATCHES - 2, state="waiting")
    producer = wait_until(producer_port, "job_done_batches", 1)
    assert producer("published_batches_total") == BATCHES
    assert (producer("job_rows"), producer("job_done_rows", status="ok")) == (ROWS, 4)
    assert producer("in_flight_batches", state="begun") == 1
    assert producer("in_flight_bytes") == fleet.ledger.flight().payload_bytes
    assert (producer("broker_up"), producer("workers")) == (1, 1)


def _check_logs(fleet: FleetDesk, producer: str, reconciled: float) -> None:
    """Compare the logs of a job with what the worker's metrics say was sent again."""
    log = read_events(fleet.log().splitlines())
    resent = [event["batches"] for event in log if event["event"] == "resent"]
    assert reconciled == sum(resent)
    told = [event["batches"] for event in read_events(producer.splitlines(), "resent")]
    assert sum(resent) + sum(told) >= 1
    batches = [event for event in log if event.get("outcome") == "answered"]
    assert sorted(event["batch"] for event in batches) == list(range(BATCHES))
    assert {event["attempt"] for event in batches if event["batch"] == 1} == {2}
    for event in batches:
        assert event["job"] == fleet.desk.job()
        assert event["host"] == socket.gethostname()
        assert event["worker"].startswith(event["host"])
        assert {"queue_ms", "tokenize_ms", "inference_ms", "decode_ms", "duration_ms"} <= {*event}


@pytest.mark.parametrize("look", ["json", "text"])
def test_no_log_quotes_a_text(fleet: FleetDesk, look: str) -> None:
    rows = make_rows(ROWS)
    for row in rows:
        row["question"] = f"Who saw the {MARK}?"
        row["context"] = " ".join([MARK] * 30)
    rows[HELD_ROW]["context"] += " <<raise@score>>"
    rows[BAD_ROW]["context"] += " <<abort@decode>>"
    fleet.desk.write(rows)
    fleet.start_worker("--log-format", look, program=PERILOUS)
    _send_foreign(fleet)
    submitted = fleet.start("--log-format", look, "--keep", "number", "--null-threshold", "inf")
    ran = submitted.finish()
    assert ran.status == 3, ran.err
    answers = [row["answer"] for row in fleet.desk.answers() if not row["error"]]
    assert all(answer in rows[0]["context"] for answer in answers)
    long = {answer for answer in answers if len(answer) > 3}
    assert long
    server = (fleet.server.folder / "redis.log").read_text()
    for log in (fleet.log(), ran.err, ran.out, server):
        assert MARK not in log
        assert not [answer for answer in long if answer in log]
        assert "must not be quoted" not in log
    assert fleet.log().count("answered") >= BATCHES
    if look == "json":
        assert len(read_events(ran.err.splitlines(), "job-begun")) == 1
        assert len(read_events(ran.err.splitlines(), "job-ended")) == 1
        outcomes = {event.get("outcome") for event in read_events(fleet.log().splitlines())}
        assert outcomes >= {"answered", "foreign"}


def _send_foreign(fleet: FleetDesk) -> None:
    """Send what nobody should: each quotes a text, and Celery's own words would quote it again."""
    queue = name_queue("default")
    app = make_app(fleet.server.broker, (queue,))
    app.send_task("spanmill.answer", args=[MARK], kwargs={MARK: MARK}, queue=queue)
    app.send_task("a.foreign.task", args=[MARK], queue=queue)
    app.send_task("spanmill.answer", args=[MARK], queue=queue, serializer="pickle")
    for raw in (MARK.encode() + b"\xff", f'"{MARK}"'.encode(), f'{{"{MARK}": 1}}'.encode()):
        fleet.server.client.lpush(queue, raw)


def test_a_port_that_is_taken_is_refused_before_any_work(fleet: FleetDesk) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = ["--metrics-port", taken.getsockname()[1], "--metrics-host", "127.0.0.1"]
        ran = fleet.submit(*address)
        assert ran.status == 2
        assert "choose another --metrics-port" in ran.complaint()
        assert not fleet.desk.jobs.exists()
        where = ["--broker", fleet.server.url, "--jobs-root", fleet.desk.jobs]
        refused = fleet.desk.run("worker", *where, *address)
    assert refused.status == 2
    assert "choose another --metrics-port" in refused.complaint()
