"""The commands about jobs: what they say, how they end, and what they leave alone."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.desk import ROWS, Desk, Row, Started, make_rows, wait_for

STATUS_KEYS = {
    "job", "state", "reason", "rows", "rows_done", "errors", "batches", "batches_done", "in_flight",
    "workers", "rows_per_second", "seconds_left", "output",
}  # fmt: skip
#: The row at which a gated job waits: in its sixth batch.
GATED_ROW = 21


@pytest.fixture
def finished(desk: Desk) -> Desk:
    """Give a desk whose job is done."""
    assert desk.answer().status == 0
    return desk


@pytest.fixture
def killed(desk: Desk) -> Desk:
    """Give a desk whose job was killed before its sixth batch was done."""
    start_gated(desk).kill()
    return desk


def start_gated(desk: Desk, *more: object) -> Started:
    """Start a job that waits at one row until the desk has a file named gate."""
    rows = make_rows(ROWS)
    rows[GATED_ROW]["context"] += f"<<gate@score:{desk.folder / 'gate'}>>"
    desk.write(rows)
    started = desk.start(*desk.words(*more), program=("-m", "tests.perils", "300"))
    wait_for((desk.folder / "gate.reached").exists, "the gated row")
    return started


def without_gated_row(answers: list[Row]) -> list[Row]:
    return [row for row in answers if row["row"] != GATED_ROW]


def test_jobs_lists_all_jobs(finished: Desk) -> None:
    assert finished.answer("--out", "b.parquet", "--job-id", "second").status == 0
    listed = finished.run("jobs", "--json").json()
    assert [set(one) for one in listed] == [{"job", "state", "rows", "created_at", "output"}] * 2
    assert {one["state"] for one in listed} == {"completed"}
    assert "second" in {one["job"] for one in listed}
    table = finished.run("jobs")
    assert table.status == 0
    assert "second" in table.out
    assert str(finished.folder / "b.parquet") in table.out
    assert len(table.out.splitlines()) == 3


def test_jobs_says_when_there_is_no_folder_of_jobs(desk: Desk) -> None:
    ran = desk.run("jobs")
    assert ran.status == 2
    assert "name it with --jobs-root" in ran.complaint()


def test_status_says_how_a_finished_job_stands(finished: Desk) -> None:
    found = finished.run("status", finished.job(), "--json").json()
    assert set(found) == STATUS_KEYS
    assert (found["state"], found["reason"]) == ("completed", None)
    assert found["rows"] == found["rows_done"] == ROWS
    assert found["batches"] == found["batches_done"] == 12
    assert (found["errors"], found["in_flight"], found["seconds_left"]) == (0, 0, 0.0)
    assert found["rows_per_second"] > 0
    ran = finished.run("status", finished.job())
    assert ran.status == 0
    assert f"completed, {ROWS} of {ROWS} rows" in ran.out


def test_status_of_a_killed_job_says_how_to_go_on(killed: Desk) -> None:
    found = killed.run("status", killed.job(), "--json").json()
    assert found["state"] == "running"
    assert found["reason"] == (
        f"no command runs it: `spanmill resume {killed.job()} --jobs-root {killed.jobs}`"
    )
    assert (found["rows_done"], found["workers"], found["seconds_left"]) == (20, 0, None)


def test_status_and_watch_follow_a_job_that_runs(desk: Desk) -> None:
    started = start_gated(desk)
    found = desk.run("status", desk.job(), "--json").json()
    assert (found["state"], found["reason"], found["rows_done"]) == ("running", None, 20)
    assert found["workers"] == 1
    assert found["rows_per_second"] > 0
    assert found["seconds_left"] is not None
    watching = desk.start("watch", desk.job(), "--json")
    (desk.folder / "gate").touch()
    assert started.finish().status == 0
    watched = watching.finish()
    assert watched.status == 0, watched.err
    assert watched.json()["state"] == "completed"
    assert watched.json()["rows_done"] == ROWS


@pytest.mark.parametrize("bad", [0, 1])
def test_watch_ends_as_the_job_ended(desk: Desk, bad: int) -> None:
    desk.write([*make_rows(4), *[{**make_rows(1)[0], "question": None}] * bad])
    assert desk.answer().status == 3 * bad
    assert desk.run("watch", desk.job()).status == 3 * bad


def test_watch_of_a_job_that_nobody_runs_fails_at_once(killed: Desk) -> None:
    ran = killed.run("watch", killed.job())
    assert ran.status == 1
    assert "no command runs it" in ran.out


@pytest.mark.parametrize("command", ["jobs", "status", "watch"])
def test_looking_writes_nothing(finished: Desk, command: str) -> None:
    (finished.jobs / finished.job() / "lock").unlink()
    before = finished.files()
    assert finished.run(command, *([] if command == "jobs" else [finished.job()])).status == 0
    assert finished.files() == before


@pytest.mark.parametrize("command", ["status", "watch", "cancel", "resume", "retry-errors"])
def test_a_job_that_is_not_there_is_named(finished: Desk, command: str) -> None:
    for job in ("nobody", "bundles", "../x"):
        ran = finished.run(command, job)
        assert ran.status == 2
        assert repr(job) in ran.complaint()


def test_cancel_stops_a_running_job_and_resume_goes_on(desk: Desk, undisturbed: list[Row]) -> None:
    started = start_gated(desk)
    assert desk.run("cancel", desk.job()).status == 0
    assert "cancelling" in desk.states()
    wait_for(lambda: "stopping when" in started.err.read_text(), "the end of handing out batches")
    (desk.folder / "gate").touch()
    ran = started.finish()
    assert ran.status == 1
    assert "was cancelled: what is done is kept" in ran.err.splitlines()[-1]
    assert desk.states()[-1] == "cancelled"
    shards = desk.shards()
    assert len(shards) == 6, "the batch in work is committed, and no other is begun"
    resumed = desk.run("resume", desk.job())
    assert resumed.status == 0, resumed.err
    assert without_gated_row(desk.answers()) == without_gated_row(undisturbed)
    assert shards.items() <= desk.shards().items()


def test_a_fleet_of_the_environment_leaves_a_job_of_this_machine_alone(killed: Desk) -> None:
    away = {"SPANMILL_BROKER_URL": "redis://127.0.0.1:1", "SPANMILL_METRICS_PORT": "0"}
    for command in ("status", "watch"):
        ran = killed.run(command, killed.job(), env=away)
        assert "no command runs it" in ran.out, ran.err
    asked = killed.run("resume", killed.job(), "--metrics-port", 0, env=away)
    assert asked.status == 2
    assert "give --broker URL too" in asked.complaint()
    (killed.folder / "gate").touch()
    ran = killed.run("resume", killed.job(), env=away)
    assert ran.status == 0, ran.err
    assert len(killed.answers()) == ROWS


def test_an_output_that_came_while_the_job_was_away_is_kept(killed: Desk) -> None:
    (killed.folder / "gate").touch()
    (killed.folder / "out.parquet").write_text("mine")
    ran = killed.answer()
    assert ran.status == 2
    assert "exists" in ran.complaint()
    ran = killed.run("resume", killed.job())
    assert ran.status == 2
    assert "has come or changed since" in ran.complaint()
    assert (killed.folder / "out.parquet").read_text() == "mine"
    (killed.folder / "out.parquet").unlink()
    assert killed.answer().status == 0


def test_resume_replaces_an_output_that_the_command_said_to_overwrite(desk: Desk) -> None:
    (desk.folder / "out.parquet").write_text("old")
    start_gated(desk, "--overwrite").kill()
    (desk.folder / "gate").touch()
    ran = desk.run("resume", desk.job())
    assert ran.status == 0, ran.err
    assert len(desk.answers()) == ROWS


def test_cancel_marks_a_job_that_nobody_runs(killed: Desk) -> None:
    assert killed.run("cancel", killed.job()).status == 0
    assert killed.states()[-2:] == ["cancelling", "cancelled"]
    assert killed.run("cancel", killed.job()).status == 0
    assert killed.run("status", killed.job(), "--json").json()["state"] == "cancelled"
    (killed.folder / "gate").touch()
    assert killed.answer().status == 0


def test_a_finished_job_cannot_be_cancelled(finished: Desk) -> None:
    ran = finished.run("cancel", finished.job())
    assert ran.status == 1
    assert "nothing to cancel" in ran.complaint()
    assert finished.states()[-1] == "completed"


def test_resume_of_a_finished_job_says_so(finished: Desk) -> None:
    shards = finished.shards()
    ran = finished.run("resume", finished.job())
    assert ran.status == 0
    assert "is done already" in ran.out
    assert finished.shards() == shards


def test_collect_writes_the_answers_elsewhere(finished: Desk) -> None:
    ran = finished.run("collect", finished.job(), "--out", "b.parquet", "--json")
    assert ran.status == 0
    assert ran.json()["rows"] == ROWS
    assert finished.answers("b.parquet") == finished.answers()
    again = finished.run("collect", finished.job(), "--out", "b.parquet")
    assert again.status == 2
    assert "exists" in again.complaint()
    assert finished.run("collect", finished.job(), "--out", "b.parquet", "--overwrite").status == 0
    # What was collected elsewhere is not what the job's own command talks about.
    assert str(finished.folder / "out.parquet") in finished.answer().out


def test_collect_of_an_unfinished_job_wants_to_be_told(
    killed: Desk, undisturbed: list[Row]
) -> None:
    ran = killed.run("collect", killed.job(), "--out", "b.parquet")
    assert ran.status == 1
    assert "lacks its batch 5" in ran.complaint()
    assert not (killed.folder / "b.parquet").exists()
    partial = killed.run("collect", killed.job(), "--out", "b.parquet", "--partial")
    assert partial.status == 0
    assert f"20 of {ROWS} rows" in partial.out
    assert killed.answers("b.parquet") == undisturbed[:20]


def test_collect_does_not_overwrite_the_input(finished: Desk) -> None:
    ran = finished.run("collect", finished.job(), "--out", "in.parquet", "--overwrite")
    assert ran.status == 2
    assert "is an input of the job" in ran.complaint()
    assert finished.table("in.parquet").num_rows == ROWS


def test_two_commands_do_not_run_one_job_at_once(desk: Desk, undisturbed: list[Row]) -> None:
    first = start_gated(desk)
    for words in (desk.words(), ["resume", desk.job()], desk.words("--overwrite")):
        second = desk.run(*words)
        assert second.status == 1
        assert f"`spanmill watch {desk.job()}" in second.complaint()
    (desk.folder / "gate").touch()
    assert first.finish().status == 0
    assert without_gated_row(desk.answers()) == without_gated_row(undisturbed)
    assert "failed" not in desk.states()


def test_a_job_whose_input_was_never_checked_says_so(finished: Desk) -> None:
    (finished.jobs / finished.job() / "manifest.json").unlink()
    ran = finished.run("resume", finished.job())
    assert ran.status == 1
    assert "before its input was checked" in ran.complaint()


def test_the_spanmill_script_is_installed_and_answers(desk: Desk) -> None:
    script = Path(sys.executable).parent / "spanmill"  # wherever PATH leads
    told = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert told.stdout.strip().count(".") == 2
    listed = subprocess.run([script, "--help"], capture_output=True, text=True, check=True)
    for command in ("answer", "jobs", "status", "watch", "resume", "cancel", "collect"):
        assert command in listed.stdout


def test_events_carry_their_time_and_reason(killed: Desk) -> None:
    events = sorted((killed.jobs / killed.job() / "events").glob("*.json"))
    assert [path.name for path in events] == ["0001-validating.json", "0002-running.json"]
    assert set(json.loads(events[0].read_text())) == {"state", "at", "reason"}
