"""Runs a command's job: hold it, answer it, collect it, and say how that went."""

import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import click
import msgspec

from producer.books import Summary
from producer.diary import Diary
from producer.exits import DONE, INTERRUPTED, WITH_ERRORS
from producer.finished import Finished, show
from producer.interrupts import Interrupts
from producer.lock import IsLost, hold, name_command
from producer.options import option
from producer.progress import Progress
from producer.run import Interrupted, Published, Run, Taken, run_held
from worker.contracts.errors import JobError
from worker.contracts.folder import JobFolder
from worker.contracts.job import JobManifest
from worker.events import Event
from worker.log import Log, open_log

PAUSE = option(
    "--max-pause-seconds",
    default=600.0,
    type=click.FloatRange(0),
    help="Wait so long for room on the disk and the like.",
)

#: Makes a job's manifest, and begins its diary; called with the job held.
Prepare = Callable[[], tuple[JobManifest, Diary]]


@dataclass(frozen=True, slots=True)
class How:
    """How a job is run, as the options say; ``where`` is what `resume` needs beside its name."""

    answer: Callable[[Run, Diary], None]
    max_pause_seconds: float
    as_json: bool
    log: Log
    where: str = ""


def open_command_log(look: str | None) -> Log:
    """Return the log of a command on this host."""
    return open_log(look, {"host": socket.gethostname()})


def run_command(folder: JobFolder, prepare: Prepare, how: How) -> int:
    """Hold the job, run it to its end, and say how that went."""
    with Interrupts() as interrupts:
        try:
            with hold(folder.store, folder.job) as is_lost:
                manifest, diary = prepare()
                finished = show(folder, manifest)
                if finished is not None:
                    said = f"the job {folder.job} is done already; --overwrite begins anew"
                    return report_finished(finished, said, as_json=how.as_json)
                run = Run(
                    folder=folder,
                    manifest=manifest,
                    answer=how.answer,
                    max_pause_seconds=how.max_pause_seconds,
                    progress=Progress(manifest.rows, how.log),
                    interrupted=partial(_ask, interrupts, is_lost),
                    listening=interrupts.listening,
                    where=how.where,
                )
                summary = run_held(run, diary)
                how.log.note(_describe_end(summary))
                return _report(summary, as_json=how.as_json)
        except (Interrupted, KeyboardInterrupt):
            return _say_stopped(folder, how)
        except Taken as error:
            look = name_command("watch", folder.store, folder.job)
            raise JobError(
                f"another command took the job {folder.job} over while its store was out of reach:"
                f" follow it with `{look}`"
            ) from error
        except Published:
            again = name_command("resume", folder.store, folder.job) + how.where
            said = f"all of {folder.job} is published; collect with: {again}"
            how.log.tell(Event("published", message=said, job=folder.job))
            return DONE


def _describe_end(summary: Summary) -> Event:
    names = ("rows", "answered", "unanswerable", "errors", "seconds", "rows_per_second")
    facts = {name: getattr(summary, name) for name in names}
    return Event("job-ended", job=summary.job, facts=facts)


def _ask(interrupts: Interrupts, is_lost: IsLost) -> bool:
    if is_lost():
        raise Taken
    return interrupts.asked()


def _say_stopped(folder: JobFolder, how: How) -> int:
    goes_on = "the same command begins again"
    if folder.read_manifest() is not None:
        again = name_command("resume", folder.store, folder.job) + how.where
        goes_on = f"go on with: {again}"
    how.log.tell(Event("stopped", message=f"stopped; {goes_on}", job=folder.job))
    return INTERRUPTED


def report_finished(finished: Finished, said: str, *, as_json: bool) -> int:
    """Say that a job is done already, and how it ended; return the exit status."""
    if not as_json and not finished.collected:
        click.echo(said)
    return _report(finished.summary, as_json=as_json)


def _report(summary: Summary, *, as_json: bool) -> int:
    if as_json:
        click.echo(msgspec.json.encode(summary))
    else:
        latency = summary.latency_ms
        click.echo(
            f"{summary.rows} rows: {summary.answered} answered, {summary.unanswerable}"
            f" unanswerable, {summary.errors} errors; {summary.rows_per_second} rows/s;"
            f" latency p50 {latency.p50:.0f}, p95 {latency.p95:.0f}, p99 {latency.p99:.0f} ms\n"
            f"answers: {summary.output}   job: {summary.job}"
        )
    return WITH_ERRORS if summary.errors else DONE
