"""One message, from the lease of its batch until the batch is counted.

Whatever goes wrong, the message is done with when this returns: a batch that has no shard then is
sent again by the ledger.
"""

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial

from worker.attempts import OutgoingBatch, Sent, blame, describe_end
from worker.child import OUT_OF_MEMORY
from worker.contracts.errors import JobError, SpanmillError, WorldError
from worker.contracts.flight import Begun, Death, Turn
from worker.contracts.folder import JobFolder
from worker.contracts.job import JobManifest, State, shard_key
from worker.contracts.ledger import Ledger
from worker.contracts.object_store import open_store
from worker.contracts.queue import Message
from worker.contracts.root import read_root
from worker.contracts.shard import BatchStats, decode_payload, read_footer
from worker.events import QUIET, Event, Hear, Level, Outcome, send_to
from worker.holds import Holds, spread
from worker.lease import Lease
from worker.marks import Slate
from worker.pausing import note_pause
from worker.place import Place
from worker.task import Delivery, Done, Tools, run_batch
from worker.tools import JobTools, name_tools

#: Readers that a process keeps; each has the model of a job in memory.
KEPT_READERS = 2
KEPT_RECIPES = 64
#: A batch that broke its reader is sent again after so long.
FAILED_DELAY_SECONDS = 0.5
#: While nobody but a held job has batches, how often it is asked whether that is still so.
ALONE_SECONDS = 0.5
#: After each message that is put off: a queue full of them must not be all that a broker does.
HELD_SECONDS = 0.05
#: Marks are kept from the broker for so long after it took none.
DEAF_SECONDS = 5.0

OpenTools = Callable[[JobTools], Tools]
_NOBODY = send_to(None)


class Clerk:
    """What one process holds: its lines to the broker, and the readers of the jobs at hand."""

    def __init__(
        self, place: Place, opening: OpenTools, hear: Hear = _NOBODY, slate: Slate | None = None
    ) -> None:
        """Take the place, who hears what came of each batch, and the slate that others read.

        Nothing is opened yet.
        """
        self._place = place
        self._opening = opening
        self._hear = hear
        self._began_at = 0.0
        self._ledger = Ledger(place.broker)
        self._slate = Slate() if slate is None else slate
        self._deaf_until = 0.0
        self._store = open_store(place.jobs_root)
        self._readers: dict[JobTools, Tools] = {}
        self._recipes: dict[tuple[str, str], JobTools] = {}
        self._holds = Holds()

    def take(self, message: Message, holder: str) -> str:
        """Answer the message's batch, if it is this process's turn; return what came of it."""
        if self._leave(message):
            return self._tell(message, Begun(Turn.HELD), Outcome.HELD)
        begun = self._ledger.begin(message.job, message.batch, holder)
        self._began_at = time.perf_counter()
        if begun.turn != Turn.RUN:
            return self._tell(message, begun, Outcome(str(begun.turn)))
        with Lease(self._ledger, self._slate, self._store, self._place, message, holder) as lease:
            try:
                done = self._answer(message, begun, holder, lease)
            except _Unreadable:
                self._ledger.discard(message.job, message.batch)
                return self._tell(message, begun, Outcome.UNREADABLE)
            except SpanmillError as error:
                return self._pause(message, begun, holder, str(error))
            except MemoryError:
                os._exit(OUT_OF_MEMORY)  # a new process has it back, whatever leaked
            except Exception as error:  # noqa: BLE001  a row that breaks a library in a new way
                name = type(error).__name__  # alone: its message may quote the row
                lease.bury("1", f"it failed ({name})", FAILED_DELAY_SECONDS)
                return self._tell(message, begun, Outcome.FAILED, why=name)
            outcome = Outcome.CONFLICT if done.in_vain else Outcome.DONE
            if done.stats is not None:
                outcome = Outcome.ANSWERED
            # Before it is counted: a worker tells of its shards, whatever the broker does now.
            self._tell(message, begun, outcome, done.stats)
            self._count(message, done)
        return outcome

    def _answer(self, message: Message, begun: Begun, holder: str, lease: Lease) -> Done:
        if read_root(self._store) != begun.root:
            raise WorldError(
                f"its jobs' folder {self._place.jobs_root} is not that of the job's producer: give"
                " both the same folder as --jobs-root"
            )
        tools = self._open(message.job, begun.made)
        delivery = _deliver(message, begun)

        def mark(rows: Sequence[int]) -> None:
            if not rows and lease.is_doubtful():  # the shard comes next, and whose is it by now?
                self._need_own(message.job, begun.made)
            self._slate.write(holder, rows)
            lease.is_marked = True
            if begun.deaths:  # of this batch, and maybe nobody was left to tell its row
                self._mark_at_broker(message, holder)

        mark([])  # from here on it is the batch's fault, if it is anyone's
        try:
            return run_batch(begun.payload, delivery, tools, mark)
        except JobError as error:
            raise _Unreadable from error

    def _mark_at_broker(self, message: Message, holder: str) -> None:
        mark = self._slate.read(holder)
        if mark is None or time.monotonic() < self._deaf_until:
            return
        try:
            self._ledger.mark(message.job, message.batch, holder, mark)
        except SpanmillError:
            self._deaf_until = time.monotonic() + DEAF_SECONDS

    def _open(self, job: str, made: str) -> Tools:
        recipe = self._recipes.get((job, made))
        if recipe is None:
            recipe = name_tools(self._place.jobs_root, self._need_own(job, made))
            while len(self._recipes) >= KEPT_RECIPES:
                self._recipes.pop(next(iter(self._recipes)))
            self._recipes[job, made] = recipe
        tools = self._readers.pop(recipe, None)
        if tools is None:
            while len(self._readers) >= KEPT_READERS:
                self._readers.pop(next(iter(self._readers)))
            tools = self._begin_reading(recipe)
        self._readers[recipe] = tools  # behind the others: the one not used for longest goes first
        return tools

    def _need_own(self, job: str, made: str) -> JobManifest:
        """Return the manifest of the job that the batch is of, and not of one of its name."""
        manifest = JobFolder(self._store, job).need_manifest()
        if manifest.created_at != made:
            raise WorldError(f"the job {job} was begun anew meanwhile: run its command again")
        return manifest

    def _begin_reading(self, recipe: JobTools) -> Tools:
        try:
            return self._opening(recipe)
        except (SpanmillError, MemoryError):
            raise
        except Exception as error:
            raise WorldError(
                f"it cannot begin ({type(error).__name__}: {error}): install spanmill again there,"
                " or report it"
            ) from error

    def _count(self, message: Message, done: Done) -> None:
        """Tell the ledger; it counts a batch once, whoever tells it."""
        self._holds.end(message.job)
        stats = done.stats
        if stats is None:
            if not self._store.exists(shard_key(message.job, message.batch)):
                return
            folder = JobFolder(self._store, message.job)
            stats = read_footer(partial(folder.need_tail, message.batch)).stats
        if self._ledger.commit(message.job, message.batch, stats.rows, stats.errors):
            with suppress(WorldError):  # the shard is there: the state follows later
                JobFolder(self._store, message.job).put_event(State.RUNNING)

    def _tell(
        self,
        message: Message,
        begun: Begun,
        outcome: Outcome,
        stats: BatchStats | None = None,
        why: str | None = None,
    ) -> str:
        """Tell what came of a delivery, and return it."""
        ran = begun.turn == Turn.RUN
        again = max(message.attempt, begun.attempt) > 1
        self._hear(
            Event(
                "batch",
                level=Level.INFO if outcome in QUIET else Level.WARNING,
                message=why,
                job=message.job,
                batch=message.batch,
                attempt=begun.attempt if ran else message.attempt,
                outcome=outcome,
                again=again or begun.turn in (Turn.DONE, Turn.LEASED),
                duration_seconds=time.perf_counter() - self._began_at if ran else None,
                stats=stats,
            )
        )
        return outcome

    def _pause(self, message: Message, begun: Begun, holder: str, why: str) -> str:
        """Give the lease back, say why, and leave the job alone for a while."""
        reason = f"worker {self._place.worker}: {why}"
        delay = self._holds.begin(message.job)
        self._tell(message, begun, Outcome.PAUSED, why=why)
        if self._ledger.give_back(message.job, message.batch, holder, reason, delay):
            note_pause(self._ledger, self._store, message.job, reason)
        return Outcome.PAUSED

    def _leave(self, message: Message) -> bool:
        """Have a batch of a held job sent again later, so that other jobs' come first.

        Where nobody else waits, the hold is waited out instead.
        """
        while (seconds := self._holds.left(message.job)) > 0:
            delay = spread(message.batch, self._holds.seconds(message.job))
            queues, held = self._place.queues, self._holds.names()
            if self._ledger.postpone(message.job, message.batch, delay, queues, held):
                time.sleep(HELD_SECONDS)
                return True
            time.sleep(min(seconds, ALONE_SECONDS))
        return False


class _Unreadable(Exception):  # noqa: N818  caught above, never seen
    """The payload's bytes are none."""


def _deliver(message: Message, begun: Begun) -> Delivery:
    """Return the delivery that follows from the attempts before: the rows that must not be read.

    Raises:
        JobError: the batch fails although none of its rows is read any more.
        _Unreadable: the payload is none.
    """
    first = Delivery(begun.attempt, message.published_at, {})
    deaths = [death for death in begun.deaths if death.marked]
    if not deaths:
        return first
    try:
        rows = [example.row for example in decode_payload(begun.payload).examples]
    except JobError as error:
        raise _Unreadable from error
    sent = Sent(OutgoingBatch(message.batch, rows, b""), first)
    for death in deaths:
        sent = blame(sent, death.rows, describe_end(_exit_code(death), hung=death.hung))
    return replace(sent.delivery, attempt=begun.attempt)


def _exit_code(death: Death) -> int:
    return -signal.SIGKILL if death.exit_code is None else death.exit_code
