"""Answer a job's batches on this machine: feed the embedded fleet, and hear how it goes."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from producer.diary import Diary
from producer.run import (
    LOOK_SECONDS,
    Interrupted,
    Run,
    check_ratio,
    count_errors,
    is_answered,
    missing_batches,
    say_cancelled,
)
from worker.attempts import OutgoingBatch
from worker.contracts.errors import JobError, WorldError
from worker.contracts.job import State
from worker.contracts.shard import encode_payload
from worker.events import Level
from worker.local import DRAIN_SECONDS, FleetOptions, Hooks, run_fleet
from worker.task import Done, Tools
from worker.tools import JobTools, name_tools, open_tools


@dataclass(frozen=True, slots=True)
class Processes:
    """The processes of this machine. ``make_tools`` is what each of them opens."""

    count: int
    make_tools: Callable[[JobTools], Tools] = open_tools
    hang_seconds: float = 300.0

    def answer(self, run: Run, diary: Diary) -> None:
        """Answer what has no shard yet.

        Raises:
            Interrupted: the user stopped it.
            JobError: it was cancelled, has too many errors, or cannot go on.
        """
        manifest = run.manifest
        if is_answered(run.folder, manifest):
            return
        recipe = name_tools(run.folder.store.name, manifest)
        options = FleetOptions(
            workers=max(1, min(self.count, manifest.batches)),
            open_tools=partial(self.make_tools, recipe),
            hang_seconds=self.hang_seconds,
            max_pause_seconds=run.max_pause_seconds,
        )
        watch = _Watch(run, diary)
        with run.listening(), run.progress:
            try:
                finished = run_fleet(_outgoing(run, watch), options, watch.hooks())
            except WorldError as error:
                raise JobError(f"{error}, then run `{run.name_resume()}`") from error
        if diary.was_cancelled():
            raise JobError(say_cancelled(run))
        if not finished:
            raise Interrupted


def _outgoing(run: Run, watch: "_Watch") -> Iterator[OutgoingBatch]:
    for number, table in missing_batches(run, watch.stopping, run.progress.skip, watch.suffer):
        watch.recover()
        numbers = table.column("row").to_pylist()
        yield OutgoingBatch(number, numbers, encode_payload(run.manifest.job, number, table))


class _Watch:
    """Hears the fleet: counts, writes events, and says when to stop."""

    def __init__(self, run: Run, diary: Diary) -> None:
        self._run = run
        self._diary = diary
        self._errors = 0 if run.manifest.max_error_ratio is None else count_errors(run)
        self._looked_at = time.monotonic()
        self._cancelled = False
        self._suffering_since: float | None = None

    def hooks(self) -> Hooks:
        return Hooks(self._done, self._paused, self._resumed, self.stopping, self._draining)

    def stopping(self) -> bool:
        now = time.monotonic()
        if now - self._looked_at > LOOK_SECONDS:
            self._looked_at = now
            self._diary.catch_up()
            self._cancelled = self._diary.was_cancelled()
        return self._cancelled or self._run.interrupted()

    def suffer(self, reason: str) -> None:
        """Pause while the producer itself cannot read.

        Raises:
            WorldError: that has been so for too long.
        """
        now = time.monotonic()
        if self._suffering_since is None:
            self._suffering_since = now
            self._paused(reason)
        elif now - self._suffering_since > self._run.max_pause_seconds:
            raise WorldError(reason)

    def recover(self) -> None:
        """Go on: something could be read."""
        if self._suffering_since is not None:
            self._suffering_since = None
            self._resumed()

    def _done(self, batch: OutgoingBatch, done: Done) -> None:
        if done.stats is None:
            self._run.progress.skip(len(batch.rows))
            return
        self._errors += done.stats.errors
        self._run.progress.advance(done.stats.rows, done.stats.errors)
        check_ratio(self._run, self._errors)

    def _paused(self, reason: str) -> None:
        self._diary.note(State.PAUSED, reason)
        self._run.progress.say(
            f"paused: {reason}; the job goes on by itself", "paused", Level.WARNING
        )

    def _resumed(self) -> None:
        self._diary.note(State.RUNNING)
        self._run.progress.say("going on", "going-on")

    def _draining(self) -> None:
        self._run.progress.say(
            f"stopping when the batches in work are done, in {DRAIN_SECONDS:.0f} s at most;"
            " interrupt again to stop at once",
            "stopping",
        )
