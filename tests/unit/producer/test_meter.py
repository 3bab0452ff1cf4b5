"""A producer's metrics: its job, and what it publishes."""

import io

import pytest
from prometheus_client import generate_latest

from producer.meter import Meter
from tests.making import make_manifest
from tests.scraping import Scraped, parse, read_events
from worker.contracts.errors import UsageError
from worker.contracts.flight import Counts, Flight
from worker.log import Log, LogFormat


def read(meter: Meter) -> Scraped:
    return parse(generate_latest(meter.registry).decode())


def make_meter() -> tuple[Meter, io.StringIO]:
    stream = io.StringIO()
    return Meter(Log(LogFormat.JSON, stream=stream)), stream


def test_the_job_is_named_once_and_counted_without_its_name() -> None:
    meter, stream = make_meter()
    manifest = make_manifest("a-job", "out.parquet", rows=8, batches=2)
    meter.begin(manifest, "spanmill-default-v1")
    found = read(meter)
    (job,) = found.labels("job_info")
    assert job == {
        "job_id": manifest.job, "queue": "spanmill-default-v1", "bundle": manifest.bundle[:12],
    }  # fmt: skip
    assert (found("job_rows"), found("job_batches"), found("job_paused")) == (8, 2, 0)
    (begun,) = read_events(stream.getvalue().splitlines(), "job-begun")
    assert (begun["job"], begun["rows"]) == (manifest.job, 8)


def test_what_is_published_done_and_sent_again_is_counted() -> None:
    meter, stream = make_meter()
    meter.publish(100)
    meter.publish(50)
    meter.wait(0.25)
    meter.resend("a-job", 0)
    meter.resend("a-job", 2)
    meter.count(
        Counts("q", "root", "made", 5, 2, 8, 3, 3, 1, 0, cancelled=False, trouble=None, stuck=False)
    )
    found = read(meter)
    assert (found("published_batches_total"), found("published_bytes_total")) == (2, 150)
    assert found("publish_wait_seconds_total") == 0.25
    assert found("reconciled_total") == 2
    assert found("job_done_rows", status="ok") == 5
    assert found("job_done_rows", status="error") == 3
    assert found("job_done_batches") == 2
    assert [one["batches"] for one in read_events(stream.getvalue().splitlines(), "resent")] == [2]


def test_a_pause_is_told_until_the_job_goes_on() -> None:
    meter, _ = make_meter()
    meter.pause()
    meter.warn("paused")
    assert (read(meter)("job_paused"), read(meter)("errors_total", event="paused")) == (1, 1)
    meter.go_on()
    assert (read(meter)("job_paused"), read(meter)("errors_total", event="paused")) == (0, 1)


def test_a_broker_that_is_away_has_nothing_in_flight_that_anybody_knows() -> None:
    meter, _ = make_meter()
    meter.see(Flight(1, 2, 3, 4.0), 5)
    assert (read(meter)("broker_up"), read(meter)("in_flight_bytes")) == (1, 3)
    meter.miss_broker()
    assert read(meter)("broker_up") == 0
    assert not read(meter).labels("in_flight_bytes")


def test_an_address_that_is_none_is_refused() -> None:
    meter, _ = make_meter()
    with pytest.raises(UsageError, match="choose another --metrics-port"):
        meter.serve("192.0.2.1", 0)
    assert not meter.is_served
