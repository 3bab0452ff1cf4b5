"""A store that goes away while a job runs: the job pauses, goes on by itself, and loses nothing."""

import time

import pytest

from tests.desk import THRESHOLD, Desk, Row, Started, wait_for
from tests.fleet import FleetDesk
from tests.s3_server import S3, Relay


def break_at(relay: Relay, fault: str) -> None:
    if fault == "cut":
        relay.cut()
    else:
        relay.refuse(fault)


def wait_for_shard(started: Started, s3: S3) -> None:
    def is_there() -> bool:
        assert started.process.poll() is None, started.err.read_text()
        time.sleep(0.02)
        return any("/shards/" in key for key in s3.list("jobs"))

    wait_for(is_there, "a batch is answered")


def states(s3: S3) -> list[str]:
    keys = [key for key in s3.list("jobs") if "/events/" in key]
    return [key.rpartition("/")[2].split("-", 1)[1].removesuffix(".json") for key in keys]


def answers(s3: S3) -> list[Row]:
    rows: list[Row] = s3.table("out.parquet").drop_columns(["latency_ms"]).to_pylist()
    return rows


def says(started: Started, what: str) -> None:
    def said() -> bool:
        assert started.process.poll() is None, started.err.read_text()
        return what in started.err.read_text()

    wait_for(said, f"it says {what!r}")


@pytest.mark.parametrize("fault", ["cut", "503 Slow Down"])
def test_a_job_on_one_machine_outlives_its_store_being_away(
    desk: Desk, s3: S3, relay: Relay, undisturbed: list[Row], fault: str
) -> None:
    source = s3.put("in.parquet", desk.folder / "in.parquet")
    where = ["--out", f"{s3.url}/out.parquet", "--jobs-root", f"{s3.url}/jobs"]
    started = desk.start(*desk.words(*where, "--batch-rows", "1", source=source))
    wait_for_shard(started, s3)
    break_at(relay, fault)
    says(started, "paused: ")
    relay.mend()
    ran = started.finish()
    assert ran.status == 0, ran.err
    assert "going on" in ran.err
    assert answers(s3) == undisturbed
    assert states(s3)[-1] == "completed"
    assert "paused" in states(s3)


def test_a_store_that_stays_away_fails_the_job_and_resume_goes_on(
    desk: Desk, s3: S3, relay: Relay, undisturbed: list[Row]
) -> None:
    source = s3.put("in.parquet", desk.folder / "in.parquet")
    where = ["--out", f"{s3.url}/out.parquet", "--jobs-root", f"{s3.url}/jobs"]
    brief = ["--batch-rows", "1", "--max-pause-seconds", "2"]
    started = desk.start(*desk.words(*where, *brief, source=source))
    wait_for_shard(started, s3)
    relay.cut()
    ran = started.finish()
    assert ran.status == 1
    assert "spanmill resume out-" in ran.err
    relay.mend()
    job = ran.err.split("spanmill resume ")[1].split()[0]
    assert desk.run("resume", job, "--jobs-root", f"{s3.url}/jobs").status == 0
    assert answers(s3) == undisturbed


def test_a_fleet_outlives_its_store_being_away(
    fleet: FleetDesk, s3: S3, relay: Relay, undisturbed: list[Row]
) -> None:
    root = f"{s3.url}/jobs"
    source = s3.put("in.parquet", fleet.desk.folder / "in.parquet")
    words = ["submit", source, "--out", f"{s3.url}/out.parquet", "--jobs-root", root]
    usual = ["--bundle", fleet.desk.bundle, "--null-threshold", THRESHOLD, "--batch-rows", "1"]
    fleet.start_worker("--jobs-root", root)
    started = fleet.desk.start(*words, *usual, "--broker", fleet.server.url)
    wait_for_shard(started, s3)
    relay.cut()
    says(started, "paused: ")
    relay.mend()
    ran = started.finish()
    assert ran.status == 0, ran.err
    assert answers(s3) == undisturbed
