"""How a job stands, read from its folder."""

import os
from collections import deque
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from producer.embedded import is_held
from worker.contracts.errors import UsageError
from worker.contracts.folder import JobFolder
from worker.contracts.job import DONE, State, check_job_id
from worker.contracts.shard import BatchStats, open_shard

#: The speed is that of so many batches, the last ones.
RECENT_BATCHES = 64
DEFAULT_ROOT = Path("spanmill-jobs")


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A job's state and progress. ``in_flight`` is unknown for a job on this machine alone."""

    job: str
    state: str
    reason: str | None
    rows: int
    rows_done: int
    errors: int
    batches: int
    batches_done: int
    in_flight: int | None
    workers: int
    rows_per_second: float
    seconds_left: float | None
    output: str | None


class StatusReader:
    """Reads a job's status again and again, each shard's footer once."""

    def __init__(self, root: Path, folder: JobFolder) -> None:
        """Name the job; nothing is read yet."""
        self._root = root
        self._folder = folder
        self._seen: set[int] = set()
        self._rows = self._errors = 0
        self._recent: deque[BatchStats] = deque(maxlen=RECENT_BATCHES)

    def read(self) -> JobStatus:
        """Return how the job stands now."""
        manifest = self._folder.read_manifest()
        events = self._folder.read_events()
        state = events[-1].state if events else State.VALIDATING
        reason = events[-1].reason if events else None
        running = is_held(self._root, self._folder.job)
        if not running and state in (
            State.VALIDATING,
            State.RUNNING,
            State.PAUSED,
            State.COLLECTING,
        ):
            reason = f"no command runs it: go on with `spanmill resume {self._folder.job}`"
        self._look()
        rows = 0 if manifest is None else manifest.rows
        speed = self._speed()
        left = (rows - self._rows) / speed if speed and running else None
        return JobStatus(
            job=self._folder.job,
            state=str(state),
            reason=reason,
            rows=rows,
            rows_done=self._rows,
            errors=self._errors,
            batches=0 if manifest is None else manifest.batches,
            batches_done=len(self._seen),
            in_flight=None if running else 0,
            workers=len({(one.host, one.pid) for one in self._recent}) if running else 0,
            rows_per_second=round(speed, 2),
            seconds_left=0.0 if state in DONE else None if left is None else round(left, 1),
            output=None if manifest is None else manifest.output,
        )

    def _look(self) -> None:
        for number in self._folder.iter_done():
            if number in self._seen:
                continue
            meta, _ = open_shard(self._folder.need_shard(number))
            self._seen.add(number)
            self._rows += meta.stats.rows
            self._errors += meta.stats.errors
            self._recent.append(meta.stats)

    def _speed(self) -> float:
        if not self._recent:
            return 0.0
        began = [datetime.fromisoformat(one.started_at).timestamp() for one in self._recent]
        ended = [
            start + (one.tokenize_ms + one.inference_ms + one.decode_ms) / 1e3
            for start, one in zip(began, self._recent, strict=True)
        ]
        seconds = max(ended) - min(began)
        return sum(one.rows for one in self._recent) / seconds if seconds > 0 else 0.0


def find_root(jobs_root: Path | None, job: str | None) -> Path:
    """Return the jobs' folder: the one named, or spanmill-jobs here.

    Raises:
        UsageError: there is none, or it has no such job, or the id is none.
    """
    root = DEFAULT_ROOT if jobs_root is None else jobs_root
    if job is not None:
        check_job_id(job)
    if not root.is_dir():
        raise UsageError(f"there is no jobs' folder {root}: name it with --jobs-root")
    if job is not None and not os.path.isdir(root / job):  # noqa: PTH112
        raise UsageError(
            f"there is no job {job!r} in {root}: list them with `spanmill jobs --jobs-root {root}`"
        )
    return root.absolute()
