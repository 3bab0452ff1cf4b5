"""The commands about jobs: `jobs`, `status`, `watch`, `cancel` and `collect`."""

import sys
import time
from dataclasses import replace

import click
import msgspec
from rich.console import Console
from rich.table import Table

from producer.answers import check_free
from producer.collect import collect as collect_answers
from producer.collect import count_rows
from producer.commands.broker import choose_broker
from producer.exits import DONE, FAILED, INTERRUPTED, WITH_ERRORS
from producer.finished import find_heir
from producer.fleet_status import ask_fleet
from producer.lock import is_held
from producer.options import BROKER, JOBS_ROOT, JSON, OUTPUT, option
from producer.plan import check_not_input, check_place, check_writable
from producer.progress import Progress
from producer.run import is_answered
from producer.status import LIVE, JobStatus, StatusReader, find_store
from worker.contracts.broker import parse_broker
from worker.contracts.errors import JobError, WorldError
from worker.contracts.folder import JobFolder, list_jobs
from worker.contracts.job import DONE as DONE_STATES
from worker.contracts.job import State
from worker.contracts.ledger import Ledger
from worker.contracts.url import find_parent, to_path
from worker.events import Level

WATCH_SECONDS = 1.0
_LISTED = ("job", "state", "rows", "created_at", "output")
#: Columns for a table that goes to a file or a pipe: no path is broken in two.
WIDE = 10_000


@click.command()
@JOBS_ROOT
@JSON
def jobs(jobs_root: str | None, as_json: bool) -> int:
    """List all jobs of a jobs' folder, with their states."""
    store = find_store(jobs_root, None)
    rows = [_look_at(JobFolder(store, job)) for job in list_jobs(store)]
    if as_json:
        click.echo(msgspec.json.encode(rows))
        return DONE
    table = Table(box=None, pad_edge=False)
    for name in _LISTED:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    Console(width=None if sys.stdout.isatty() else WIDE).print(table)
    return DONE


@click.command()
@click.argument("job")
@JOBS_ROOT
@BROKER
@JSON
def status(job: str, jobs_root: str | None, broker_url: str | None, as_json: bool) -> int:
    """Say how a job stands."""
    folder = JobFolder(find_store(jobs_root, job), job)
    found = ask_fleet(choose_broker(broker_url, folder), StatusReader(folder).read())
    if as_json:
        click.echo(msgspec.json.encode(found))
        return DONE
    click.echo(_describe(found))
    return DONE


@click.command()
@click.argument("job")
@JOBS_ROOT
@BROKER
@JSON
def watch(job: str, jobs_root: str | None, broker_url: str | None, as_json: bool) -> int:
    """Follow a job until it ends; the exit status says how.

    With a broker, also one that nobody waits for, as long as its batches are in flight.
    """
    store = find_store(jobs_root, job)
    folder = JobFolder(store, job)
    reader = StatusReader(folder)
    found = ask_fleet(choose_broker(broker_url, folder), reader.read())
    progress = Progress(found.rows)
    try:
        with progress:
            progress.skip(found.rows_done)
            look = _Look(broker_url, folder, progress)
            while is_held(store, job) or found.in_flight:
                time.sleep(WATCH_SECONDS)
                before, found = found, look.ask(reader.read(), found)
                progress.resize(found.rows)
                progress.advance(found.rows_done - before.rows_done, found.errors - before.errors)
    except KeyboardInterrupt:
        return INTERRUPTED
    # What came after the last look, now that nobody runs it.
    found = look.ask(reader.read(), found)
    click.echo(msgspec.json.encode(found) if as_json else _describe(found))
    if found.state not in DONE_STATES:
        return FAILED
    return WITH_ERRORS if found.errors else DONE


@click.command()
@click.argument("job")
@JOBS_ROOT
@BROKER
def cancel(job: str, jobs_root: str | None, broker_url: str | None) -> int:
    """Stop a job. Its committed batches are kept; `resume` goes on with it.

    One that was submitted and that nobody waits for is stopped at its broker, where that is known.
    """
    folder = JobFolder(find_store(jobs_root, job), job)
    broker_url = choose_broker(broker_url, folder)
    state = folder.read_state()
    if state in DONE_STATES:
        raise JobError(f"the job {job} is {state} already: there is nothing to cancel")
    if state is not State.CANCELLED:
        folder.put_event(State.CANCELLING)
    if broker_url is not None:
        ledger = Ledger(parse_broker(broker_url))
        if ledger.count(job) is not None:
            ledger.cancel(job)
    if is_held(folder.store, job):
        click.echo(f"the job {job} is being cancelled; what is done is kept")
    else:
        folder.put_event(State.CANCELLED)
        click.echo(f"the job {job} is cancelled; what is done is kept")
    return DONE


@click.command()
@click.argument("job")
@OUTPUT
@option("--partial", is_flag=True, help="Take the batches that are done, whatever is missing.")
@option("--overwrite", is_flag=True, help="Replace the output.")
@JOBS_ROOT
@JSON
def collect(
    job: str,
    output: str,
    partial: bool,
    overwrite: bool,
    jobs_root: str | None,
    as_json: bool,
) -> int:
    """Write a job's answers to a file of your choice; a part of them leaves the books alone.

    If `retry-errors` has finished for the same output, its answers replace the error rows.
    """
    asked = JobFolder(find_store(jobs_root, job), job)
    folder, manifest = find_heir(asked, asked.need_manifest())
    output = to_path(output)
    check_place(output)
    check_not_input(output, manifest)
    check_free(output, overwrite=overwrite)
    check_writable(find_parent(output), "the output's folder", "--out")
    rows = count_rows(folder, manifest)
    whole = is_answered(folder, manifest)  # first: a batch may come while the others are read
    summary = collect_answers(folder, manifest, output, partial=partial)
    lacking = not whole or summary.rows < rows
    if not partial and folder.read_state() in LIVE and not is_held(folder.store, folder.job):
        folder.put_event(State.COMPLETED_WITH_ERRORS if summary.errors else State.COMPLETED)
    if as_json:
        click.echo(msgspec.json.encode(msgspec.to_builtins(summary) | {"partial": lacking}))
    else:
        kind = " (partial)" if lacking else ""
        click.echo(f"{summary.rows} of {rows} rows{kind}: {output}")
    return WITH_ERRORS if summary.errors else DONE


class _Look:
    """Asks a fleet again and again; while its broker is away, what it said last is true."""

    def __init__(self, broker_url: str | None, folder: JobFolder, progress: Progress) -> None:
        self._broker_url = broker_url
        self._folder = folder
        self._progress = progress
        self._is_away = False

    def ask(self, read: JobStatus, before: JobStatus) -> JobStatus:
        try:
            # Chosen again: the job may have been submitted meanwhile.
            found = ask_fleet(choose_broker(self._broker_url, self._folder), read)
        except WorldError as error:
            if not self._is_away:
                line = f"{error}; this goes on by itself"
                self._progress.say(line, "broker-away", Level.WARNING)
            self._is_away = True
            return replace(read, in_flight=before.in_flight, workers=before.workers)
        self._is_away = False
        return found


def _look_at(folder: JobFolder) -> dict[str, object]:
    """Return what the list says of a job; one that is damaged must not hide the others."""
    state = folder.read_state()
    row: dict[str, object] = dict.fromkeys(_LISTED)
    row |= {"job": folder.job, "state": None if state is None else str(state)}
    try:
        manifest = folder.read_manifest()
    except JobError:
        return row | {"state": "damaged"}
    if manifest is None:
        return row
    told = {"rows": manifest.rows, "created_at": manifest.created_at, "output": manifest.output}
    return row | told


def _describe(found: JobStatus) -> str:
    share = f"{found.rows_done} of {found.rows} rows, {found.errors} errors"
    speed = f", {found.rows_per_second} rows/s" if found.rows_per_second else ""
    left = f", {found.seconds_left:.0f} s left" if found.seconds_left else ""
    reason = "" if found.reason is None else f"\n{found.reason}"
    return f"{found.job}: {found.state}, {share}{speed}{left}{reason}"
