"""Jobs that a process leaves alone for a while, because the world was in their way here."""

import time

FIRST_SECONDS = 0.5
LONGEST_SECONDS = 5.0
#: Jobs that are remembered; the one that is forgotten is tried too early.
KEPT_JOBS = 256
#: Batches of a held job are sent again within so many times the hold.
_SPREAD_HOLDS = 4
_STEPS = 50


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

    def names(self) -> list[str]:
        """Return the jobs that are held now."""
        return [job for job in self._holds if self.left(job) > 0]

    def seconds(self, job: str) -> float:
        """Return how long a job's hold is as a whole."""
        return self._holds.get(job, (FIRST_SECONDS, 0.0))[0]

    def left(self, job: str) -> float:
        """Return for how many seconds a job is held still, 0 for one that is not."""
        _, until = self._holds.get(job, (0.0, 0.0))
        return max(0.0, until - time.monotonic())


def spread(batch: int, hold_seconds: float) -> float:
    """Return after how many seconds a batch of a held job is sent again.

    It differs from batch to batch: who can answer the job finds some at any time. The longer the
    hold, the rarer they come.
    """
    return FIRST_SECONDS + _SPREAD_HOLDS * hold_seconds * (batch % _STEPS) / _STEPS
