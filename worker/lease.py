"""The lease of a batch, while a process has its turn at it."""

import os
import signal
import time
from contextlib import suppress
from functools import partial
from threading import Event as Signal
from threading import Thread

from worker.contracts.errors import SpanmillError
from worker.contracts.flight import Dying
from worker.contracts.ledger import Ledger
from worker.contracts.queue import Message
from worker.contracts.scripts import LEASE_SECONDS, RENEW_SECONDS
from worker.contracts.store import Store
from worker.holds import LONGEST_SECONDS
from worker.marks import START_SECONDS, STORING, Slate
from worker.pausing import note_pause
from worker.place import Place

#: How long a hanging disk may take to write that the job is paused.
NOTE_SECONDS = 5.0


class Lease:
    """Renews a batch's lease while entered, and ends the process when a row hangs."""

    def __init__(
        self,
        ledger: Ledger,
        slate: Slate,
        store: Store,
        place: Place,
        message: Message,
        holder: str,
    ) -> None:
        self._ledger = ledger
        self._slate = slate
        self._store = store
        self._worker = place.worker
        #: Whether reading has begun: until then it is nobody's fault but the bundle's.
        self.is_marked = False
        self._message = message
        self._holder = holder
        self._hang_seconds = place.hang_seconds
        self._renewed_at = time.monotonic()
        self._over = Signal()
        self._thread = Thread(target=self._renew, daemon=True)

    def __enter__(self) -> "Lease":
        self._thread.start()
        return self

    def is_doubtful(self) -> bool:
        """Say whether it may have lapsed: this process stood still, or the broker was away."""
        return time.monotonic() - self._renewed_at > LEASE_SECONDS

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _renew(self) -> None:
        job, batch = self._message.job, self._message.batch
        seen, seen_at = self._slate.count(), time.monotonic()
        while not self._over.wait(min(RENEW_SECONDS, self._hang_seconds / 2)):
            if self._slate.count() != seen:
                seen, seen_at = self._slate.count(), time.monotonic()
            with suppress(SpanmillError):  # the broker is away: the lease may lapse, no more
                if time.monotonic() - seen_at > self._limit():
                    self._end_hung()
                asked_at = time.monotonic()
                if self._ledger.renew(job, batch, self._holder):
                    self._renewed_at = asked_at

    def _limit(self) -> float:
        return self._hang_seconds if self.is_marked else max(START_SECONDS, self._hang_seconds)

    def bury(self, how: str, what: str, delay_seconds: float = 0.0) -> None:
        """Tell the ledger that the attempt died, and of which rows; it may be of none."""
        why = f"worker {self._worker}: {what} before it read a row: check the job's bundle"
        mark = self._slate.read(self._holder) if self.is_marked else None
        dying = Dying(how, delay_seconds, why, mark)
        if self._ledger.bury(self._message.job, self._message.batch, self._holder, dying):
            self._note(why)

    def _end_hung(self) -> None:
        """End the process: nothing else ends what hangs in it."""
        mark = self._slate.read(self._holder) if self.is_marked else None
        if mark is not None and mark.rows == ():
            job, batch, why = (
                self._message.job,
                self._message.batch,
                f"worker {self._worker}: {STORING}",
            )
            if self._ledger.give_back(job, batch, self._holder, why, LONGEST_SECONDS):
                self._note(why)
        else:
            self.bury("hung", "a process hung")
        os.kill(os.getpid(), signal.SIGKILL)

    def _note(self, why: str) -> None:
        """Write that the job is paused, unless the disk hangs in that, too."""
        note = partial(note_pause, self._ledger, self._store, self._message.job, why)
        writing = Thread(target=note, daemon=True)
        writing.start()
        writing.join(NOTE_SECONDS)
