"""How a job stands, read from its folder."""

import shlex
from collections import deque
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from producer.lock import is_held, name_command
from worker.contracts.errors import JobError, UsageError
from worker.contracts.folder import Event, JobFolder, is_job
from worker.contracts.job import DONE, State, check_job_id, shard_key
from worker.contracts.object_store import open_store
from worker.contracts.shard import BatchStats, read_footer
from worker.contracts.store import LocalStore, Store

#: The speed is that of so many batches, the last ones.
RECENT_BATCHES = 64
DEFAULT_ROOT = "spanmill-jobs"


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


#: States in which some command should be running the job.
LIVE = frozenset(
    {State.VALIDATING, State.RUNNING, State.PAUSED, State.COLLECTING, State.CANCELLING}
)


class StatusReader:
    """Reads a job's status again and again, each shard's footer once."""

    def __init__(self, folder: JobFolder) -> None:
        """Name the job; nothing is read yet."""
        self._folder = folder
        self._seen: set[int] = set()
        self._rows = self._errors = 0
        self._recent: deque[BatchStats] = deque(maxlen=RECENT_BATCHES)

    def read(self) -> JobStatus:
        """Return how the job stands now.

        Raises:
            JobError: a shard is damaged.
        """
        running = is_held(self._folder.store, self._folder.job)  # first: the end may come meanwhile
        manifest = self._folder.read_manifest()
        events = self._folder.read_events()
        state = events[-1].state if events else State.VALIDATING
        reason = events[-1].reason if events else None
        if not running and state in LIVE:
            reason = self._say_how_to_go_on(validated=manifest is not None)
        self._look()
        rows = 0 if manifest is None else manifest.rows
        recent = self._since(events) if running or state in DONE else []
        speed = _measure_speed(recent)
        left = round((rows - self._rows) / speed, 1) if speed and running else None
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
            workers=len({(one.host, one.pid) for one in recent}) if running else 0,
            rows_per_second=round(speed, 2),
            seconds_left=0.0 if state in DONE else left,
            output=None if manifest is None else manifest.output,
        )

    def _say_how_to_go_on(self, *, validated: bool) -> str:
        if not validated:
            return "no command runs it, and its input was not checked to the end: answer it again"
        return (
            f"no command runs it: `{name_command('resume', self._folder.store, self._folder.job)}`"
        )

    def _look(self) -> None:
        for number in self._folder.iter_done():
            if number in self._seen:
                continue
            try:
                meta = read_footer(partial(self._folder.need_tail, number))
            except JobError as error:
                raise JobError(f"{shard_key(self._folder.job, number)}: {error}") from error
            self._seen.add(number)
            self._rows += meta.stats.rows
            self._errors += meta.stats.errors
            self._recent.append(meta.stats)

    def _since(self, events: list[Event]) -> list[BatchStats]:
        """Return the recent batches of the run that goes on: a night between two is no work."""
        begun = [event.at for event in events if event.state is State.RUNNING]
        since = datetime.fromisoformat(begun[-1]) if begun else None
        return [
            one
            for one in self._recent
            if since is None or datetime.fromisoformat(one.started_at) >= since
        ]


def _measure_speed(recent: list[BatchStats]) -> float:
    """Return rows per second, from the first beginning to the last end."""
    if not recent:
        return 0.0
    began = [datetime.fromisoformat(one.started_at).timestamp() for one in recent]
    ended = [
        start + (one.tokenize_ms + one.inference_ms + one.decode_ms) / 1e3
        for start, one in zip(began, recent, strict=True)
    ]
    seconds = max(ended) - min(began)
    return sum(one.rows for one in recent) / seconds if seconds > 0 else 0.0


def find_store(jobs_root: str | None, job: str | None) -> Store:
    """Return the store of the jobs' folder: the one named, or spanmill-jobs here.

    Raises:
        UsageError: there is none, or it has no such job, or the id is none.
    """
    root = DEFAULT_ROOT if jobs_root is None else jobs_root
    if job is not None:
        check_job_id(job)
    store = open_store(root)
    is_there = store.root.is_dir() if isinstance(store, LocalStore) else bool(store.names(""))
    if not is_there:
        raise UsageError(f"there is no jobs' folder {root}: name it with --jobs-root")
    if job is not None and not is_job(store, job):
        raise UsageError(
            f"there is no job {job!r} in {root}: list them with"
            f" `spanmill jobs --jobs-root {shlex.quote(root)}`"
        )
    return store
