"""Run a job to its end on this machine: feed the embedded fleet, collect, say how it ended."""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from producer.books import Summary
from producer.collect import collect
from producer.plan import reopen
from producer.progress import Progress
from producer.source import select_rows, stream_batches, stream_rows
from worker.contracts.errors import JobError, WorldError
from worker.contracts.folder import JobFolder
from worker.contracts.job import JobManifest, State
from worker.contracts.shard import encode_payload
from worker.contracts.store import LocalStore
from worker.local import FleetOptions, Hooks, OutgoingBatch, run_fleet
from worker.task import Done, Tools
from worker.tools import JobTools, open_tools

#: Rows that must be done before the ratio of errors can stop a job.
RATIO_AFTER_ROWS = 100
#: How often a running job looks whether somebody cancelled it.
CANCEL_POLL_SECONDS = 1.0


class Interrupted(Exception):  # noqa: N818  it is no error
    """The user stopped the command; the job goes on when it is resumed."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a job. ``make_tools`` is what the answering processes open."""

    root: Path
    folder: JobFolder
    manifest: JobManifest
    workers: int
    max_pause_seconds: float
    progress: Progress
    interrupted: Callable[[], bool]
    make_tools: Callable[[JobTools], Tools] = open_tools


def run_job(run: Run) -> Summary:
    """Answer what is not answered yet, then collect.

    Raises:
        Interrupted: the user stopped it.
        JobError: it was cancelled, has too many errors, or cannot go on.
        WorldError: the job's folder or the output cannot be written.
    """
    with hold(run.root, run.folder.job):
        LocalStore(run.root).sweep(older_than_seconds=3600, now=time.time())
        run.folder.put_event(State.RUNNING)
        try:
            _answer(run)
            summary = collect_job(run.folder, run.manifest, run.manifest.output)
        except (JobError, WorldError) as error:
            if run.folder.read_state() != State.CANCELLED:
                _note(run.folder, State.FAILED, str(error))
            raise
    return summary


def collect_job(folder: JobFolder, manifest: JobManifest, output: str) -> Summary:
    """Collect a job whose batches are all done, and close it.

    Raises:
        JobError: a batch is missing, or too many rows are errors.
    """
    folder.put_event(State.COLLECTING)
    summary = collect(folder, manifest, output, partial=False)
    limit = manifest.max_error_ratio
    if limit is not None and summary.errors > limit * max(summary.rows, 1):
        raise JobError(
            f"{summary.errors} of {summary.rows} rows are errors, more than --max-error-ratio"
            f" {limit} allows: see {folder.job}/errors.parquet in the jobs' folder"
        )
    folder.put_event(State.COMPLETED_WITH_ERRORS if summary.errors else State.COMPLETED)
    return summary


@contextmanager
def hold(root: Path, job: str) -> Iterator[None]:
    """Hold the job, so that two commands do not run it at once; death lets go of it.

    Raises:
        JobError: another process holds it.
    """
    path = root / job / "lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise WorldError(
            f"cannot write {path} ({error.strerror}): allow it, or use another --jobs-root"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise JobError(
                f"the job {job} is being run by another command: follow it with"
                f" `spanmill watch {job} --jobs-root {root}`"
            ) from error
        yield
    finally:
        os.close(descriptor)


def is_held(root: Path, job: str) -> bool:
    """Say whether a command runs the job right now."""
    try:
        with hold(root, job):
            return False
    except JobError:
        return True


def job_rows(manifest: JobManifest, root: Path) -> Iterator[pa.Table]:
    """Yield the job's rows: all of its inputs', or its parent's error rows."""
    rows = stream_rows(reopen(manifest))
    if manifest.parent is None:
        return rows
    return select_rows(rows, read_error_rows(root, manifest.parent))


def read_error_rows(root: Path, job: str) -> NDArray[np.int64]:
    """Return the numbers of a collected job's error rows. Shape: ``(rows,)``, sorted.

    Raises:
        JobError: the job was not collected.
    """
    path = root / job / "errors.parquet"
    if not path.is_file():
        raise JobError(f"the job {job} has no errors.parquet: let it finish first")
    rows: NDArray[np.int64] = pq.read_table(path, columns=["row"]).column("row").to_numpy()
    return rows


def _answer(run: Run) -> None:
    manifest = run.manifest
    recipe = JobTools(
        run.root, manifest.bundle, manifest.reading, manifest.forward, manifest.provider
    )
    options = FleetOptions(
        workers=max(1, min(run.workers, manifest.batches)),
        open_tools=partial(run.make_tools, recipe),
        max_pause_seconds=run.max_pause_seconds,
    )
    watch = _Watch(run)
    with run.progress:
        finished = run_fleet(_outgoing(run), options, watch.hooks())
    if not finished:
        if watch.cancelled:
            run.folder.put_event(State.CANCELLED)
            raise JobError(
                f"the job {manifest.job} was cancelled; what is done is kept: `spanmill resume"
                f" {manifest.job}` goes on"
            )
        raise Interrupted


def _outgoing(run: Run) -> Iterator[OutgoingBatch]:
    """Yield the batches that have no shard yet."""
    done: frozenset[int] = frozenset()
    rows = job_rows(run.manifest, run.root)
    for number, table in enumerate(stream_batches(rows, run.manifest.cut)):
        if number % 1000 == 0:
            done = run.folder.list_done(number // 1000)
        if number in done:
            run.progress.skip(table.num_rows)
        else:
            numbers = table.column("row").to_pylist()
            yield OutgoingBatch(number, numbers, encode_payload(run.manifest.job, number, table))


class _Watch:
    """Hears the fleet: counts, writes events, and says when to stop."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._rows = self._errors = 0
        self._looked_at = time.monotonic()
        self.cancelled = False

    def hooks(self) -> Hooks:
        return Hooks(self._done, self._paused, self._resumed, self._stopping)

    def _done(self, done: Done) -> None:
        if done.stats is None:
            return
        self._rows += done.stats.rows
        self._errors += done.stats.errors
        self._run.progress.advance(done.stats.rows, done.stats.errors)
        limit = self._run.manifest.max_error_ratio
        if limit is None or self._rows < RATIO_AFTER_ROWS:
            return
        if self._errors > limit * self._run.manifest.rows:
            raise JobError(
                f"{self._errors} of the first {self._rows} rows are errors, more than"
                f" --max-error-ratio {limit} of all allows: look at the input"
            )

    def _paused(self, reason: str) -> None:
        _note(self._run.folder, State.PAUSED, reason)
        self._run.progress.say(f"paused: {reason}; the job goes on by itself")

    def _resumed(self) -> None:
        _note(self._run.folder, State.RUNNING, None)
        self._run.progress.say("going on")

    def _stopping(self) -> bool:
        now = time.monotonic()
        if now - self._looked_at > CANCEL_POLL_SECONDS:
            self._looked_at = now
            self.cancelled = self._run.folder.read_state() == State.CANCELLING
        return self.cancelled or self._run.interrupted()


def _note(folder: JobFolder, state: State, reason: str | None) -> None:
    """Write an event if that can be done: the disk may be what is broken."""
    try:
        folder.put_event(state, reason)
    except WorldError:
        return
