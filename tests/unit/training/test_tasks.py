"""A message is done with whatever it says, and nothing that kills is tried without end."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from training.doorbell import WIRE_VERSION, Message
from training.fence import Fence, take_fence
from training.holds import Holder, name_self
from training.run_state import Order, RunFolder, RunState, Turn
from training.tasks import DEATHS, Clerk, Outcome, Post
from worker.contracts.broker import Broker
from worker.contracts.process import ProcessName
from worker.contracts.root import name_root
from worker.contracts.store import LocalStore
from worker.events import Event

ORDER = Order(
    text="", settings=(), steps=("first",), data="/data", encoder=None, processes=None, cwd="/"
)
DEAD = ProcessName("elsewhere", 1, "another machine", "1")


class Desk:
    """A clerk with a run, and what it says."""

    def __init__(self, root: Path) -> None:
        self.said: list[Event] = []
        self.leaving = False
        self.looked: Callable[[], None] | None = None
        self.run = RunFolder(root / "towns")
        self.run.folder.mkdir()
        self.run.put_order(ORDER)
        self.run.put_turn(Turn.SUBMITTED)
        post = Post("a", Broker(socket="/nowhere"), root, None, 30.0)
        self.clerk = Clerk(post, self.said.append, self._is_leaving)
        self.root = name_root(LocalStore(root))

    def _is_leaving(self) -> bool:
        """Answer what a clerk asks last before it takes a run; others do something just then."""
        looked, self.looked = self.looked, None
        if looked is not None:
            looked()
        return self.leaving

    def take(self, run: str = "towns", root: str | None = None) -> Outcome:
        token = self.root if root is None else root
        return self.clerk.take(Message(run, "first", token, WIRE_VERSION))

    def die(self, at: str | None) -> None:
        """Be a worker whose process dies in the step, having gone on from a checkpoint."""
        taken = take_fence(self.run.folder, Holder(who="b", process=DEAD, step="first", at=at))
        assert isinstance(taken, Fence)
        path = self.run.folder / "fences" / f"{taken.number:07d}.json"
        os.utime(path, (1, 1))


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_step_that_kills_its_process_again_and_again_fails_the_run(desk: Desk) -> None:
    for _ in range(DEATHS):
        desk.die(None)
    assert desk.take() is Outcome.FAILED
    assert desk.run.read().state is RunState.FAILED
    assert "5 processes in a row died in the step first" in str(desk.run.read().reason)
    assert desk.take() is Outcome.IDLE  # no retry


def test_a_message_for_a_run_that_is_held_done_or_cancelled_begins_nothing(desk: Desk) -> None:
    taken = take_fence(desk.run.folder, Holder(who="b", process=name_self()))
    assert isinstance(taken, Fence)
    with taken:
        assert desk.take() is Outcome.IDLE
    desk.leaving = True
    assert desk.take() is Outcome.IDLE
    desk.leaving = False
    desk.run.put_turn(Turn.CANCELLED)
    assert desk.take() is Outcome.IDLE
    desk.run.put_turn(Turn.SUBMITTED)
    (desk.run.folder / "first.done.json").write_text("{}")
    assert desk.take() is Outcome.IDLE
    assert len(list((desk.run.folder / "fences").iterdir())) == 1


def test_a_message_of_another_runs_folder_or_of_no_run_is_told(desk: Desk) -> None:
    assert desk.take(root="another") is Outcome.FOREIGN
    assert "is not that of the run towns" in str(desk.said[-1].message)
    assert desk.take("gone") is Outcome.FOREIGN
    assert "holds no run" in str(desk.said[-1].message)


def test_a_message_that_comes_twice_takes_no_step_that_was_taken_meanwhile(desk: Desk) -> None:
    """Another worker finishes, or fails, the step between the look at the run and the hold."""

    def finish() -> None:
        (desk.run.folder / "first.done.json").write_text("{}")

    def fail() -> None:
        desk.run.put_turn(Turn.FAILED, "a loss is no number")

    for meanwhile, state in ((fail, RunState.FAILED), (finish, RunState.FINISHED)):
        desk.run.put_turn(Turn.SUBMITTED)
        desk.looked = meanwhile
        assert desk.take() is Outcome.IDLE
        assert desk.run.read().state is state


def test_a_run_whose_worker_died_in_a_pause_is_paused_no_more_once_another_has_it(
    desk: Desk,
) -> None:
    desk.die(None)
    desk.run.put_turn(Turn.PAUSED, "the disk is full: make room")
    assert desk.take() is Outcome.FAILED  # its recipe is gone, which is beside the point
    turns = [path.stem.split("-")[1] for path in sorted((desk.run.folder / "events").iterdir())]
    assert turns == ["submitted", "paused", "resumed", "failed"]
