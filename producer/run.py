"""One run of a job, however its batches are answered: then collect, and say how it ended."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from producer.books import Summary
from producer.collect import collect
from producer.diary import Diary
from producer.lock import hold, name_command
from producer.plan import reopen
from producer.progress import Progress
from producer.source import choose_measure, select_rows, stream_batches, stream_rows
from producer.status import StatusReader
from worker.contracts.errors import JobError, SpanmillError, UsageError, WorldError
from worker.contracts.folder import JobFolder
from worker.contracts.job import JobManifest, State
from worker.contracts.object_file import Wait, give_up, insist
from worker.contracts.store import Store
from worker.events import Level

#: Temporary files that are older were left behind by a process that was killed.
LEFT_BEHIND_SECONDS = 3600.0
#: How often a running job looks whether somebody cancelled it.
LOOK_SECONDS = 1.0
#: Waits between tries when the world is in the way.
FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 15.0


class Interrupted(Exception):  # noqa: N818  it is no error
    """The user stopped the command; the job goes on when it is resumed."""


class Taken(Exception):  # noqa: N818  it is no error
    """Another command has taken the job over: it is not this one's any more."""


class Published(Exception):  # noqa: N818  it is no error
    """All batches are at the broker, and the user does not wait for their shards."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a job. ``answer`` sees to it that all batches get their shards.

    ``interrupted`` is asked while they are answered, which is while ``listening`` is entered; at
    other times an interrupt has to raise KeyboardInterrupt.
    """

    folder: JobFolder
    manifest: JobManifest
    answer: "Callable[[Run, Diary], None]"
    max_pause_seconds: float
    progress: Progress
    interrupted: Callable[[], bool]
    listening: Callable[[], AbstractContextManager[None]] = nullcontext
    #: Options that `resume` needs beside the job and its folder.
    where: str = ""

    def name_resume(self) -> str:
        """Return the command that goes on with the job, as a line for the shell."""
        return name_command("resume", self.folder.store, self.manifest.job) + self.where


def run_job(run: Run) -> Summary:
    """Answer what is not answered yet, then collect; hold the job meanwhile.

    Raises:
        Interrupted: the user stopped it.
        JobError: it was cancelled, has too many errors, or cannot go on.
        WorldError: the job's folder or the output cannot be written.
    """
    with hold(run.folder.store, run.folder.job):
        return run_held(run, Diary(run.folder))


def run_held(run: Run, diary: Diary) -> Summary:
    """Do the same for a job that is held already, by the diary's writer."""
    run.folder.store.sweep(LEFT_BEHIND_SECONDS, time.time())
    run.folder.put_event(State.RUNNING)
    try:
        run.answer(run, diary)
        if run.manifest.max_error_ratio is not None:
            check_ratio(run, count_errors(run))
        return _collect(run, diary)
    except (Interrupted, KeyboardInterrupt):
        diary.note(State.PAUSED, "interrupted")
        raise
    except SpanmillError as error:
        if diary.was_cancelled():
            diary.note(State.CANCELLED)
        else:
            diary.note(State.FAILED, str(error))
        if isinstance(error, UsageError):  # of an input or the bundle, but after the job began
            raise JobError(str(error)) from error
        raise


def collect_job(folder: JobFolder, manifest: JobManifest, output: str) -> Summary:
    """Collect a job whose batches are all done, and close it.

    Raises:
        JobError: a batch is missing.
        WorldError: the output cannot be written.
    """
    folder.put_event(State.COLLECTING)
    summary = collect(folder, manifest, output, partial=False)
    folder.put_event(State.COMPLETED_WITH_ERRORS if summary.errors else State.COMPLETED)
    return summary


def is_answered(folder: JobFolder, manifest: JobManifest) -> bool:
    """Say whether all batches have their shards."""
    return sum(number < manifest.batches for number in folder.iter_done()) == manifest.batches


def job_rows(manifest: JobManifest, store: Store, wait: Wait = give_up) -> Iterator[pa.Table]:
    """Yield the job's rows: all of its inputs', or its parent's error rows."""
    rows = stream_rows(reopen(manifest, wait))
    if manifest.parent is None:
        return rows
    return select_rows(rows, insist(partial(read_error_rows, store, manifest.parent), wait))


def read_error_rows(store: Store, job: str) -> NDArray[np.int64]:
    """Return the numbers of a collected job's error rows. Shape: ``(rows,)``, sorted.

    Raises:
        JobError: the job was not collected, or its list of errors is damaged.
    """
    raw = store.read(f"{job}/errors.parquet")
    if raw is None:
        raise JobError(f"the job {job} has no errors.parquet: let it finish first")
    try:
        table = pq.read_table(pa.BufferReader(raw), columns=["row"])
    except (pa.ArrowException, OSError) as error:
        again = name_command("collect", store, job)
        raise JobError(
            f"{job}/errors.parquet is damaged ({type(error).__name__}): write it again with"
            f" `{again} --out FILE`"
        ) from error
    rows: NDArray[np.int64] = table.column("row").to_numpy()
    return rows


def missing_batches(
    run: Run,
    stopping: Callable[[], bool],
    skipped: Callable[[int], None],
    suffer: Callable[[str], None],
) -> Iterator[tuple[int, pa.Table]]:
    """Yield the batches that have no shard yet, each with its number; tell the others' rows.

    ``suffer`` hears why a store cannot be read now, and raises when that has been for too long.

    Raises:
        Interrupted: it is to stop.
    """

    def wait(error: WorldError, failures: int) -> None:
        suffer(str(error))
        backoff = FIRST_BACKOFF_SECONDS * 2 ** min(failures - 1, 10)
        until = time.monotonic() + min(backoff, LONGEST_BACKOFF_SECONDS)
        while time.monotonic() < until:
            if run.interrupted():
                raise Interrupted
            time.sleep(0.05)

    done: frozenset[int] = frozenset()
    rows = job_rows(run.manifest, run.folder.store, wait)
    measure = choose_measure(run.manifest.version)
    for number, table in enumerate(stream_batches(rows, run.manifest.cut, measure)):
        if number % 1000 == 0:
            done = insist(partial(run.folder.list_done, number // 1000), wait)
        if number not in done:
            yield number, table
        elif stopping():
            raise Interrupted
        else:
            skipped(table.num_rows)


def say_cancelled(run: Run) -> str:
    """Say that a job was cancelled, and how it goes on."""
    kept = f"the job {run.manifest.job} was cancelled: what is done is kept"
    return f"{kept}, `{run.name_resume()}` goes on"


def count_errors(run: Run) -> int:
    """Return the error rows of all shards."""
    return StatusReader(run.folder).read().errors


def check_ratio(run: Run, errors: int) -> None:
    """Refuse to collect a job with too many errors: its output would look like a good one's."""
    ratio, rows = run.manifest.max_error_ratio, run.manifest.rows
    if ratio is not None and errors > 0 and errors / rows > ratio:
        look = name_command("collect", run.folder.store, run.manifest.job)
        raise JobError(
            f"{errors} of {rows} rows are errors, more than --max-error-ratio {ratio:g} allows:"
            f" look at them with `{look} --partial --out FILE`"
        )


def _collect(run: Run, diary: Diary) -> Summary:
    """Collect, and when the world is in the way try again until it has been so for too long."""
    began = time.monotonic()
    backoff = FIRST_BACKOFF_SECONDS
    while True:
        try:
            return collect_job(run.folder, run.manifest, run.manifest.output)
        except WorldError as error:
            left = began + run.max_pause_seconds - time.monotonic()
            if left <= 0 or diary.was_cancelled():
                raise
            if backoff == FIRST_BACKOFF_SECONDS:
                diary.note(State.PAUSED, str(error))
                run.progress.say(
                    f"paused: {error}; the job goes on by itself", "paused", Level.WARNING
                )
        time.sleep(min(backoff, left))
        backoff = min(backoff * 2, LONGEST_BACKOFF_SECONDS)
