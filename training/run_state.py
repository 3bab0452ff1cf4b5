"""A run's folder: what was ordered, what is done of it, and what became of it so far.

``order.json`` is what a worker needs to follow the recipe, ``<step>.done.json`` says that a step is
finished, ``events/0003-paused.json`` are the turns of its life. Everything else follows from these
and from who holds it.
"""

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

import msgspec

from training.fence import Ask, Wish, alone_in, draft_of, writing
from training.holds import Hold, describe_hold, find_hold
from worker.contracts.errors import UsageError, WorldError
from worker.contracts.store import LocalStore

ORDER = "order.json"
#: What the folder is for.
CLAIM = "run.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Turn(StrEnum):
    """What happens to a run."""

    SUBMITTED = "submitted"  # from here on workers may take it
    BEGUN = "begun"  # from here on a command follows it itself
    PAUSED = "paused"
    RESUMED = "resumed"
    CANCELLED = "cancelled"
    FAILED = "failed"
    FINISHED = "finished"


class RunState(StrEnum):
    """How a run stands."""

    WAITING = "waiting"  # for a worker
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"  # nobody follows it, and no worker may
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    FAILED = "failed"
    FINISHED = "finished"


#: Nothing happens any more, until somebody gives the command again.
OVER = frozenset({RunState.STOPPED, RunState.CANCELLED, RunState.FAILED, RunState.FINISHED})
_REASONED = frozenset({RunState.WAITING, RunState.PAUSED, RunState.FAILED})
_EVENT = re.compile(rf"(\d{{4,}})-({'|'.join(Turn)})\.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What was ordered. ``steps`` are those to be taken; relative paths are from ``cwd``.

    ``processes`` is None for as many as the machine that does it has cores.
    """

    text: str
    settings: tuple[str, ...]
    steps: tuple[str, ...]
    data: str
    encoder: str | None
    processes: int | None
    cwd: str
    tensorboard: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """A run's state, the reason for it, who holds it, and its steps with whether each is done."""

    state: RunState
    reason: str | None
    holder: str | None
    steps: dict[str, bool]

    @property
    def next_step(self) -> str | None:
        """The step that is being taken, or comes next."""
        return next((name for name, done in self.steps.items() if not done), None)


class RunFolder:
    """One run."""

    def __init__(self, folder: Path) -> None:
        """Read nothing yet."""
        self.folder = folder
        self._store = LocalStore(folder)

    @property
    def name(self) -> str:
        """The run's name."""
        return self.folder.name

    def read_order(self) -> Order | None:
        """Return what was ordered, None where nothing was.

        Raises:
            UsageError: it is damaged.
        """
        raw = self._store.read(ORDER)
        if raw is None:
            return None
        try:
            return msgspec.json.decode(raw, type=Order)
        except msgspec.MsgspecError as error:
            raise UsageError(
                f"{self.folder / ORDER} is damaged ({error}): give the command that began the run"
                " again"
            ) from error

    def put_order(self, order: Order) -> None:
        """Write what is ordered, in place of an earlier order."""
        text = msgspec.json.format(msgspec.json.encode(order)).decode()
        write_whole(self.folder / ORDER, text)

    def put_turn(self, turn: Turn, reason: str | None = None) -> None:
        """Append an event.

        Raises:
            StoppedError: another process has taken the run over.
            WorldError: the disk does not take it.
        """
        at = datetime.now(UTC).isoformat(timespec="seconds")
        raw = msgspec.json.encode({"turn": turn, "at": at, "reason": reason})
        with alone_in(self.folder):  # a turn is part of the name: two of one number could both be
            turns = self._list_turns()
            number = turns[-1][0] + 1 if turns else 1
            while not self._store.put_new(f"events/{number:04d}-{turn}.json", raw):
                number += 1

    def is_cancelled(self) -> bool:
        """Say whether it was cancelled since it was begun last."""
        return Turn.CANCELLED in _latest([turn for _, turn in self._list_turns()])

    def is_done(self, step: str) -> bool:
        """Say whether a step is finished."""
        return (self.folder / f"{step}.done.json").is_file()

    def read(self) -> Standing:
        """Return how the run stands.

        Raises:
            UsageError: there is no run.
            WorldError: the folder is away.
        """
        steps = {name: self.is_done(name) for name in self._list_steps()}
        turns = self._list_turns()
        hold = find_hold(self.folder)
        state = find_state(steps, [turn for _, turn in turns], hold)
        reason = self._read_reason(*turns[-1]) if turns and state in _REASONED else None
        holder = describe_hold(hold) if hold is not None and hold.lives else None
        return Standing(state, reason, holder, steps)

    def awaits(self, step: str) -> bool:
        """Say whether it is for workers to take this step next, whoever holds the run now.

        Raises:
            UsageError: there is no run.
            WorldError: the folder is away.
        """
        steps = {name: self.is_done(name) for name in self._list_steps()}
        state = find_state(steps, [turn for _, turn in self._list_turns()], None)
        return state is RunState.WAITING and Standing(state, None, None, steps).next_step == step

    def is_paused(self) -> bool:
        """Say whether the last that happened is a pause."""
        return [turn for _, turn in self._list_turns()][-1:] == [Turn.PAUSED]

    def _list_steps(self) -> tuple[str, ...]:
        order = self.read_order()
        if order is not None:
            return order.steps
        raw = self._store.read(CLAIM)  # of an older release
        if raw is None:
            raise UsageError(
                f"{self.folder} holds no run: give the folder of one, or its name and --runs-root"
            )
        try:
            return tuple(json.loads(raw)["recipe"]["steps"])
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{self.folder / CLAIM} is damaged: {error}") from error

    def _list_turns(self) -> list[tuple[int, Turn]]:
        found = (_EVENT.fullmatch(name) for name in self._store.names("events"))
        return sorted((int(one[1]), Turn(one[2])) for one in found if one is not None)

    def _read_reason(self, number: int, turn: Turn) -> str | None:
        raw = self._store.read(f"events/{number:04d}-{turn}.json")
        try:
            reason = json.loads(raw or b"{}").get("reason")
        except ValueError:
            return None
        return None if reason is None else str(reason)


def find_state(steps: dict[str, bool], turns: list[Turn], hold: Hold | None) -> RunState:
    """Return what follows from the steps, what happened, and who holds the run."""
    since = _latest(turns)
    lives = hold is not None and hold.lives
    if steps and list(steps.values())[-1]:
        return RunState.FINISHED
    if Turn.CANCELLED in since:
        return RunState.CANCELLING if lives else RunState.CANCELLED
    if Turn.FAILED in since:
        return RunState.FAILED
    if lives:
        return RunState.PAUSED if since[-1:] == [Turn.PAUSED] else RunState.RUNNING
    return RunState.WAITING if Turn.SUBMITTED in since else RunState.STOPPED


def _latest(turns: list[Turn]) -> list[Turn]:
    """Return what happened since the run was submitted or begun last, that included."""
    begun = [n for n, turn in enumerate(turns) if turn in (Turn.SUBMITTED, Turn.BEGUN)]
    return turns[begun[-1] :] if begun else turns


def ask_for(run: RunFolder, is_leaving: Callable[[], bool] = lambda: False) -> Ask:
    """Return what asks whether a run's holder is to stop."""

    def ask() -> Wish | None:
        if is_leaving():
            return Wish.LEAVE
        return Wish.CANCEL if run.is_cancelled() else None

    return ask


def find_run(runs_root: Path, name: str) -> RunFolder:
    """Return the run of a name, or in a folder.

    Raises:
        UsageError: it is neither.
    """
    by_name = runs_root / name
    folder = by_name if _NAME.fullmatch(name) and by_name.is_dir() else Path(name)
    if not folder.is_dir():
        raise UsageError(
            f"there is no run {name} in {runs_root}: give its folder, or its name and --runs-root"
        )
    return RunFolder(folder.absolute())


def list_runs(runs_root: Path) -> list[RunFolder]:
    """Return the runs that were ordered, by their names."""
    store = LocalStore(runs_root)
    names = [name for name in store.names("") if _NAME.fullmatch(name)]
    return [RunFolder(runs_root / name) for name in names if store.exists(f"{name}/{ORDER}")]


def check_name(name: str) -> str:
    """Return the name if a run can have it; it is that of a folder.

    Raises:
        UsageError: it holds other characters, or is too long.
    """
    if _NAME.fullmatch(name) is None:
        raise UsageError(
            f"{name!r} cannot be a run's name: use up to 100 letters, digits, dots, - and _, or"
            " give another folder by --out"
        )
    return name


def write_whole(path: Path, text: str) -> None:
    """Write a small file, whole and on disk, or leave what was there.

    Raises:
        StoppedError: another process has taken the run over.
        WorldError: the disk does not take it.
    """
    replace_text(path, text + "\n")


def replace_text(path: Path, text: str) -> None:
    """Write a text as ``write_whole`` does, without a line's end of its own.

    Raises:
        StoppedError: another process has taken the run over.
        WorldError: the disk does not take it.
    """
    draft = draft_of(path)
    try:
        with draft.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        with writing():
            draft.replace(path)
    except OSError as error:
        raise WorldError(
            f"{path} could not be written ({error.strerror}): make room there and run again"
        ) from error
