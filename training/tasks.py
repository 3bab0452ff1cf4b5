"""One message, from the hold of its run until the step is done, or why it is not.

Whatever goes wrong, the message is done with when this returns: a run that waits is rung for again.
What needs torch is loaded here, in the process that trains, once there is something to do.
"""

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from training.doorbell import Bell, Message
from training.fence import Fence, StoppedError, Wish, heed, take_fence
from training.holds import Holder, count_deaths, name_self
from training.progress import listening
from training.run_state import RunFolder, RunState, Standing, Turn, ask_for
from worker.contracts.broker import Broker
from worker.contracts.errors import SpanmillError, UsageError, WorldError
from worker.contracts.root import read_root
from worker.contracts.store import LocalStore
from worker.events import Event, Hear, Level

#: So many processes in a row may die in a step before it gets to another checkpoint.
DEATHS = 5
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0


class Outcome(StrEnum):
    """What came of a message."""

    DONE = "done"
    LEFT = "left"  # the worker ends: another one goes on
    CANCELLED = "cancelled"
    OVERTAKEN = "overtaken"
    FAILED = "failed"
    IDLE = "idle"  # somebody is at it, or nothing is to be done
    FOREIGN = "foreign"  # no message of ours, or of another runs' folder


_STOPPED = {
    Wish.LEAVE: Outcome.LEFT,
    Wish.CANCEL: Outcome.CANCELLED,
    Wish.OVERTAKEN: Outcome.OVERTAKEN,
}


@dataclass(frozen=True, slots=True)
class Post:
    """Where a worker works; ``data`` is as in ``training.stint``."""

    worker: str
    broker: Broker
    runs_root: Path
    data: Path | None
    lease_seconds: float


class Clerk:
    """What one process of a worker holds."""

    def __init__(self, post: Post, hear: Hear, is_leaving: Callable[[], bool]) -> None:
        """Take the place, who hears what comes of it, and what says that the worker ends."""
        self._post, self._hear, self._is_leaving = post, hear, is_leaving

    def take(self, message: Message) -> Outcome:
        """Take a run's next step, if it is this process's turn."""
        run = RunFolder(self._post.runs_root / message.run)
        try:
            standing = self._look(run, message)
        except UsageError as error:
            return self._tell(run, message.step, Outcome.FOREIGN, str(error))
        step = standing.next_step
        if standing.state is not RunState.WAITING or step is None or self._is_leaving():
            return self._tell(run, message.step, Outcome.IDLE)
        at = _find_checkpoint(run, step)
        deaths = count_deaths(run.folder, step, at)
        fence = self._take_fence(run, step, at)
        if fence is None:
            return self._tell(run, step, Outcome.IDLE)
        with fence:
            # What was seen above was seen without the hold: others may have gone on meanwhile.
            if not run.awaits(step) or at != _find_checkpoint(run, step):
                return self._tell(run, step, Outcome.IDLE)
            outcome = self._refuse(run, step, deaths) if deaths >= DEATHS else None
            if outcome is None:
                outcome = self._work(run, step, fence)
            if outcome is Outcome.DONE:
                _note_finished(run)
        if outcome in (Outcome.DONE, Outcome.LEFT):
            self._pass_on(run)
        return outcome

    def _look(self, run: RunFolder, message: Message) -> Standing:
        if read_root(LocalStore(self._post.runs_root)) != message.root:
            raise UsageError(
                f"the runs' folder {self._post.runs_root} is not that of the run {message.run}:"
                " give both the same folder as --runs-root"
            )
        return run.read()

    def _take_fence(self, run: RunFolder, step: str, at: str | None) -> Fence | None:
        holder = Holder(
            who=f"worker {self._post.worker}",
            process=name_self(),
            step=step,
            at=at,
            lease_seconds=self._post.lease_seconds,
        )
        taken = take_fence(run.folder, holder, ask_for(run, self._is_leaving))
        return taken if isinstance(taken, Fence) else None

    def _work(self, run: RunFolder, step: str, fence: Fence) -> Outcome:
        pause = _Pause(run, fence)
        began = time.monotonic()

        def say(line: str) -> None:
            self._hear(Event("progress", message=line, facts={"run": run.name}))

        while True:
            try:
                heed()
                with listening(pause):
                    self._do(run, step, say)
            except StoppedError as stop:
                outcome = _STOPPED[stop.wish]
                return self._tell(run, step, outcome, str(stop), time.monotonic() - began)
            except WorldError as error:
                self._hear(Event("paused", Level.WARNING, str(error), facts={"run": run.name}))
                pause.begin(str(error))
            except SpanmillError as error:
                return self._fail(run, step, str(error))
            except Exception as error:  # noqa: BLE001  a library that breaks in a new way
                name = type(error).__name__  # alone: its message may quote a row
                why = f"unexpected {name} in the step {step}: follow the run by `spanmill --debug"
                return self._fail(run, step, f"{why} training run` to see more, and report it")
            else:
                with suppress(SpanmillError):  # the step is done, whatever is said of it
                    pause.end()
                return self._tell(run, step, Outcome.DONE, None, time.monotonic() - began)

    def _do(self, run: RunFolder, step: str, say: Callable[[str], None]) -> None:
        # Not above: a process that is forked with torch in it shares what its threads had locked.
        from training.stint import Stint, do

        do(Stint(run, step, self._post.data), say)

    def _refuse(self, run: RunFolder, step: str, deaths: int) -> Outcome:
        why = (
            f"{deaths} processes in a row died in the step {step} before its next checkpoint: look"
            " at the memory of the workers, or have checkpoints more often, and submit it again"
        )
        return self._fail(run, step, why)

    def _fail(self, run: RunFolder, step: str, why: str) -> Outcome:
        try:
            run.put_turn(Turn.FAILED, why)
        except StoppedError as stop:
            return self._tell(run, step, Outcome.OVERTAKEN, str(stop))
        except WorldError as error:  # it is tried again, and fails again
            return self._tell(
                run, step, Outcome.FAILED, f"{why}; and it could not be noted: {error}"
            )
        return self._tell(run, step, Outcome.FAILED, why)

    def _pass_on(self, run: RunFolder) -> None:
        with suppress(SpanmillError):  # it is rung again by who looks for runs that wait
            step = run.read().next_step
            if step is not None:
                Bell(self._post.broker, self._post.runs_root).ring(run.name, step)

    def _tell(
        self,
        run: RunFolder,
        step: str,
        outcome: Outcome,
        why: str | None = None,
        seconds: float | None = None,
    ) -> Outcome:
        level = Level.INFO
        if outcome in (Outcome.FAILED, Outcome.FOREIGN, Outcome.OVERTAKEN):
            level = Level.WARNING
        facts = {"run": run.name, "step": step}
        self._hear(
            Event("step", level, why, outcome=outcome, duration_seconds=seconds, facts=facts)
        )
        return outcome


class _Pause(logging.Handler):
    """Waits that the world is in order again, ever longer; the run's folder says so meanwhile.

    It ends when the step gets on: what a step says before may come again at each try.
    """

    def __init__(self, run: RunFolder, fence: Fence) -> None:
        super().__init__(logging.INFO)
        self._run, self._fence = run, fence
        self._seconds = FIRST_PAUSE_SECONDS
        self._told: str | None = None
        if run.is_paused():  # whoever said so has died, or was told to leave
            self._told = ""
            with suppress(SpanmillError):  # else when the step gets on
                self.end()

    def emit(self, record: logging.LogRecord) -> None:  # noqa: ARG002
        self.end()

    def begin(self, why: str) -> None:
        if why != self._told:
            with suppress(SpanmillError):  # the disk may be what is in the way
                self._run.put_turn(Turn.PAUSED, why)
                self._told = why
        self._fence.wait(self._seconds)
        self._seconds = min(2 * self._seconds, LONGEST_PAUSE_SECONDS)

    def end(self) -> None:
        if self._told is not None:
            self._run.put_turn(Turn.RESUMED)
            self._told = None
        self._seconds = FIRST_PAUSE_SECONDS


def _note_finished(run: RunFolder) -> None:
    with suppress(SpanmillError):  # the steps say it too
        if run.read().state is RunState.FINISHED:
            run.put_turn(Turn.FINISHED)


def _find_checkpoint(run: RunFolder, step: str) -> str | None:
    latest = run.folder / step / "latest"
    return latest.resolve().name if latest.exists() else None
