"""A run's state follows from its folder: what was ordered, done, held, and what happened."""

import fcntl
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest

from training.broker import find_broker
from training.doorbell import WIRE_VERSION, read_message
from training.fence import Fence, take_fence
from training.holds import LOCK, Holder, name_self
from training.run_state import Order, RunFolder, RunState, Turn, check_name, find_run, list_runs
from training.run_status import TAIL_BYTES, describe, read_status
from worker.contracts.errors import UsageError

ORDER = Order(
    text="", settings=(), steps=("first", "second"), data="/data", encoder=None, processes=None,
    cwd="/",
)  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    made = RunFolder(tmp_path / "towns")
    made.folder.mkdir()
    made.put_order(ORDER)
    return made


def hold(run: RunFolder) -> Fence:
    taken = take_fence(run.folder, Holder(who="worker a", process=name_self()))
    assert isinstance(taken, Fence)
    return taken


def finish(run: RunFolder, step: str) -> None:
    (run.folder / f"{step}.done.json").write_text("{}")


@pytest.mark.parametrize(
    ("turns", "state", "held"),
    [
        ([], RunState.STOPPED, RunState.RUNNING),
        ([Turn.BEGUN], RunState.STOPPED, RunState.RUNNING),
        ([Turn.SUBMITTED], RunState.WAITING, RunState.RUNNING),
        ([Turn.SUBMITTED, Turn.PAUSED], RunState.WAITING, RunState.PAUSED),
        ([Turn.SUBMITTED, Turn.PAUSED, Turn.RESUMED], RunState.WAITING, RunState.RUNNING),
        ([Turn.SUBMITTED, Turn.CANCELLED], RunState.CANCELLED, RunState.CANCELLING),
        # What a worker says after a wish to cancel takes nothing back.
        ([Turn.SUBMITTED, Turn.CANCELLED, Turn.PAUSED], RunState.CANCELLED, RunState.CANCELLING),
        ([Turn.SUBMITTED, Turn.FAILED], RunState.FAILED, RunState.FAILED),
        ([Turn.SUBMITTED, Turn.CANCELLED, Turn.SUBMITTED], RunState.WAITING, RunState.RUNNING),
        ([Turn.SUBMITTED, Turn.FAILED, Turn.BEGUN], RunState.STOPPED, RunState.RUNNING),
    ],
)
def test_a_state_follows_from_what_happened(
    turns: list[Turn], state: RunState, held: RunState, run: RunFolder
) -> None:
    for turn in turns:
        run.put_turn(turn, "the disk is full: make room")
    assert run.read().state is state
    with hold(run):
        assert run.read().state is held
        assert run.read().holder is not None


def test_a_run_is_finished_when_its_last_step_is_done(run: RunFolder) -> None:
    run.put_turn(Turn.SUBMITTED)
    assert run.read().next_step == "first"
    finish(run, "first")
    assert run.read().next_step == "second"
    finish(run, "second")
    assert run.read().state is RunState.FINISHED
    assert describe(read_status(run)) == "towns: finished"
    run.put_turn(Turn.CANCELLED)  # too late: there is nothing to cancel any more
    assert run.read().state is RunState.FINISHED


def test_progress_is_read_from_the_end_of_a_steps_metrics(run: RunFolder) -> None:
    assert describe(read_status(run)) == "towns: stopped, step first (1 of 2)"
    finish(run, "first")
    (run.folder / "second").mkdir()
    line = '{"step": %d, "steps": 10, "epoch": 2, "loss": 1.5, "seconds": 2.0}\n'
    score = '{"step": 3, "score": 1.0, "held_out": {"best_f1": 12.5}}\n'
    text = line % 2 + line % 3 + score + line % 4 + '{"step": 5, "st'
    (run.folder / "second" / "metrics.jsonl").write_text(text)
    status = read_status(run)
    assert (status.position, status.positions, status.epoch, status.loss) == (4, 10, 2, 1.5)
    assert (status.held_out_f1, status.seconds_left) == (12.5, 12.0)
    with hold(run):
        said = describe(read_status(run))
    assert said.startswith(
        "towns: running, step second (2 of 2), 4 of 10, epoch 2, loss 1.500, held-out F1 12.50,"
        " 12 s left of it, by worker a (process "
    )


def test_a_score_of_long_ago_is_still_told(run: RunFolder) -> None:
    (run.folder / "first").mkdir()
    line = '{"step": %d, "steps": 9999, "epoch": 2, "loss": 1.5, "seconds": 2.0}\n'
    scores = [f'{{"step": 1, "held_out": {{"best_f1": {f1}}}}}\n' for f1 in (11.5, 12.5)]
    for size in range(TAIL_BYTES - 40, TAIL_BYTES + 40, 13):  # wherever the cut lies
        later = (line % 8 * (2 * TAIL_BYTES // len(line)))[-size:].partition("\n")[2]
        text = line % 7 + scores[0] + line % 7 + scores[1] + later
        (run.folder / "first" / "metrics.jsonl").write_text(text)
        status = read_status(run)
        assert (status.held_out_f1, status.position) == (12.5, 8)


def test_the_fleets_own_database_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPANMILL_BROKER_URL", "redis://user:secret@host/1")
    for given in ("redis://host", "rediss://host:6379/1"):
        with pytest.raises(UsageError, match="is the fleet's own database"):
            find_broker(given)
    assert find_broker("redis://elsewhere") is not None


def test_runs_are_found_by_name_and_by_folder(run: RunFolder, tmp_path: Path) -> None:
    assert find_run(tmp_path, "towns").folder == run.folder
    assert find_run(tmp_path / "elsewhere", str(run.folder)).folder == run.folder
    assert [one.name for one in list_runs(tmp_path)] == ["towns"]
    with pytest.raises(UsageError, match="there is no run gone"):
        find_run(tmp_path, "gone")
    with pytest.raises(UsageError, match="holds no run"):
        RunFolder(tmp_path).read()


def test_messages_that_are_none_of_ours_are_known() -> None:
    ours = {"run": "towns", "step": "first", "root": "a", "version": WIRE_VERSION}
    assert read_message(ours) is not None
    for wrong in ({}, {"run": "../etc"}, {"run": 3}, {"version": 99}, {"step": None}):
        assert read_message(ours | wrong if wrong else {}) is None
    assert read_message([1]) is None
    with pytest.raises(UsageError, match="cannot be a run's name"):
        check_name("..")


@pytest.mark.parametrize(
    ("given", "fleet", "name"),
    [
        ("redis://host", None, "redis://host:6379/1"),
        ("redis://host/0", None, "redis://host:6379/0"),
        ("unix:///a.sock", None, "unix:///a.sock (database 1)"),
        ("unix:///a.sock?db=3", None, "unix:///a.sock (database 3)"),
        (None, "redis://host:6380/0", "redis://host:6380/1"),
        (None, "redis://host/4", "redis://host:6379/5"),
    ],
)
def test_trainings_have_a_database_of_their_own(
    given: str | None, fleet: str | None, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SPANMILL_BROKER_URL", raising=False)
    assert find_broker(None) is None
    if fleet is not None:
        monkeypatch.setenv("SPANMILL_BROKER_URL", fleet)
    found = find_broker(given)
    assert found is not None
    assert found.name == name


def test_an_order_that_is_damaged_is_told(run: RunFolder) -> None:
    run.put_order(replace(ORDER, steps=("only",)))
    assert list(run.read().steps) == ["only"]
    (run.folder / "order.json").write_text("{")
    with pytest.raises(UsageError, match="is damaged"):
        run.read()


def test_a_run_of_an_older_release_is_read_too(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "old")
    run.folder.mkdir()
    claim = '{"recipe": {"steps": {"first": {}, "bundle": {}}}, "files": {}}'
    (run.folder / "run.json").write_text(claim)
    assert run.read().state is RunState.STOPPED
    finish(run, "first")
    assert describe(read_status(run)) == "old: stopped, step bundle (2 of 2)"
    (run.folder / "run.json").write_text("{")
    with pytest.raises(UsageError, match="is damaged"):
        run.read()


def test_turns_of_one_moment_get_numbers_of_their_own(run: RunFolder) -> None:
    run.put_turn(Turn.SUBMITTED)
    with (run.folder / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as who puts a turn, and is not done yet
        other = Thread(target=run.put_turn, args=[Turn.CANCELLED])
        other.start()
        other.join(0.5)
        assert other.is_alive()
        (run.folder / "events" / "0002-submitted.json").write_text("{}")
    other.join()
    assert run.read().state is RunState.CANCELLED
