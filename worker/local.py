"""The embedded fleet: processes on this machine that answer batches, without a broker.

The parent sends payloads through pipes and never loads a model. A child that dies loses nothing:
what it held is sent again, and a row that kills its process is written down as that row's error.
"""

import contextlib
import multiprocessing as mp
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from threading import Thread
from typing import Any

from worker.attempts import Failed, OutgoingBatch, Sent, blame, describe_end
from worker.child import Failure, Fault, serve
from worker.contracts.errors import JobError, WorldError
from worker.marks import START_SECONDS, STORING, Marks
from worker.task import Delivery, Done, Tools

#: A child has one batch in work and one waiting, so that it is never idle.
HELD_BATCHES = 2
#: After so many ends of processes in a row, with nothing done between, the machine is to blame.
MAX_ENDS_IN_A_ROW = 5
POLL_SECONDS = 0.5
FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 15.0
#: Signals that mean: stop when the batches in work are done.
_STOPS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
#: How long an interrupted run waits for the batches in work.
DRAIN_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class FleetOptions:
    """How a fleet is run. ``hang_seconds``: a child that marks nothing for so long is killed."""

    workers: int
    open_tools: Callable[[], Tools]
    hang_seconds: float = 300.0
    max_pause_seconds: float = 600.0


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the caller hears. ``stopping`` is asked often; True ends the run early.

    ``draining`` is called when no batch is begun any more, and those in work are waited for.
    """

    done: Callable[[OutgoingBatch, Done], None]
    paused: Callable[[str], None]
    resumed: Callable[[], None]
    stopping: Callable[[], bool]
    draining: Callable[[], None]


@dataclass(slots=True)
class _Child:
    """A process and what it holds; a thread feeds its pipe, so that a full one stops nobody."""

    process: Any
    pipe: Connection
    marks: Marks
    outbox: SimpleQueue[tuple[bytes, Delivery] | None]
    feeder: Thread
    held: deque[Sent] = field(default_factory=deque)
    seen_mark: int = 0
    seen_at: float = field(default_factory=time.monotonic)


@dataclass(slots=True)
class _Pause:
    """Times are of the monotonic clock, in seconds."""

    since: float
    probe_at: float
    backoff_seconds: float


def run_fleet(batches: Iterator[OutgoingBatch], options: FleetOptions, hooks: Hooks) -> bool:
    """Answer all batches; return whether all were answered (False: stopped early).

    Raises:
        JobError: processes cannot be started or do not live, or a batch cannot be stored.
        WorldError: the world stayed broken for too long.
    """
    return _Fleet(batches, options, hooks).run()


class _Fleet:
    def __init__(
        self, batches: Iterator[OutgoingBatch], options: FleetOptions, hooks: Hooks
    ) -> None:
        self._context = mp.get_context("spawn")  # a session must not cross a fork
        self._batches = batches
        self._options = options
        self._hooks = hooks
        self._again: deque[Sent] = deque()
        self._exhausted = False
        self._children: list[_Child] = []
        self._stop = self._context.RawValue("b", 0)
        self._ends_in_a_row = 0
        self._pause: _Pause | None = None

    def run(self) -> bool:
        try:
            while not self._hooks.stopping():
                self._feed()
                if self._exhausted and not self._again and not self._any_held():
                    return True
                self._listen()
            self._drain()
            return False
        finally:
            with _signals_blocked():  # a second one must not leave half of them alive
                self._end()

    def _feed(self) -> None:
        """Hand out batches as long as somebody has room; one alone while the world is unwell."""
        pause = self._pause
        if pause is not None and (self._any_held() or time.monotonic() < pause.probe_at):
            return
        while self._has_room():
            sent = self._next()
            if sent is None:
                return
            self._give(sent)
            if self._pause is not None:
                return

    def _any_held(self) -> bool:
        return any(child.held for child in self._children)

    def _has_room(self) -> bool:
        return len(self._children) < self._options.workers or any(
            len(child.held) < HELD_BATCHES for child in self._children
        )

    def _next(self) -> Sent | None:
        if self._again:
            return self._again.popleft()
        batch = next(self._batches, None)
        if batch is None:
            self._exhausted = True
            return None
        return Sent(batch, Delivery(1, time.time(), {}))

    def _give(self, sent: Sent) -> None:
        """Give to who has least; a process is started when all the others have work."""
        least = min(self._children, key=lambda one: len(one.held), default=None)
        if least is None or (least.held and len(self._children) < self._options.workers):
            least = self._start()
        if not least.held:
            least.seen_at = time.monotonic()
        least.held.append(sent)
        least.outbox.put((sent.batch.payload, sent.delivery))

    def _start(self) -> _Child:
        with _signals_blocked():  # from its start until it is known here, too
            return self._start_unheard()

    def _start_unheard(self) -> _Child:
        try:
            marks = Marks(self._context)
            ours, theirs = self._context.Pipe()
            with theirs:
                process = self._context.Process(
                    target=serve,
                    args=(theirs, marks, self._stop, self._options.open_tools, os.getpid()),
                    daemon=True,
                )
                process.start()
        except OSError as error:
            raise JobError(
                f"no answering process can be started ({error.strerror}): check this machine's"
                " memory and limits, then resume the job"
            ) from error
        outbox: SimpleQueue[tuple[bytes, Delivery] | None] = SimpleQueue()
        feeder = Thread(target=_send_all, args=(ours, outbox), daemon=True)
        feeder.start()
        child = _Child(process, ours, marks, outbox, feeder)
        self._children.append(child)
        return child

    def _listen(self) -> None:
        pipes = {child.pipe: child for child in self._children}
        sentinels = {child.process.sentinel: child for child in self._children}
        for ready in wait([*pipes, *sentinels], timeout=POLL_SECONDS):
            if isinstance(ready, Connection):
                if pipes[ready] in self._children:
                    self._hear(pipes[ready])
            elif sentinels[ready] in self._children:
                self._bury(sentinels[ready])
        for child in list(self._children):
            self._watch(child)

    def _hear(self, child: _Child) -> bool:
        """Take one message, if there is a whole one; it is about the first batch held."""
        message = _receive(child.pipe)
        if message is None:
            return False
        child.seen_at = time.monotonic()
        sent = child.held.popleft()
        if isinstance(message, Done):
            self._ends_in_a_row = 0
            self._be_well()
            self._hooks.done(sent.batch, message)
        elif message.fault is Fault.JOB:
            raise JobError(message.message)
        elif message.fault is Fault.WORLD:
            self._again.append(sent)
            self._be_unwell(message.message)
        else:
            failed = Failed(f"an error ({message.message})", own_doing=True)
            self._again.append(blame(sent, message.rows, failed))
        return True

    def _be_well(self) -> None:
        if self._pause is not None:
            self._pause = None
            self._hooks.resumed()

    def _be_unwell(self, reason: str) -> None:
        """Begin a pause, or prolong it when a probe failed."""
        now = time.monotonic()
        if self._pause is None:
            first = FIRST_BACKOFF_SECONDS
            self._pause = _Pause(now, now + first, first)
            self._hooks.paused(reason)
            return
        pause = self._pause
        if now < pause.probe_at:
            return  # a batch that was sent before the pause
        last = pause.since + self._options.max_pause_seconds
        if now >= last:
            raise WorldError(reason)
        pause.backoff_seconds = min(pause.backoff_seconds * 2, LONGEST_BACKOFF_SECONDS)
        pause.probe_at = min(now + pause.backoff_seconds, last)

    def _watch(self, child: _Child) -> None:
        """Kill a child that has not marked anything for too long."""
        number = child.marks.read().number
        limit = self._options.hang_seconds if number else START_SECONDS
        if not child.held or number != child.seen_mark:
            child.seen_mark, child.seen_at = number, time.monotonic()
        elif time.monotonic() - child.seen_at > limit:
            child.process.kill()
            self._bury(child, hung=True)

    def _bury(self, child: _Child, *, hung: bool = False) -> None:
        """Hear a dead child's last words, and send again what it held."""
        child.process.join()
        while child.held and self._hear(child):
            pass
        self._children.remove(child)
        _close(child)
        mark = child.marks.read()
        failed = describe_end(child.process.exitcode, hung=hung)
        if not failed.own_doing or not mark.number:
            self._count_end(failed)
        if not child.held:
            return
        first = child.held.popleft()
        if not mark.number:  # it never got to the batch
            self._again.append(first)
        elif hung and mark.rows == ():
            self._again.append(first)
            self._be_unwell(STORING)
        else:
            self._again.append(blame(first, mark.rows, failed))
        self._again.extend(child.held)

    def _count_end(self, failed: Failed) -> None:
        """Count ends that no row is to blame for; too many in a row are the machine's fault."""
        self._ends_in_a_row += 1
        if self._ends_in_a_row >= MAX_ENDS_IN_A_ROW * self._options.workers:
            raise JobError(
                f"{self._ends_in_a_row} answering processes in a row ended in {failed.how}: check"
                " the memory of this machine or use fewer --workers, then resume the job"
            )

    def _drain(self) -> None:
        """Let each child finish the batch it is in, so that its work is not lost."""
        self._stop.value = 1
        self._hooks.draining()
        deadline = time.monotonic() + DRAIN_SECONDS
        busy = [child for child in self._children if child.held and child.marks.read().number]
        while busy and time.monotonic() < deadline:
            for ready in wait([child.pipe for child in busy], timeout=POLL_SECONDS):
                child = next(one for one in busy if one.pipe is ready)
                message = _receive(child.pipe)
                sent = None if message is None else child.held.popleft()
                if sent is None or not child.held:  # it has seen the stop, or has nothing more
                    busy.remove(child)
                if sent is not None and isinstance(message, Done):
                    with contextlib.suppress(JobError):
                        self._hooks.done(sent.batch, message)

    def _end(self) -> None:
        """Kill all: whoever is still there has nothing in work that is waited for."""
        for child in self._children:
            child.process.kill()
        for child in self._children:
            child.process.join()
            _close(child)


def _send_all(pipe: Connection, outbox: SimpleQueue[tuple[bytes, Delivery] | None]) -> None:
    """Run in a thread: a child reads its next batch when it has done the one before."""
    with contextlib.suppress(OSError):  # its death is heard elsewhere
        while (message := outbox.get()) is not None:
            pipe.send(message)


def _receive(pipe: Connection) -> Done | Failure | None:
    try:
        message: Done | Failure = pipe.recv()
    except (EOFError, OSError):
        return None
    return message


def _close(child: _Child) -> None:
    """Give back what a dead child's pipe holds, its feeder first: descriptors are used again."""
    child.outbox.put(None)
    child.feeder.join()
    child.pipe.close()


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Let a child inherit that signals to stop are not for it.

    A terminal, or who ends a whole group of processes, sends them to all; the parent decides, and
    ends its children by SIGKILL. They are blocked for this thread, whose mask children inherit.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    try:
        resource_tracker.ensure_running()  # its start unblocks some of them
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
