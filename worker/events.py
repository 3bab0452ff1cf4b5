"""What happens in a fleet, as records; all processes of a worker send theirs down one pipe.

An event has no place for a question, a passage or an answer: none can get into a log.
"""

import os
import select
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum

import msgspec

from worker.contracts.shard import BatchStats

#: Longer messages are cut: what is written at once to a pipe arrives in one piece up to here.
LONGEST_BYTES = select.PIPE_BUF
MESSAGE_CHARS = 600


class Level(StrEnum):
    """How much an event matters; whatever is not INFO counts as an error."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. What does not apply is None.

    ``stats`` is there for a batch that this process has committed, and for no other. ``again``: the
    batch had been delivered before. ``at`` is in seconds since the epoch.
    """

    name: str
    level: Level = Level.INFO
    message: str | None = None
    job: str | None = None
    batch: int | None = None
    attempt: int | None = None
    outcome: str | None = None
    again: bool = False
    duration_seconds: float | None = None
    stats: BatchStats | None = None
    facts: Mapping[str, str | int | float] = field(default_factory=dict)
    pid: int = field(default_factory=os.getpid)
    at: float = field(default_factory=time.time)


Hear = Callable[[Event], None]


class Outcome(StrEnum):
    """What came of one delivery of a batch."""

    ANSWERED = "answered"
    DONE = "done"  # another delivery had committed it before this one began to read
    CONFLICT = "conflict"  # another one committed it first
    LEASED = "leased"  # another process is at it
    CANCELLED = "cancelled"
    GONE = "gone"  # no payload: it was asked for
    HELD = "held"  # its job had the world in its way here: later, or elsewhere
    FOREIGN = "foreign"  # no message of ours
    UNREADABLE = "unreadable"  # no payload of ours: it was asked for
    PAUSED = "paused"  # the world is in the way
    FAILED = "failed"  # it broke the reader in a new way
    LEFT = "left"  # the broker went away in the middle


#: Those that are nobody's trouble.
QUIET = frozenset({"answered", "done", "conflict", "leased", "cancelled", "gone", "held"})


def send_to(descriptor: int | None) -> Hear:
    """Return what writes events to a pipe; to nowhere where there is none."""

    def send(event: Event) -> None:
        if descriptor is None:
            return
        with suppress(OSError):  # nobody reads it any more: this process ends soon, too
            os.write(descriptor, _encode(event))

    return send


def receive(descriptor: int) -> Iterator[Event]:
    """Yield what comes out of a pipe until all its writers have ended."""
    with os.fdopen(descriptor, "rb") as pipe:
        for line in pipe:
            with suppress(msgspec.DecodeError):
                yield msgspec.json.decode(line, type=Event)


def _encode(event: Event) -> bytes:
    if event.message is not None and len(event.message) > MESSAGE_CHARS:
        event = replace(event, message=event.message[:MESSAGE_CHARS])
    line = msgspec.json.encode(event) + b"\n"
    if len(line) > LONGEST_BYTES:
        line = msgspec.json.encode(replace(event, message=None)) + b"\n"
    return line
