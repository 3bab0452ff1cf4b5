"""Jobs that a process leaves alone for a while, because the world was in their way here."""

import time

FIRST_SECONDS = 0.5
LONGEST_SECONDS = 5.0
#: Jobs that are remembered; the one that is forgotten is tried too early.
KEPT_JOBS = 256
_STEPS = 10


class Holds:
    """Of each held job, how long the hold is, and when it is over by the monotonic clock."""

    def __init__(self) -> None:
        """Hold nothing."""
        self._holds: dict[str, tuple[float, float]] = {}

    def begin(self, job: str) -> float:
        """Hold a job, longer from time to time until it gets on; return for how many seconds."""
        before, _ = self._holds.pop(job, (FIRST_SECONDS / 2, 0.0))
        seconds = min(2 * before, LONGEST_SECONDS)
        while len(self._holds) >= KEPT_JOBS:
            self._holds.pop(next(iter(self._holds)))
        self._holds[job] = (seconds, time.monotonic() + seconds)
        return seconds

    def end(self, job: str) -> None:
        """Hear that a job gets on here."""
        self._holds.pop(job, None)

    def left(self, job: str) -> float:
        """Return for how many seconds a job is held still, 0 for one that is not."""
        _, until = self._holds.get(job, (0.0, 0.0))
        return max(0.0, until - time.monotonic())


def spread(batch: int) -> float:
    """Return after how many seconds a batch of a held job is sent again.

    It differs from batch to batch: who can answer the job finds some at any time.
    """
    return FIRST_SECONDS + (LONGEST_SECONDS - FIRST_SECONDS) * (batch % _STEPS) / _STEPS
