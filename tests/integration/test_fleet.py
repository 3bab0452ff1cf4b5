"""The same job through a broker and workers, all of them real programs."""

import json
import os
import signal
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.desk import POLL_SECONDS, ROWS, Row, make_rows, wait_for
from tests.fleet import PERILOUS, FleetDesk
from worker.contracts.scripts import PRODUCERS


def test_the_fleet_gives_the_answers_of_one_machine(
    fleet: FleetDesk, undisturbed: list[Row]
) -> None:
    fleet.start_worker()
    fleet.start_worker()
    ran = fleet.submit("--json")
    assert ran.status == 0, ran.err
    assert fleet.desk.answers() == undisturbed
    assert ran.json()["rows"] == ROWS
    assert fleet.desk.states()[-1] == "completed"
    assert not [key for key in fleet.server.client.scan_iter() if b"{" in key]


def test_the_same_command_again_says_that_all_is_done(fleet: FleetDesk) -> None:
    fleet.start_worker()
    assert fleet.submit().status == 0
    before = fleet.desk.shards()
    again = fleet.submit()
    assert again.status == 0
    assert "is done already" in again.out
    assert fleet.desk.shards() == before


def test_several_jobs_at_once_are_all_answered(fleet: FleetDesk, undisturbed: list[Row]) -> None:
    fleet.start_worker()
    first = fleet.start("--job-id", "first", "--in-flight-batches", "3")
    second = fleet.desk.start(
        *fleet.words("--job-id", "second", "--out", "second.parquet", "--in-flight-batches", "3")
    )
    assert [one.finish().status for one in (first, second)] == [0, 0]
    assert fleet.desk.answers() == undisturbed
    assert fleet.desk.answers("second.parquet") == undisturbed


def test_what_is_published_without_waiting_is_answered_and_collected_later(
    fleet: FleetDesk, undisturbed: list[Row]
) -> None:
    fleet.start_worker()
    assert fleet.submit("--no-wait").status == 0
    wait_for(lambda: len(fleet.desk.shards()) == ROWS // 4, "all batches are answered")
    status = fleet.run("status", "--json").json()
    assert (status["rows_done"], status["in_flight"]) == (ROWS, 0)
    where = ["--jobs-root", fleet.desk.jobs, "--out", "elsewhere.parquet"]
    assert fleet.desk.run("collect", fleet.desk.job(), *where).status == 0
    assert fleet.desk.answers("elsewhere.parquet") == undisturbed
    assert fleet.desk.states()[-1] == "completed"
    assert fleet.run("resume").status == 0
    assert fleet.desk.answers() == undisturbed


def count_scripts(fleet: FleetDesk) -> int:
    """Return how many scripts the broker ran; a look at a job takes two."""
    calls: int = fleet.server.client.info("commandstats")["cmdstat_evalsha"]["calls"]
    return calls


def test_a_job_that_nobody_waits_for_is_watched_until_all_is_answered(fleet: FleetDesk) -> None:
    assert fleet.submit("--no-wait").status == 0
    where = ["--jobs-root", fleet.desk.jobs, "--broker", fleet.server.url]
    watching = fleet.desk.start("watch", fleet.desk.job(), *where, "--json")
    begun = count_scripts(fleet)
    wait_for(lambda: count_scripts(fleet) > begun + 2, "it has heard of the job")
    fleet.server.stop()
    wait_for(lambda: "goes on by itself" in watching.err.read_text(), "it misses the broker")
    fleet.server.start()
    fleet.start_worker()
    status = watching.finish().json()
    assert (status["rows_done"], status["in_flight"]) == (ROWS, 0)
    assert "spanmill resume" in status["reason"]


def test_a_job_without_workers_waits_and_says_so(fleet: FleetDesk, undisturbed: list[Row]) -> None:
    submitted = fleet.start()
    wait_for(lambda: (one := fleet.counts()) and one.in_flight == ROWS // 4, "all is in flight")
    reason = fleet.run("status", "--json").json()["reason"]
    assert "no worker reads the queue default: run `spanmill worker --queue default`" in reason
    fleet.start_worker()
    ran = submitted.finish()
    assert ran.status == 0
    assert fleet.desk.answers() == undisturbed


def test_a_queue_is_read_by_its_own_workers_alone(fleet: FleetDesk) -> None:
    fleet.start_worker("--queue", "other")
    submitted = fleet.start("--queue", "urgent")
    wait_for(lambda: (one := fleet.counts()) and one.in_flight == ROWS // 4, "all is in flight")
    assert not fleet.desk.shards()
    fleet.start_worker("--queue", "urgent", "--queue", "other")
    assert submitted.finish().status == 0


@pytest.mark.parametrize(("bound", "most"), [("--in-flight-batches", 2), ("--in-flight-bytes", 1)])
def test_what_is_in_flight_stays_within_its_bounds(fleet: FleetDesk, bound: str, most: int) -> None:
    submitted = fleet.start(bound, most)
    wait_for(lambda: (one := fleet.counts()) and one.in_flight == most, "as many in flight")
    fleet.start_worker()
    seen = [most]
    while submitted.process.poll() is None:
        now = fleet.counts()
        seen.append(0 if now is None else now.in_flight)
        time.sleep(POLL_SECONDS)
    assert submitted.finish().status == 0
    assert max(seen) == most


def test_a_worker_empties_the_queue_that_it_was_given_first(fleet: FleetDesk) -> None:
    for job, queue in (("first", "default"), ("second", "urgent")):
        ran = fleet.submit(
            "--no-wait", "--job-id", job, "--queue", queue, "--out", f"{job}.parquet"
        )
        assert ran.status == 0, ran.err
        assert "is published" in ran.err
    fleet.start_worker("--queue", "urgent", "--queue", "default")
    wait_for(lambda: len(fleet.desk.shards()) == 2 * ROWS // 4, "both are answered")
    assert max(times_of(fleet, "second")) < min(times_of(fleet, "first"))


def test_a_later_job_does_not_wait_for_the_end_of_an_earlier_one(fleet: FleetDesk) -> None:
    gate = fleet.desk.folder / "gate"
    rows = make_rows(ROWS)
    rows[0]["context"] += f" <<gate@score:{gate}>>"
    fleet.desk.write(rows)
    fleet.desk.write(make_rows(16), "few.parquet")
    fleet.start_worker(program=PERILOUS)
    bound = ["--in-flight-batches", "4"]
    first = fleet.start("--job-id", "first", *bound)
    wait_for(Path(f"{gate}.reached").exists, "the worker is busy with the first")
    words = fleet.words("--job-id", "second", "--out", "few-answers.parquet", *bound)
    second = fleet.desk.start(words[0], "few.parquet", *words[2:])
    wait_for(lambda: fleet.server.client.zscore(PRODUCERS, "second"), "the second wants room")
    gate.touch()
    assert [one.finish().status for one in (first, second)] == [0, 0]
    assert max(times_of(fleet, "second")) < max(times_of(fleet, "first"))


def test_a_job_has_one_producer(fleet: FleetDesk, undisturbed: list[Row]) -> None:
    submitted = fleet.start()
    wait_for(lambda: (one := fleet.counts()) and one.in_flight, "some in flight")
    other = fleet.submit()
    assert other.status == 1
    assert "is being run by another command" in other.complaint()
    fleet.start_worker()
    assert submitted.finish().status == 0
    assert fleet.desk.answers() == undisturbed


def test_batches_wait_for_a_worker_that_reads_their_version(
    fleet: FleetDesk, undisturbed: list[Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in (0, 2):
        monkeypatch.setenv("OTHER_WIRE_VERSION", str(version))
        fleet.start_worker(program=("-m", "tests.future_worker"))
    submitted = fleet.start()
    wait_for(lambda: (one := fleet.counts()) and one.in_flight == ROWS // 4, "all is in flight")
    reason = fleet.run("status", "--json").json()["reason"]
    assert "read version 0, 2 of its messages, and these have 1: install this release" in reason
    fleet.start_worker()
    ran = submitted.finish()
    assert ran.status == 0, ran.err
    assert fleet.desk.answers() == undisturbed


def test_a_worker_that_is_told_to_stop_ends_its_batch_first(
    fleet: FleetDesk, undisturbed: list[Row]
) -> None:
    gate = fleet.desk.folder / "gate"
    rows = make_rows(ROWS)
    rows[0]["context"] += f" <<gate@score:{gate}>>"
    fleet.desk.write(rows)
    pid = fleet.start_worker(program=PERILOUS)
    submitted = fleet.start()
    wait_for(Path(f"{gate}.reached").exists, "the worker is busy")
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: "Soft Shutdown" in fleet.log(), "it is stopping")
    gate.touch()
    assert fleet.end_worker(pid) == 0
    assert len(fleet.desk.shards()) == 1
    assert not fleet.workers()
    fleet.start_worker(program=PERILOUS)
    assert submitted.finish().status == 0
    assert fleet.desk.answers()[1:] == undisturbed[1:]
    stats = pq.read_table(fleet.desk.jobs / fleet.desk.job() / "stats.parquet")
    assert stats.column("attempt").to_pylist() == [1] * (ROWS // 4)


def test_workers_come_and_go_while_a_job_runs(fleet: FleetDesk) -> None:
    rows = make_rows(ROWS)
    gates = {row: fleet.desk.folder / f"gate-{row}" for row in (6, 40)}  # of batches 1 and 10
    for row, gate in gates.items():
        rows[row]["context"] += f" <<gate@score:{gate}>>"
    fleet.desk.write(rows)
    ran = fleet.desk.answer("--out", "quiet.parquet", "--jobs-root", "quiet-jobs")
    assert ran.status == 0, ran.err
    first = fleet.start_worker(program=PERILOUS)
    submitted = fleet.start()
    wait_for(Path(f"{gates[6]}.reached").exists, "the first is busy with batch 1")
    fleet.start_worker(program=PERILOUS)
    wait_for(Path(f"{gates[40]}.reached").exists, "the second is busy with batch 10")
    os.kill(first, signal.SIGTERM)
    wait_for(lambda: "Soft Shutdown" in fleet.log(), "the first is stopping")
    gates[6].touch()
    assert fleet.end_worker(first) == 0
    assert not submitted.out.read_text()
    gates[40].touch()
    ran = submitted.finish()
    assert ran.status == 0, ran.err
    assert fleet.desk.answers() == fleet.desk.answers("quiet.parquet")
    stats = pq.read_table(fleet.desk.jobs / fleet.desk.job() / "stats.parquet").to_pylist()
    assert [one["attempt"] for one in stats] == [1] * (ROWS // 4)
    by = {pid: [one["batch"] for one in stats if one["pid"] == pid] for pid in pids(stats)}
    assert sorted(by.values()) == [[0, 1], list(range(2, 12))]


def pids(stats: list[Row]) -> set[int]:
    return {one["pid"] for one in stats}


def test_an_interrupted_job_goes_on_with_resume(fleet: FleetDesk, undisturbed: list[Row]) -> None:
    submitted = fleet.start()
    wait_for(lambda: (one := fleet.counts()) and one.in_flight, "some in flight")
    submitted.interrupt()
    ran = submitted.finish()
    assert ran.status == 130
    assert "spanmill resume" in ran.err
    fleet.start_worker()
    assert fleet.run("resume").status == 0
    assert fleet.desk.answers() == undisturbed


def test_the_line_that_a_stopped_job_prints_goes_on_in_its_queue(fleet: FleetDesk) -> None:
    submitted = fleet.start("--queue", "urgent")
    wait_for(lambda: (one := fleet.counts()) and one.in_flight, "some in flight")
    submitted.interrupt()
    assert submitted.finish().err.endswith(" --broker URL --queue urgent\n")
    fleet.start_worker("--queue", "urgent")
    assert fleet.run("resume").status == 0  # the broker knows it


def test_a_submitted_job_goes_on_at_the_environments_broker_and_within_its_bounds(
    fleet: FleetDesk,
) -> None:
    submitted = fleet.start("--in-flight-batches", 2)
    wait_for(lambda: (one := fleet.counts()) and one.in_flight == 2, "two in flight")
    submitted.interrupt()
    assert submitted.finish().err.endswith(" --broker URL --in-flight-batches 2\n")
    environment = {"SPANMILL_BROKER_URL": fleet.server.url, "SPANMILL_IN_FLIGHT_BATCHES": "3"}
    resumed = fleet.desk.start("resume", fleet.desk.job(), env=environment)
    wait_for(lambda: (one := fleet.counts()) and one.in_flight == 3, "three in flight")
    assert fleet.desk.run("cancel", fleet.desk.job(), env=environment).status == 0
    assert "was cancelled" in resumed.finish().err


def test_a_cancelled_job_stops_and_can_be_resumed(fleet: FleetDesk, undisturbed: list[Row]) -> None:
    submitted = fleet.start()
    wait_for(lambda: (one := fleet.counts()) and one.in_flight, "some in flight")
    assert fleet.run("cancel").status == 0
    ran = submitted.finish()
    assert ran.status == 1
    assert "was cancelled" in ran.err
    counts = fleet.counts()
    assert counts is not None
    assert (counts.cancelled, counts.in_flight) == (True, 0)
    fleet.start_worker()
    assert fleet.run("resume").status == 0
    assert fleet.desk.answers() == undisturbed


def test_a_job_nobody_runs_is_cancelled_at_the_broker(fleet: FleetDesk) -> None:
    assert fleet.submit("--no-wait").status == 0
    assert fleet.run("cancel").status == 0
    counts = fleet.counts()
    assert counts is not None
    assert (counts.cancelled, counts.in_flight) == (True, 0)
    assert fleet.desk.states()[-1] == "cancelled"


def test_a_job_begun_anew_takes_nothing_from_the_one_before(
    fleet: FleetDesk, undisturbed: list[Row]
) -> None:
    name = ["--job-id", "again"]
    rows = make_rows(ROWS)
    fleet.desk.write([row | {"context": "Something else."} for row in rows])
    assert fleet.submit("--no-wait", *name).status == 0
    fleet.desk.write(rows)
    submitted = fleet.start("--overwrite", *name)
    fleet.start_worker()
    ran = submitted.finish()
    assert ran.status == 0, ran.err
    assert fleet.desk.answers() == undisturbed


def test_error_rows_are_retried_through_the_fleet(fleet: FleetDesk) -> None:
    rows = make_rows(8)
    rows[3]["question"] = None
    fleet.desk.write(rows)
    fleet.start_worker()
    assert fleet.submit().status == 3
    assert [row["status"] for row in fleet.desk.answers()].count("error") == 1
    environment = {"SPANMILL_BROKER_URL": fleet.server.url}
    retried = fleet.desk.run("retry-errors", fleet.desk.job(), "--json", env=environment)
    assert retried.status == 3
    assert json.loads(retried.out)["rows"] == 8
    assert list(fleet.desk.jobs.glob("*-retry/submitted"))


def test_a_jobs_folder_that_is_not_shared_is_found_out_at_once(
    fleet: FleetDesk, undisturbed: list[Row]
) -> None:
    elsewhere = fleet.desk.folder / "elsewhere"
    pid = fleet.start_worker("--jobs-root", elsewhere)
    submitted = fleet.start()
    wait_for(lambda: (one := fleet.counts()) and one.trouble, "the worker complains")
    status = fleet.run("status", "--json").json()
    assert str(elsewhere) in status["reason"]
    assert "is not that of the job's producer" in status["reason"]
    wait_for(lambda: "paused" in fleet.desk.states(), "the producer pauses the job")
    os.kill(pid, signal.SIGTERM)
    fleet.start_worker()
    assert submitted.finish().status == 0
    assert fleet.desk.answers() == undisturbed
    assert not list(elsewhere.glob("*"))


def test_a_bundle_that_a_worker_cannot_load_pauses_the_job(
    fleet: FleetDesk, undisturbed: list[Row]
) -> None:
    assert fleet.submit("--no-wait").status == 0
    (model,) = fleet.desk.jobs.glob("bundles/*/model.onnx")
    whole = model.read_bytes()
    model.write_bytes(whole[:-1])
    fleet.start_worker()
    trouble = wait_for(lambda: (one := fleet.counts()) and one.trouble, "the worker complains")
    assert "bundle" in trouble
    wait_for(lambda: fleet.desk.states()[-1] == "paused", "the job is paused")
    model.write_bytes(whole)
    assert fleet.run("resume").status == 0
    assert fleet.desk.answers() == undisturbed


def test_a_worker_says_whether_it_is_well(fleet: FleetDesk) -> None:
    where = ["--broker", fleet.server.url, "--jobs-root", fleet.desk.folder]
    sick = fleet.desk.run("worker", "--check", *where)
    assert sick.status == 1
    assert "is heard" in sick.complaint()
    pid = fleet.start_worker()
    well = wait_for(
        lambda: (ran := fleet.desk.run("worker", "--check", *where)).status == 0 and ran, "well"
    )
    assert "well" in well.out
    os.kill(pid, signal.SIGTERM)
    wait_for(lambda: not fleet.workers(), "the worker takes its leave")


def times_of(fleet: FleetDesk, job: str) -> list[int]:
    """Return when each of a job's shards was put."""
    return [at for path, (_, at) in fleet.desk.shards().items() if f"/{job}/" in path]
