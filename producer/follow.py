"""Follows a job through the fleet: counts, pauses, cancellation; and sends again what was lost."""

import time
from collections.abc import Callable
from typing import TypeVar

from producer.diary import Diary
from producer.fleet_status import say_lonely
from producer.meter import Meter
from producer.run import (
    FIRST_BACKOFF_SECONDS,
    LONGEST_BACKOFF_SECONDS,
    LOOK_SECONDS,
    Interrupted,
    Run,
    check_ratio,
    say_cancelled,
)
from worker.contracts.errors import JobError, WorldError
from worker.contracts.flight import Counts
from worker.contracts.job import State
from worker.contracts.ledger import Ledger
from worker.contracts.resend import Resender
from worker.events import Level

T = TypeVar("T")

#: How often the ledger is asked, and how long nobody may take a batch before that is said.
COUNT_SECONDS = 0.25
LONELY_SECONDS = 3.0
#: Between two complaints of different words.
COMPLAIN_SECONDS = 15.0
#: How long nothing may fail before a pause is over: what fails is tried again more often than that.
CALM_SECONDS = 10.0
#: How long a batch waits for room, with none of the job's done, before that is said.
FULL_SECONDS = 15.0


class Follower:
    """What a producer knows of its job."""

    def __init__(
        self, run: Run, diary: Diary, ledger: Ledger, resender: Resender, meter: Meter
    ) -> None:
        """Know nothing yet."""
        self._meter = meter
        self._run = run
        self._diary = diary
        self._ledger = ledger
        self._resender = resender
        self._counted_at = self._looked_at = float("-inf")
        self._paused_since: float | None = None
        self._failed_at = float("-inf")
        self._said: str | None = None
        self._said_at = float("-inf")
        self._moved_at = time.monotonic()
        self._rows = self._errors = 0
        self._is_lonely = False
        #: None as long as the ledger does not know the job.
        self.counts: Counts | None = None

    def begin(self) -> None:
        """Take what is done already as done before this run."""
        self.counts = self._ledger.count(self._run.manifest.job)
        if self.counts is not None and self.counts.rows_done > self._rows:
            self._run.progress.skip(self.counts.rows_done - self._rows)
            self._rows, self._errors = self.counts.rows_done, self.counts.errors

    def look(self) -> None:
        """Look at the job, not too often.

        Raises:
            JobError: it was cancelled, or has too many errors.
            WorldError: it made no way for too long.
        """
        now = time.monotonic()
        if now - self._looked_at > LOOK_SECONDS:
            self._looked_at = now
            self._diary.catch_up()
            self._check_cancelled()
            self._tend()
        if now - self._counted_at > COUNT_SECONDS:
            self._counted_at = now
            self._count()

    def insist(self, ask: Callable[[], T]) -> T:
        """Ask the broker until it answers.

        Raises:
            Interrupted: the user stopped it.
            WorldError: it was away for too long.
        """
        backoff = FIRST_BACKOFF_SECONDS
        while True:
            try:
                return ask()
            except WorldError as error:
                self.suffer(str(error))
            until = time.monotonic() + backoff
            while time.monotonic() < until:
                if self._run.interrupted():
                    raise Interrupted
                time.sleep(0.05)
            self._check_cancelled()
            backoff = min(2 * backoff, LONGEST_BACKOFF_SECONDS)

    def suffer(self, reason: str) -> None:
        """Hear that the broker or a store failed: the job is paused until that is over.

        Raises:
            WorldError: that has been so for too long.
        """
        self._failed_at = time.monotonic()
        self._pause(reason)

    def _pause(self, reason: str) -> None:
        now = time.monotonic()
        if self._paused_since is None:
            self._paused_since = now
            if self._diary.read_state() != State.PAUSED:  # a worker may have written it
                self._diary.note(State.PAUSED, reason)
            self._meter.pause()
        self._complain(f"paused: {reason}; the job goes on by itself", "paused")
        if now - max(self._paused_since, self._moved_at) > self._run.max_pause_seconds:
            raise WorldError(reason)

    def leave(self) -> None:
        """Stop following: all is at the broker, so that a pause of this producer's own is over.

        One of the workers' ends when they write it.
        """
        counts = self.insist(lambda: self._ledger.count(self._run.manifest.job))
        if counts is not None and counts.stuck:
            return
        if self._paused_since is not None or self._diary.read_state() == State.PAUSED:
            self._go_on()

    def wait_for_room(self, since: float) -> None:
        """Hear that a batch found no room at the broker since then, and say so when it is long."""
        if time.monotonic() - max(since, self._moved_at) > FULL_SECONDS:
            self._complain(
                "the broker has no room: what is in flight there waits for its workers; see that"
                " every queue has some, or cancel the jobs of those that have none",
                "full",
            )

    def _complain(self, line: str, event: str) -> None:
        """Say what is new, not too often: a reason may name another file each time."""
        now = time.monotonic()
        if line != self._said and now - self._said_at > COMPLAIN_SECONDS:
            self._said, self._said_at = line, now
            self._meter.warn(event)
            self._run.progress.say(line, event, Level.WARNING)

    def say_cancelled(self) -> str:
        """Say that the job was cancelled."""
        return say_cancelled(self._run)

    def _check_cancelled(self) -> None:
        if self._diary.was_cancelled():
            try:
                self._ledger.cancel(self._run.manifest.job)
            except WorldError:  # what it holds is lost, or found to be cancelled: by `cancel`
                self._run.progress.say(
                    "the broker is away: what waits there may still be answered",
                    "broker-away",
                    Level.WARNING,
                )
            raise JobError(self.say_cancelled())

    def _tend(self) -> None:
        try:
            self._meter.resend(self._run.manifest.job, self._resender.resend())
            cards = self._ledger.list_workers()
            flight = self._ledger.flight() if self._meter.is_served else None
        except WorldError as error:
            self._meter.miss_broker()
            self.suffer(str(error))
            return
        self._meter.see(flight, len(cards))
        lonely = say_lonely(self.counts, cards)
        is_new = not self._is_lonely and time.monotonic() - self._moved_at > LONELY_SECONDS
        if lonely is None:
            self._is_lonely = False
        elif is_new:
            self._is_lonely = True
            self._meter.warn("no-worker")
            root = self._run.folder.store.name
            self._run.progress.say(
                f"{lonely} --broker URL --jobs-root {root}`", "no-worker", Level.WARNING
            )

    def _count(self) -> None:
        try:
            self.counts = self._ledger.count(self._run.manifest.job)
        except WorldError as error:
            self._meter.miss_broker()
            self.suffer(str(error))
            return
        counts = self.counts
        if counts is None:
            return
        self._meter.count(counts)
        if counts.rows_done > self._rows:
            self._moved_at = time.monotonic()
            self._run.progress.advance(
                counts.rows_done - self._rows, max(0, counts.errors - self._errors)
            )
            self._rows, self._errors = counts.rows_done, counts.errors
        try:
            check_ratio(self._run, counts.errors)
        except JobError:
            self._ledger.cancel(self._run.manifest.job)
            raise
        if counts.trouble is not None and counts.stuck:
            self._pause(counts.trouble)
            return
        if self._paused_since is not None and time.monotonic() - self._failed_at > CALM_SECONDS:
            self._go_on()
        if counts.trouble is not None:
            self._complain(f"{counts.trouble}; the batch is tried again", "trouble")

    def _go_on(self) -> None:
        self._paused_since = self._said = None
        self._said_at = float("-inf")
        self._meter.go_on()
        if self._diary.read_state() != State.RUNNING:
            self._diary.note(State.RUNNING)
        self._run.progress.say("going on", "going-on")
