"""What a single machine does to a job, for real: kills, crashes, hangs, interrupts, full disks.

Whatever happens, every row is answered once, in order, as in an undisturbed run.
"""

import json
import os
import random
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pyarrow.parquet as pq
import pytest

from tests.desk import ROWS, Desk, Ran, Row, make_rows, wait_for
from tests.tiny import Tiny
from worker.local import DRAIN_SECONDS

PATIENT = ("-m", "tests.perils", "300")
HASTY = ("-m", "tests.perils", "3")


def lay(desk: Desk, perils: dict[int, str]) -> None:
    """Write the usual input with perils in some rows' contexts."""
    rows = make_rows(ROWS)
    for number, peril in perils.items():
        rows[number]["context"] += f"<<{peril}>>"
    desk.write(rows)


def gate(desk: Desk) -> Path:
    """Return the file that a gated row waits for."""
    return desk.folder / "gate"


def wait_at(gate: Path) -> None:
    """Wait until the gated row is being read."""
    wait_for(Path(f"{gate}.reached").exists, "the gated row")


def assert_whole(desk: Desk, undisturbed: list[Row], *but: int) -> None:
    """Check that every row is there once, in order, and equal, those with perils but for texts."""
    answers = desk.answers()
    assert [row["row"] for row in answers] == list(range(ROWS))
    kept = [row for row in answers if row["row"] not in but]
    assert kept == [row for row in undisturbed if row["row"] not in but]


def errors_of(desk: Desk) -> dict[int, str]:
    return {row["row"]: row["error"] for row in desk.answers() if row["status"] == "error"}


def attempts_of(desk: Desk) -> list[int]:
    stats = pq.read_table(desk.jobs / desk.job() / "stats.parquet", columns=["attempt"])
    return stats.column("attempt").to_pylist()


def line_that_resumes(ran: Ran) -> list[str]:
    """Return the words of the command that an interrupted one printed."""
    (line,) = [one for one in ran.err.splitlines() if "go on with: " in one]
    words = shlex.split(line.split("go on with: ")[1])
    assert words[:2] == ["spanmill", "resume"]
    return words[1:]


# kill -9 of the command


def test_kill_9_at_random_moments_loses_and_repeats_nothing(
    desk: Desk, undisturbed: list[Row]
) -> None:
    chance = random.Random(20)  # noqa: S311
    began = time.monotonic()
    assert desk.answer("--out", "measure.parquet", "--job-id", "measure").status == 0
    seconds = time.monotonic() - began
    shutil.rmtree(desk.jobs)
    words = desk.words("--workers", "2", "--batch-rows", "2")
    committed: dict[str, tuple[int, int]] = {}
    for _ in range(12):
        started = desk.start(*words)
        time.sleep(chance.uniform(0.0, seconds))  # the moment is what is drawn
        started.kill()
        assert committed.items() <= desk.shards().items(), "a shard was written again"
        committed = desk.shards()
    ran = desk.run(*words)
    assert ran.status == 0, ran.err
    assert committed.items() <= desk.shards().items()
    assert_whole(desk, undisturbed)
    assert not list(desk.folder.glob(".spanmill-*"))


@pytest.mark.parametrize("state", ["validating", "running", "collecting"])
def test_kill_9_in_each_state_is_healed_by_the_same_command(
    desk: Desk, undisturbed: list[Row], state: str
) -> None:
    started = desk.start(*desk.words())
    wait_for(lambda: list(desk.jobs.glob(f"*/events/*-{state}.json")), state)
    started.kill()
    ran = desk.answer()
    assert ran.status == 0, ran.err
    assert_whole(desk, undisturbed)
    assert not list(desk.folder.glob(".spanmill-*"))


def test_no_answering_process_outlives_its_parent(desk: Desk) -> None:
    lay(desk, {9: "hang@score", 20: "hang@score"})
    started = desk.start(*desk.words("--workers", "2"), program=PATIENT)
    wait_for(lambda: len(desk.shards()) >= 2, "shards")
    children = started.answering()
    assert len(children) == 2
    started.kill()
    gone, alive = psutil.wait_procs(children, timeout=30)
    assert (len(gone), alive) == (2, [])


def test_what_a_killed_command_left_behind_is_swept(desk: Desk) -> None:
    assert desk.answer().status == 0
    (desk.folder / "out.parquet").unlink()
    (desk.jobs / desk.job() / "shards/0000/0000003.parquet").unlink()
    old, new = desk.jobs / ".tmp/old", desk.jobs / ".tmp/new"
    scratch = desk.folder / f".spanmill-{desk.job()}-half"
    scratch.mkdir()
    for path in (old, new, scratch / "answers.parquet"):
        path.write_bytes(b"half a file")
    os.utime(old, (0, 0))
    assert desk.answer().status == 0
    assert not old.exists()
    assert new.exists(), "another command may be writing it"
    assert not scratch.exists()


# kill -9 of an answering process


def test_a_killed_answering_process_costs_no_row(desk: Desk, undisturbed: list[Row]) -> None:
    lay(desk, {13: f"gate@score:{gate(desk)}", 30: f"gate@decode:{gate(desk)}2"})
    started = desk.start(*desk.words(), program=PATIENT)
    for closed in (gate(desk), Path(f"{gate(desk)}2")):
        wait_at(closed)
        (child,) = started.answering()
        child.kill()
        closed.touch()
    ran = started.finish()
    assert ran.status == 0, ran.err
    assert ran.err == ""
    assert_whole(desk, undisturbed, 13, 30)
    attempts = attempts_of(desk)
    assert (attempts[3], attempts[7]) == (2, 2)
    assert max(attempts) == 2


def test_a_row_that_gets_its_process_killed_twice_is_an_error(
    desk: Desk, undisturbed: list[Row]
) -> None:
    lay(desk, {13: "kill@score", 14: f"kill@score:{desk.folder}/once:once"})
    ran = desk.start(*desk.words(), program=PATIENT).finish()
    assert ran.status == 3, ran.err
    assert errors_of(desk) == {
        13: "reading this row ended in a kill from outside (signal 9) twice: check its text, then"
        " retry the errors"
    }
    assert_whole(desk, undisturbed, 13, 14)


def test_processes_that_are_always_killed_end_the_job_which_can_be_resumed(
    desk: Desk, undisturbed: list[Row]
) -> None:
    lay(desk, {13: "kill@start"})
    ran = desk.start(*desk.words(), program=PATIENT).finish()
    assert ran.status == 1
    assert "5 answering processes in a row ended in a kill from outside" in ran.complaint()
    assert desk.states()[-1] == "failed"
    assert desk.answer().status == 0
    assert_whole(desk, undisturbed, 13)


# rows that break their process


def test_a_row_that_crashes_its_process_is_one_error_and_its_neighbours_are_answered(
    desk: Desk, undisturbed: list[Row]
) -> None:
    perils = {5: "segv@score", 6: "abort@encode", 17: "exit@decode", 30: "memory@score"}
    lay(desk, perils)
    ran = desk.start(*desk.words("--workers", "2"), program=PATIENT).finish()
    assert ran.status == 3, ran.err
    assert ran.err == "", "what libraries print as they die is not for the user"
    said = "reading this row ended in {}: check its text, then retry the errors"
    assert errors_of(desk) == {
        5: said.format("a crash (SIGSEGV)"),
        6: said.format("a crash (SIGABRT)"),
        17: said.format("an exit (code 3)"),
        30: said.format("want of memory twice"),
    }
    assert_whole(desk, undisturbed, *perils)
    attempts = attempts_of(desk)
    assert (attempts[1], attempts[4], attempts[7]) == (3, 2, 3)
    assert sum(attempts) == 12 + 2 + 1 + 2


def test_a_row_that_hangs_is_one_error(desk: Desk, undisturbed: list[Row]) -> None:
    lay(desk, {10: "hang@score"})
    ran = desk.start(*desk.words(), program=HASTY).finish()
    assert ran.status == 3, ran.err
    said = "reading this row ended in a hang: check its text, then retry the errors"
    assert errors_of(desk) == {10: said}
    assert_whole(desk, undisturbed, 10)


def test_a_row_that_raises_what_nobody_expects_is_one_error_that_quotes_nothing(
    desk: Desk, undisturbed: list[Row]
) -> None:
    lay(desk, {10: "raise@decode"})
    ran = desk.start(*desk.words(), program=PATIENT).finish()
    assert ran.status == 3, ran.err
    said = "reading this row ended in an error (TypeError): check its text, then retry the errors"
    assert errors_of(desk) == {10: said}
    assert_whole(desk, undisturbed, 10)


def test_a_batch_that_dies_without_naming_a_row_ends_as_error_rows(
    desk: Desk, undisturbed: list[Row]
) -> None:
    lay(desk, {13: "segv@start"})
    ran = desk.start(*desk.words(), program=PATIENT).finish()
    assert ran.status == 3, ran.err
    said = "the batch of this row ended in a crash (SIGSEGV) 5 times: retry the errors"
    assert errors_of(desk) == dict.fromkeys(range(12, 16), said)
    assert_whole(desk, undisturbed, *range(12, 16))


def test_a_model_run_of_several_rows_finds_the_one_that_crashes_it(desk: Desk, tiny: Tiny) -> None:
    lay(desk, {13: "segv@score"})
    words = desk.words("--bundle", tiny.bundle(mask=True), "--batch-rows", "16")
    assert desk.run(*words).status == 0
    expected = desk.answers()
    (manifest,) = desk.jobs.glob("*/manifest.json")
    plan = json.loads(manifest.read_text())
    plan["forward"]["max_windows"] = 64  # as on a graphics card
    manifest.write_text(json.dumps(plan))
    shutil.rmtree(manifest.parent / "shards")
    (desk.folder / "out.parquet").unlink()
    ran = desk.start("resume", desk.job(), program=PATIENT).finish()
    assert ran.status == 3, ran.err
    assert list(errors_of(desk)) == [13]
    assert attempts_of(desk) == [3, 1, 1], "once together, once each alone, once without the row"
    for row, asked in zip(desk.answers(), expected, strict=True):
        assert row["row"] == 13 or row["best_answer"] == asked["best_answer"]


# interrupts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_lets_the_batches_in_work_finish_and_prints_what_resumes(
    desk: Desk, undisturbed: list[Row], number: signal.Signals
) -> None:
    lay(desk, {13: f"gate@score:{gate(desk)}"})
    started = desk.start(*desk.words(), program=PATIENT)
    wait_at(gate(desk))
    started.interrupt(number)  # it goes to the answering processes, too
    wait_for(lambda: "stopping when" in started.err.read_text(), "the end of handing out batches")
    gate(desk).touch()
    ran = started.finish()
    assert ran.status == 130, ran.err
    assert len(ran.err.splitlines()) == 2
    assert len(desk.shards()) == 4, "the batch in work is committed, and no other is begun"
    assert desk.states()[-1] == "paused"
    resumed = desk.run(*line_that_resumes(ran))
    assert resumed.status == 0, resumed.err
    assert_whole(desk, undisturbed, 13)


def test_more_interrupts_stop_at_once_and_show_no_traceback(
    desk: Desk, undisturbed: list[Row]
) -> None:
    lay(desk, {13: f"hang@score:{desk.folder}/once:once"})
    started = desk.start(*desk.words(), program=PATIENT)
    wait_for((desk.folder / "once").exists, "the row that hangs")
    began = time.monotonic()
    while started.process.poll() is None:
        started.interrupt()
        time.sleep(0.05)
        assert time.monotonic() - began < DRAIN_SECONDS, "it waits for the row that hangs"
    ran = started.finish()
    assert ran.status == 130, ran.err
    assert desk.run(*line_that_resumes(ran)).status == 0
    assert_whole(desk, undisturbed, 13)


def test_an_interrupt_while_the_input_is_checked_leaves_nothing_behind(desk: Desk) -> None:
    rows = make_rows(3) * 40_000
    desk.write(rows)
    started = desk.start(*desk.words())
    wait_for(lambda: list(desk.jobs.glob("*/events/*-validating.json")), "validating")
    started.interrupt()
    ran = started.finish()
    assert ran.status == 130, ran.err
    assert ran.err == "spanmill: stopped; the same command begins again\n"
    assert not list(desk.jobs.glob("*/manifest.json"))
    assert not list(desk.jobs.glob("*/events/*"))


# disks


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[tuple[tuple[str, ...], Path]]:
    """Mount a small disk in a mount namespace of its own, so that nothing is left behind.

    Gives the words that run a program there, and the path by which it is seen from here.
    """
    folder.mkdir(exist_ok=True)
    mount = 'mount -t tmpfs -o size="$1" tmpfs "$0" && echo ready && exec sleep 1000'
    holder = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", mount, str(folder), size],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert holder.stdout is not None
        if holder.stdout.readline() != "ready\n":
            pytest.skip("this user may not mount a disk")
        enter = 'cd "$0" && exec "$@"'
        pid = str(holder.pid)
        before = ("nsenter", "--mount", "--target", pid, "sh", "-c", enter, str(folder.parent))
        yield before, Path(f"/proc/{pid}/root{folder}")
    finally:
        holder.kill()
        holder.communicate()


def fill(disk: Path) -> Path:
    """Take all the room there is, and return the file that holds it."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(b"x" * 4096)
        except OSError:
            return ballast


def test_a_full_disk_pauses_the_job_until_there_is_room(desk: Desk, undisturbed: list[Row]) -> None:
    lay(desk, {13: f"gate@score:{gate(desk)}"})
    with small_disk(desk.jobs, "2m") as (before, disk):
        started = desk.start(*desk.words("--workers", "2"), program=PATIENT, before=before)
        wait_at(gate(desk))
        ballast = fill(disk)
        gate(desk).touch()
        wait_for(lambda: "paused" in started.err.read_text(), "the pause")
        ballast.unlink()
        ran = started.finish()
        assert ran.status == 0, ran.err
        lines = ran.err.splitlines()
        assert len(lines) == 2, ran.err
        assert "No space left on device): make room there; the job goes on by itself" in lines[0]
        assert lines[1] == "spanmill: going on"
        states = [path.stem[5:] for path in sorted(disk.glob("*/events/*.json"))]
        assert states.count("paused") == 1
        assert states[states.index("paused") + 1] == "running"
        attempts = pq.read_table(next(disk.glob("*/stats.parquet"))).column("attempt").to_pylist()
        assert set(attempts) == {1}, "the world's fault uses up no attempt"
    assert_whole(desk, undisturbed, 13)


def test_a_disk_that_stays_full_ends_the_job_which_can_be_resumed(
    desk: Desk, undisturbed: list[Row]
) -> None:
    lay(desk, {13: f"gate@score:{gate(desk)}"})
    with small_disk(desk.jobs, "2m") as (before, disk):
        words = desk.words("--max-pause-seconds", "1")
        started = desk.start(*words, program=PATIENT, before=before)
        wait_at(gate(desk))
        ballast = fill(disk)
        gate(desk).touch()
        ran = started.finish()
        assert ran.status == 1
        assert len(ran.err.splitlines()) == 2
        said = ran.err.splitlines()[1]
        assert said.startswith("spanmill: error: cannot write ")
        ballast.unlink()
        again = shlex.split(said.split("`")[1])
        assert again[:2] == ["spanmill", "resume"]
        resumed = desk.run(*again[1:], before=before)
        assert resumed.status == 0, resumed.err
    assert_whole(desk, undisturbed, 13)


def test_a_full_disk_at_the_output_pauses_collecting(desk: Desk, undisturbed: list[Row]) -> None:
    lay(desk, {46: f"gate@score:{gate(desk)}"})
    with small_disk(desk.folder / "there", "1m") as (before, disk):
        words = ["--out", "there/out.parquet", "--jobs-root", desk.jobs]
        started = desk.start(*desk.words(*words), program=PATIENT, before=before)
        wait_at(gate(desk))
        ballast = fill(disk)
        gate(desk).touch()
        wait_for(lambda: "paused" in started.err.read_text(), "the pause")
        assert desk.states()[-1] == "paused"
        ballast.unlink()
        ran = started.finish()
        assert ran.status == 0, ran.err
        shutil.copy(disk / "out.parquet", desk.folder / "out.parquet")
        assert [path.name for path in disk.iterdir()] == ["out.parquet"]
    assert_whole(desk, undisturbed, 46)


def test_a_damaged_shard_is_named_and_can_be_made_again(desk: Desk, undisturbed: list[Row]) -> None:
    assert desk.answer().status == 0
    (desk.folder / "out.parquet").unlink()
    job = desk.job()
    shards = sorted(desk.jobs.glob("*/shards/*/*.parquet"))
    damaged = {shards[3]: shards[3].read_bytes()[:-100], shards[7]: b"", shards[9]: b"x" * 5000}
    for path, raw in damaged.items():
        path.write_bytes(raw)
        ran = desk.answer()
        assert ran.status == 1
        assert path.name in ran.complaint()
        assert not (desk.folder / "out.parquet").exists()
        path.unlink()
    ran = desk.run("resume", job)
    assert ran.status == 0, ran.err
    assert_whole(desk, undisturbed)


def test_the_jobs_copy_of_the_bundle_is_mended_by_its_command(
    desk: Desk, undisturbed: list[Row]
) -> None:
    lay(desk, {13: "hang@score"})
    started = desk.start(*desk.words(), program=PATIENT)
    wait_for(lambda: len(desk.shards()) == 3, "some shards")
    started.kill()
    (model,) = desk.jobs.glob("bundles/*/model.onnx")
    raw = bytearray(model.read_bytes())
    raw[5000] ^= 1
    model.write_bytes(raw)
    ran = desk.run("resume", desk.job())
    assert ran.status == 1
    assert "give the job's whole `spanmill answer` command again" in ran.complaint()
    ran = desk.answer()
    assert ran.status == 0, ran.err
    assert_whole(desk, undisturbed, 13)
