"""What of a worker's events is written, and what is counted alone."""

import io

from prometheus_client import generate_latest

from tests.scraping import parse
from worker.events import Event, Outcome
from worker.log import Log
from worker.metrics import WorkerMetrics
from worker.observer import Observer


def test_batches_of_held_jobs_are_counted_and_not_written() -> None:
    stream, metrics = io.StringIO(), WorkerMetrics(1)
    observer = Observer(Log(stream=stream), metrics)
    for outcome in (Outcome.HELD, Outcome.LEASED, Outcome.HELD):
        observer.hear(Event("batch", outcome=outcome))
    (line,) = stream.getvalue().splitlines()
    assert "outcome=leased" in line
    found = parse(generate_latest(metrics.registry).decode())
    assert found("batches_total", outcome="held") == 2
