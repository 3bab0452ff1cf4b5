"""A run's metrics as lines for people: step, epoch, loss, F1, windows a second, time left."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from training.progress import listening

#: Steps come faster than anybody reads.
SECONDS_BETWEEN = 10.0
#: How much the newest step counts for the time that is left.
_NEWEST = 0.05


class Lines(logging.Handler):
    """Says a line for a step now and then, and one for every held-out score."""

    def __init__(
        self,
        say: Callable[[str], None],
        seconds_between: float = SECONDS_BETWEEN,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take what prints a line."""
        super().__init__(logging.INFO)
        self._say, self._between, self._clock = say, seconds_between, clock
        self._said: float | None = None
        self._seen: tuple[int, float] | None = None
        self._step_seconds: float | None = None
        self._best = -1.0

    def emit(self, record: logging.LogRecord) -> None:
        """Take a metrics line."""
        line = getattr(record, "metrics", None)
        if line is None:
            return
        run = getattr(record, "run", "")
        if "held_out" in line:
            self._say(self._describe_score(run, line))
            self._seen = None  # what scoring took is no step's time
        elif "loss" in line:
            self._take_step(run, line)

    def _take_step(self, run: str, line: dict[str, Any]) -> None:
        now = self._clock()
        self._measure(line["step"], now)
        last = line["step"] == line["steps"]
        if self._said is None or last or now - self._said >= self._between:
            self._said = now
            self._say(self._describe_step(run, line))

    def _measure(self, step: int, now: float) -> None:
        seen, self._seen = self._seen, (step, now)
        if seen is None or step != seen[0] + 1:
            return
        took = now - seen[1]
        known = took if self._step_seconds is None else self._step_seconds
        self._step_seconds = known + _NEWEST * (took - known)

    def _describe_step(self, run: str, line: dict[str, Any]) -> str:
        left = ""
        if self._step_seconds is not None:
            seconds = self._step_seconds * (line["steps"] - line["step"])
            left = f", {describe_seconds(seconds)} left"
        return (
            f"{run}: step {line['step']} of {line['steps']}, epoch {line['epoch']},"
            f" loss {line['loss']:.3f}, {line['examples_per_second']:.0f} windows/s{left}"
        )

    def _describe_score(self, run: str, line: dict[str, Any]) -> str:
        scores = line["held_out"]
        best = ", the best so far" if line["score"] > self._best else ""
        self._best = max(self._best, line["score"])
        return (
            f"{run}: step {line['step']}: held-out F1 {scores['best_f1']:.2f}, of answerable rows"
            f" {scores['answerable_f1']:.2f}{best}"
        )


@contextmanager
def telling(say: Callable[[str], None]) -> Iterator[None]:
    """Say what runs tell, while this is open."""
    with listening(Lines(say)):
        yield


def describe_seconds(seconds: float) -> str:
    """Return a duration as people say it."""
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min" if seconds >= 60 else f"{round(seconds)} s"
