"""The embedded fleet: processes on this machine that answer batches, without a broker.

The parent sends payloads through pipes and never loads a model. A child that dies loses nothing:
what it held is sent again, and a row that kills its process is written down as that row's error.
"""

import contextlib
import multiprocessing as mp
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from ctypes import c_int64
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from typing import Any

from worker.contracts.errors import JobError, SpanmillError, WorldError
from worker.task import Delivery, Done, Tools, run_batch

#: A child has one batch in work and one waiting, so that it is never idle.
HELD_BATCHES = 2
#: Deaths that are the row's doing. SIGKILL is not: it is the kernel's or an operator's.
CRASHES = frozenset(
    {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP}
)
#: A batch that ended this many processes without naming a row is given up, as rows of errors.
MAX_ATTEMPTS = 5
#: Rows of a run that a child can mark; a larger run is blamed on none of them.
MARKS = 64
POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class OutgoingBatch:
    """A batch to be answered: its number, the numbers of its rows, and its payload."""

    number: int
    rows: range | Sequence[int]
    payload: bytes


@dataclass(frozen=True, slots=True)
class FleetOptions:
    """How a fleet is run. ``hang_seconds``: a child that marks nothing for so long is killed."""

    workers: int
    open_tools: Callable[[], Tools]
    hang_seconds: float = 300.0
    max_pause_seconds: float = 600.0
    first_backoff_seconds: float = 0.5


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the caller hears. ``stopping`` is asked often; True ends the run early."""

    done: Callable[[Done], None]
    paused: Callable[[str], None]
    resumed: Callable[[], None]
    stopping: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class _Failure:
    """What a child says when it could not run a batch, or could not begin."""

    message: str
    world: bool


@dataclass(slots=True)
class _Sent:
    """A batch and its history of attempts."""

    batch: OutgoingBatch
    delivery: Delivery
    killed_at: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Child:
    process: Any
    pipe: Connection
    marks: Any
    held: deque[_Sent] = field(default_factory=deque)
    answered_once: bool = False
    seen_mark: int = 0
    seen_at: float = field(default_factory=time.monotonic)


def run_fleet(batches: Iterator[OutgoingBatch], options: FleetOptions, hooks: Hooks) -> bool:
    """Answer all batches; return whether all were answered (False: stopped early).

    Raises:
        JobError: no process can be started, or the world stayed broken for too long.
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
        self._again: deque[_Sent] = deque()
        self._exhausted = False
        self._children: list[_Child] = []
        self._stop = self._context.RawValue("b", 0)
        self._deaths_at_start = 0
        self._paused_since: float | None = None
        self._resume_at = 0.0
        self._backoff_seconds = options.first_backoff_seconds

    def run(self) -> bool:
        try:
            self._children = [self._start() for _ in range(self._options.workers)]
            while not self._hooks.stopping():
                self._feed()
                if not any(child.held for child in self._children) and not self._again:
                    return True
                self._listen()
            self._drain()
            return False
        finally:
            self._end()

    def _start(self) -> _Child:
        ours, theirs = self._context.Pipe()
        marks = self._context.RawArray(c_int64, 2 + MARKS)
        process = self._context.Process(
            target=_serve, args=(theirs, marks, self._stop, self._options.open_tools), daemon=True
        )
        # Inherited from here: Ctrl-C reaches the whole terminal, and the parent decides.
        before = signal.getsignal(signal.SIGINT)
        with _ignoring_interrupts(before):
            process.start()
        theirs.close()
        return _Child(process, ours, marks)

    def _feed(self) -> None:
        if time.monotonic() < self._resume_at:
            return
        for child in sorted(self._children, key=lambda one: len(one.held)):
            while len(child.held) < HELD_BATCHES:
                sent = self._next()
                if sent is None:
                    return
                if not child.held:
                    child.seen_at = time.monotonic()
                child.held.append(sent)
                with contextlib.suppress(BrokenPipeError):  # its death is heard in _listen
                    child.pipe.send((sent.batch.payload, sent.delivery))
                if self._paused_since is not None:
                    return  # one batch tries whether the world is well again

    def _next(self) -> _Sent | None:
        if self._again:
            return self._again.popleft()
        if self._exhausted or (self._paused_since is not None and self._any_held()):
            return None
        batch = next(self._batches, None)
        if batch is None:
            self._exhausted = True
            return None
        return _Sent(batch, Delivery(1, time.time(), {}))

    def _any_held(self) -> bool:
        return any(child.held for child in self._children)

    def _listen(self) -> None:
        ends = {child.pipe: child for child in self._children}
        sentinels = {child.process.sentinel: child for child in self._children}
        for ready in wait([*ends, *sentinels], timeout=POLL_SECONDS):
            if isinstance(ready, Connection):
                self._hear(ends[ready])
            elif sentinels[ready] in self._children:
                self._bury(sentinels[ready])
        for child in self._children:
            self._watch(child)

    def _hear(self, child: _Child) -> None:
        """Take one message; a dead child's pipe ends here and its sentinel tells the rest."""
        try:
            message = child.pipe.recv()
        except (EOFError, OSError):
            return
        child.seen_at = time.monotonic()
        if isinstance(message, _Failure) and not message.world:
            raise JobError(message.message)
        sent = child.held.popleft() if child.held else None  # a store away at its start has none
        if isinstance(message, Done):
            child.answered_once = True
            self._be_well()
            self._hooks.done(message)
        else:
            self._be_unwell(message.message)
            if sent is not None:
                self._again.append(sent)

    def _be_well(self) -> None:
        if self._paused_since is not None:
            self._paused_since = None
            self._backoff_seconds = self._options.first_backoff_seconds
            self._hooks.resumed()

    def _be_unwell(self, reason: str) -> None:
        now = time.monotonic()
        if self._paused_since is None:
            self._paused_since = now
            self._hooks.paused(reason)
        if now - self._paused_since > self._options.max_pause_seconds:
            raise JobError(reason)
        self._resume_at = now + self._backoff_seconds
        self._backoff_seconds = min(self._backoff_seconds * 2, 15.0)

    def _watch(self, child: _Child) -> None:
        """Kill a child that has not marked anything for too long; its row is to blame."""
        if not child.held or child.marks[0] != child.seen_mark:
            child.seen_mark, child.seen_at = child.marks[0], time.monotonic()
        elif time.monotonic() - child.seen_at > self._options.hang_seconds:
            child.process.kill()
            child.process.join()
            self._bury(child, hung=True)

    def _bury(self, child: _Child, *, hung: bool = False) -> None:
        """Replace a dead child, and send again what it held."""
        while child.pipe.poll() and child.held:
            before = len(child.held)
            self._hear(child)
            if len(child.held) == before:
                break
        child.process.join()
        if not child.answered_once and not child.marks[0]:
            self._count_death_at_start(child.process.exitcode)
        if child.held:
            first = child.held.popleft()
            self._again.append(_blame(first, child, hung=hung))
            self._again.extend(child.held)
        child.pipe.close()
        self._children[self._children.index(child)] = self._start()

    def _count_death_at_start(self, exit_code: int) -> None:
        self._deaths_at_start += 1
        if self._deaths_at_start >= MAX_ATTEMPTS:
            raise JobError(
                f"answering processes end as they start (exit code {exit_code}):"
                " check the memory of this machine, then run the command again"
            )

    def _drain(self) -> None:
        """Let each child finish the batch it is in, so that its work is not lost."""
        self._stop.value = 1
        deadline = time.monotonic() + 10.0
        while time.monotonic() < deadline:
            busy = [child for child in self._children if child.held and child.process.is_alive()]
            if not busy:
                return
            for ready in wait([child.pipe for child in busy], timeout=POLL_SECONDS):
                child = next(one for one in busy if one.pipe is ready)
                before = len(child.held)
                with contextlib.suppress(JobError):
                    self._hear(child)
                if len(child.held) == before:
                    child.held.clear()

    def _end(self) -> None:
        self._stop.value = 1
        for child in self._children:
            child.pipe.close()
        for child in self._children:
            child.process.join(timeout=0.2)
            if child.process.is_alive():
                child.process.kill()
                child.process.join()


def _blame(sent: _Sent, child: _Child, *, hung: bool) -> _Sent:
    """Return the next delivery of a batch whose process died, without the row that killed it."""
    count = child.marks[1]
    rows = list(child.marks[2 : 2 + count]) if 0 < count <= MARKS else []
    delivery = replace(sent.delivery, attempt=sent.delivery.attempt + 1)
    crashed = hung or -child.process.exitcode in CRASHES
    how = "took too long" if hung else f"ended its process (exit code {child.process.exitcode})"
    killed_at = dict(sent.killed_at)
    if len(rows) == 1:
        killed_at[rows[0]] = killed_at.get(rows[0], 0) + 1
        if crashed or killed_at[rows[0]] > 1:
            fault = f"reading this row {how}: check its text, then retry the errors"
            delivery = replace(delivery, crashes={**delivery.crashes, rows[0]: fault})
    elif rows:
        delivery = replace(delivery, alone=True)
    if delivery.attempt > MAX_ATTEMPTS + len(delivery.crashes):
        fault = f"the batch of this row {how} {MAX_ATTEMPTS} times: retry the errors"
        delivery = replace(delivery, crashes=dict.fromkeys(sent.batch.rows, fault))
    return _Sent(sent.batch, delivery, killed_at)


@contextlib.contextmanager
def _ignoring_interrupts(before: Any) -> Iterator[None]:
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # not the main thread: signals are not ours
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _serve(pipe: Connection, marks: Any, stop: Any, open_tools: Callable[[], Tools]) -> None:
    """Run in a child: answer what comes through the pipe until it is closed."""

    def mark_rows(rows: Sequence[int]) -> None:
        count = len(rows) if len(rows) <= MARKS else -1
        if count > 0:
            marks[2 : 2 + count] = rows
        marks[1] = count
        marks[0] += 1

    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        try:
            tools = open_tools()
        except SpanmillError as error:
            pipe.send(_Failure(str(error), world=isinstance(error, WorldError)))
            return
        while True:
            payload, delivery = pipe.recv()
            if stop.value:
                return
            try:
                pipe.send(run_batch(payload, delivery, tools, mark_rows))
            except SpanmillError as error:
                pipe.send(_Failure(str(error), world=isinstance(error, WorldError)))
