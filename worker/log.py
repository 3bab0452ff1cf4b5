"""The log: events as lines on standard error, for people or for programs."""

import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from threading import Lock
from typing import TextIO

import msgspec

from worker.events import Event, Level

_STAGES = ("queue_ms", "tokenize_ms", "inference_ms", "decode_ms")
_COUNTS = ("rows", "answered", "unanswerable", "errors", "windows", "tokens")

Value = str | int | float


class LogFormat(StrEnum):
    """How a line looks. JSON: every collector reads it without a rule of its own."""

    TEXT = "text"
    JSON = "json"


class Log:
    """Writes lines whole. ``origin`` stands in every JSON line: host and worker."""

    def __init__(
        self,
        look: LogFormat = LogFormat.TEXT,
        origin: Mapping[str, str] | None = None,
        stream: TextIO | None = None,
    ) -> None:
        """Write to standard error, as it is when a line is written, or to another stream."""
        self.look = look
        self._origin = {} if origin is None else dict(origin)
        self._stream = stream
        self._lock = Lock()

    def write(self, event: Event) -> None:
        """Write an event."""
        facts = _flatten(event)
        if self.look is LogFormat.JSON:
            whole = {"time": _stamp(event.at), "level": str(event.level), "event": event.name}
            line = msgspec.json.encode(whole | self._origin | facts).decode()
        else:
            line = _to_text(event, facts)
        self._put(line)

    def note(self, event: Event) -> None:
        """Write what a person sees elsewhere, in a progress bar for instance: for programs only."""
        if self.look is LogFormat.JSON:
            self.write(event)

    def tell(self, event: Event) -> None:
        """Write what a person is to read, without time and names."""
        if self.look is LogFormat.JSON:
            self.write(event)
            return
        kind = "" if event.level is Level.INFO else f"{event.level}: "
        self._put(f"spanmill: {kind}{event.message}")

    def _put(self, line: str) -> None:
        stream = sys.stderr if self._stream is None else self._stream
        if stream is None:
            return
        with self._lock, suppress(OSError, ValueError):  # nobody reads it: the work goes on
            stream.write(f"{line}\n")
            stream.flush()


def open_log(look: str | None, origin: Mapping[str, str] | None = None) -> Log:
    """Return a log in a format that the command line has checked; text without one."""
    return Log(LogFormat.TEXT if look is None else LogFormat(look), origin)


def _flatten(event: Event) -> dict[str, Value]:
    """Return what is known, in the order in which it is written."""
    facts: dict[str, Value | None] = {
        "pid": event.pid,
        "job": event.job,
        "batch": event.batch,
        "attempt": event.attempt,
        "outcome": event.outcome,
    }
    if event.duration_seconds is not None:
        facts["duration_ms"] = round(event.duration_seconds * 1e3, 1)
    if event.stats is not None:
        facts |= {name: getattr(event.stats, name) for name in _COUNTS}
        facts |= {name: round(getattr(event.stats, name), 1) for name in _STAGES}
        facts["bundle"] = event.stats.bundle_digest[:12]
    facts |= event.facts
    facts["message"] = event.message
    return {name: value for name, value in facts.items() if value is not None}


def _to_text(event: Event, facts: dict[str, Value]) -> str:
    said = facts.pop("message", None)
    pairs = "".join(f" {name}={_quote(value)}" for name, value in facts.items())
    head = f"{_stamp(event.at)} {event.level} {event.name}"
    return f"{head}{pairs}" if said is None else f"{head}: {_to_line(str(said))}{pairs}"


def _to_line(text: str) -> str:
    return text if text.isprintable() else msgspec.json.encode(text).decode()


def _quote(value: Value) -> str:
    text = str(value)
    plain = bool(text) and text.isprintable() and not set(text) & set(' "=')
    return text if plain else msgspec.json.encode(text).decode()


def _stamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
