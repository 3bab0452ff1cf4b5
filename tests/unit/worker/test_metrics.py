"""A worker's metrics: what its events say, added up."""

from dataclasses import replace

import pytest
from prometheus_client import generate_latest

from tests.making import make_answer, make_stats
from tests.scraping import Scraped, parse
from worker.contracts.flight import Flight
from worker.contracts.records import Status
from worker.events import Event, Level
from worker.exposition import BrokerView
from worker.metrics import NAMED_BUNDLES, WorkerMetrics

ANSWERS = [make_answer(0), make_answer(1), make_answer(2, Status.UNANSWERABLE)]
ANSWERS.append(make_answer(3, Status.ERROR))


def read(metrics: WorkerMetrics) -> Scraped:
    return parse(generate_latest(metrics.registry).decode())


def answered(number: int = 0, **changes: object) -> Event:
    stats = replace(make_stats(number, ANSWERS), **changes)  # type: ignore[arg-type]
    return Event("batch", outcome="answered", duration_seconds=2.0, stats=stats)


def test_every_series_that_can_be_named_begins_at_zero() -> None:
    found = read(WorkerMetrics(3))
    for status in ("answered", "unanswerable", "error"):
        assert found("rows_total", status=status) == 0
    for outcome in ("answered", "done", "conflict", "paused", "left"):
        assert found("batches_total", outcome=outcome) == 0
    for name in ("redelivered", "reconciled", "commit_conflicts", "worker_restarts"):
        assert found(f"{name}_total") == 0
    assert found("worker_processes_wanted") == 3


def test_rows_and_stages_are_those_of_committed_batches() -> None:
    metrics = WorkerMetrics(1)
    stats = make_stats(0, ANSWERS)
    metrics.hear(answered(tokenize_ms=20.0, inference_ms=3000.0, decode_ms=1.0, queue_ms=500.0))
    metrics.hear(Event("batch", outcome="conflict", duration_seconds=9.0))
    found = read(metrics)
    assert found("rows_total", status="answered") == stats.answered
    assert found("rows_total", status="unanswerable") == stats.unanswerable
    assert found("rows_total", status="error") == stats.errors
    assert found("batch_duration_seconds_sum") == 2.0
    assert found("stage_duration_seconds_sum", stage="inference") == 3.0
    assert found("stage_duration_seconds_bucket", stage="tokenize", le="0.05") == 1
    assert found("queue_wait_seconds_sum") == 0.5
    assert found("commit_conflicts_total") == 1


def test_deliveries_deaths_and_errors_are_counted() -> None:
    metrics = WorkerMetrics(1)
    metrics.hear(Event("batch", outcome="leased", again=True))
    metrics.hear(Event("batch", Level.WARNING, outcome="paused"))
    metrics.hear(Event("process-lost", Level.ERROR, facts={"how": "SIGKILL"}))
    metrics.hear(Event("worker-ended", Level.ERROR))
    metrics.hear(Event("resent", facts={"batches": 3}))
    found = read(metrics)
    assert found("redelivered_total") == 1
    assert found("batches_total", outcome="paused") == 1
    assert found("processes_lost_total", how="SIGKILL") == 1
    assert found("worker_restarts_total") == 1
    assert found("reconciled_total") == 3
    assert {one["event"]: found("errors_total", **one) for one in found.labels("errors_total")} == {
        "batch": 1, "process-lost": 1, "worker-ended": 1,
    }  # fmt: skip


def test_only_the_latest_bundles_are_named() -> None:
    metrics = WorkerMetrics(1)
    for number in range(NAMED_BUNDLES + 3):
        metrics.hear(answered(bundle_digest=f"{number:064d}"[::-1]))
    named = read(metrics).labels("bundle_info")
    assert len(named) == NAMED_BUNDLES
    assert {"digest": "0" * 12} not in named


def test_what_is_not_known_of_a_broker_is_not_told() -> None:
    metrics = WorkerMetrics(1)
    assert not read(metrics).labels("broker_up")
    metrics.see_broker(BrokerView(is_up=True, flight=Flight(5, 2, 1234, 7.5), workers=3))
    found = read(metrics)
    assert (found("broker_up"), found("workers")) == (1, 3)
    assert found("in_flight_batches", state="waiting") == 5
    assert found("in_flight_batches", state="begun") == 2
    assert (found("in_flight_bytes"), found("oldest_waiting_seconds")) == (1234, 7.5)
    metrics.see_broker(BrokerView(is_up=False))
    found = read(metrics)
    assert found("broker_up") == 0
    assert not found.labels("in_flight_bytes")


@pytest.mark.parametrize("suffix", ["_ms", "_mib", "_percent"])
def test_names_keep_to_base_units(suffix: str) -> None:
    metrics = WorkerMetrics(1)
    metrics.see_broker(BrokerView(is_up=True, flight=Flight(0, 0, 0, 0), workers=0))
    names = {family.name for family in metrics.registry.collect()}
    assert not [name for name in names if name.endswith(suffix)]
    assert {name for name in names if not name.startswith(("spanmill_", "process_"))} == set()
