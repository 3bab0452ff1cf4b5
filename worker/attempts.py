"""What follows when a batch failed: who is to blame, and how it is tried again. Pure.

A crash is the doing of the row that was read, at once. A kill from outside, or want of memory, is
so only when it meets the same row twice.
"""

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from worker.child import OUT_OF_MEMORY
from worker.contracts.errors import JobError
from worker.task import Delivery

#: A batch that failed so often without naming a row is given up, as rows of errors.
MAX_NAMELESS_FAILURES = 5
#: Signals by which a process brings itself down; SIGKILL is the kernel's or an operator's.
_CRASHES = frozenset(
    {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP}
)


@dataclass(frozen=True, slots=True)
class OutgoingBatch:
    """A batch to be answered: its number, the numbers of its rows, and its payload."""

    number: int
    rows: Sequence[int]
    payload: bytes


@dataclass(frozen=True, slots=True)
class Sent:
    """A batch and its history. ``kills`` counts, by row, kills from outside while it was read."""

    batch: OutgoingBatch
    delivery: Delivery
    kills: Mapping[int, int] = field(default_factory=dict)
    nameless_failures: int = 0


@dataclass(frozen=True, slots=True)
class Failed:
    """What a batch ended in, and whether it brought that about itself."""

    how: str
    own_doing: bool


def describe_end(exit_code: int, *, hung: bool) -> Failed:
    """Say what a process ended in; signals are negative exit codes, as Python gives them."""
    if hung:
        return Failed("a hang", own_doing=True)
    if exit_code == OUT_OF_MEMORY:
        return Failed("want of memory", own_doing=False)
    if exit_code >= 0:
        return Failed(f"an exit (code {exit_code})", own_doing=True)
    if -exit_code in _CRASHES:
        return Failed(f"a crash ({signal.Signals(-exit_code).name})", own_doing=True)
    return Failed(f"a kill from outside (signal {-exit_code})", own_doing=False)


def blame(sent: Sent, rows: tuple[int, ...] | None, failed: Failed) -> Sent:
    """Return the next delivery of a batch that failed while these rows were read.

    ``rows`` is empty between reading and storing, and None for more than can be named.

    Raises:
        JobError: it fails although none of its rows is read any more.
    """
    again = replace(sent, delivery=replace(sent.delivery, attempt=sent.delivery.attempt + 1))
    if rows is not None and len(rows) == 1:
        return _blame_row(again, rows[0], failed)
    if rows != () and not sent.delivery.alone:
        return replace(again, delivery=replace(again.delivery, alone=True))
    return _blame_batch(again, failed) if failed.own_doing else again


def _blame_row(again: Sent, row: int, failed: Failed) -> Sent:
    kills = again.kills.get(row, 0) + 1
    if not failed.own_doing and kills == 1:
        return replace(again, kills={**again.kills, row: kills})
    twice = "" if failed.own_doing else " twice"
    fault = f"reading this row ended in {failed.how}{twice}: check its text, then retry the errors"
    crashes = {**again.delivery.crashes, row: fault}
    return replace(again, delivery=replace(again.delivery, crashes=crashes))


def _blame_batch(again: Sent, failed: Failed) -> Sent:
    batch, crashes = again.batch, again.delivery.crashes
    failures = again.nameless_failures + 1
    if failures < MAX_NAMELESS_FAILURES:
        return replace(again, nameless_failures=failures)
    if len(crashes) == len(batch.rows):
        raise JobError(
            f"the batch of the rows {batch.rows[0]} to {batch.rows[-1]} ended in {failed.how} also"
            " when none of them was read: look at their kept columns, then resume the job"
        )
    fault = f"the batch of this row ended in {failed.how} {failures} times: retry the errors"
    everyone = {**dict.fromkeys(batch.rows, fault), **crashes}
    return replace(again, delivery=replace(again.delivery, crashes=everyone), nameless_failures=0)
