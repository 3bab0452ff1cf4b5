"""The commands that run a job: `answer`, `submit`, `resume` and `retry-errors`."""

import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import click
import msgspec
from click.core import ParameterSource

from producer.begin import begin, begin_retry, check_root, check_untouched, look, prove_root
from producer.books import Summary
from producer.diary import Diary
from producer.embedded import Processes
from producer.exits import DONE, INTERRUPTED, WITH_ERRORS
from producer.finished import Finished, show
from producer.fleet_status import find_queue
from producer.interrupts import Interrupts
from producer.lock import IsLost, hold, name_command
from producer.options import (
    BROKER,
    DEFAULT_QUEUE,
    JOBS_ROOT,
    JSON,
    QUEUE,
    job_options,
    make_request,
    option,
    read_output,
)
from producer.plan import Request, check_output, name_job
from producer.progress import Progress
from producer.retry import make_retry
from producer.run import Interrupted, Published, Run, Taken, run_held
from producer.scan import Scan
from producer.source import find_files
from producer.status import find_store
from worker.contracts.errors import JobError, UsageError
from worker.contracts.flight import MAX_BATCHES, MAX_BYTES
from worker.contracts.folder import JobFolder
from worker.contracts.job import JobManifest, State
from worker.contracts.metrics_option import metrics_options
from worker.contracts.object_store import open_store
from worker.contracts.store import Store
from worker.contracts.url import find_parent, to_path
from worker.events import Event, Level
from worker.log import Log, open_log
from worker.session import AUTO, choose_provider
from worker.settings import count_cores
from worker.telemetry import list_versions

WORKERS = option(
    "--workers", type=click.IntRange(1, 512), help="Processes.  [default: the cores granted]"
)
PAUSE = option(
    "--max-pause-seconds",
    default=600.0,
    type=click.FloatRange(0),
    help="Wait so long for room on the disk and the like.",
)


IN_FLIGHT = "Bound of what waits at the broker, of all jobs together."

#: Makes a job's manifest, and begins its diary; called with the job held.
Prepare = Callable[[], tuple[JobManifest, Diary]]


@dataclass(frozen=True, slots=True)
class _How:
    """How a job is run, as the options say."""

    answer: Callable[[Run, Diary], None]
    max_pause_seconds: float
    as_json: bool
    log: Log
    where: str = ""


@dataclass(frozen=True, slots=True)
class _Where:
    """Which fleet answers, and where its producer's metrics are served."""

    broker_url: str | None
    queue: str
    metrics_host: str
    metrics_port: int | None

    def words(self) -> str:
        """Return the options by which `resume` finds the fleet; a URL may hold a password."""
        broker = " --broker URL" if _is_from("broker_url", ParameterSource.COMMANDLINE) else ""
        return broker + ("" if self.queue == DEFAULT_QUEUE else f" --queue {self.queue}")


@click.command()
@job_options
@WORKERS
@PAUSE
@JSON
@click.pass_obj
def answer(
    look: str | None,
    /,
    workers: int | None,
    max_pause_seconds: float,
    as_json: bool,
    overwrite: bool,
    dry_run: bool,
    jobs_root: str | None,
    **given: Any,  # the options are the request's fields
) -> int:
    """Answer the questions of INPUT... (Parquet, SQuAD JSON, JSON lines; files, folders, globs).

    The same command again goes on where it was stopped, and says so when all is done.
    """
    how = _How(_here(workers), max_pause_seconds, as_json, _open_log(look))
    return _start(given, jobs_root, how, overwrite=overwrite, dry_run=dry_run)


@click.command()
@job_options
@BROKER
@QUEUE
@option("--no-wait", is_flag=True, help="Stop when all is published; `resume` collects later.")
@option("--in-flight-batches", default=MAX_BATCHES, type=click.IntRange(1), help=IN_FLIGHT)
@option("--in-flight-bytes", default=MAX_BYTES, type=click.IntRange(1), help=IN_FLIGHT)
@metrics_options
@PAUSE
@JSON
@click.pass_obj
def submit(
    look: str | None,
    /,
    broker_url: str | None,
    queue: str,
    no_wait: bool,
    in_flight_batches: int,
    in_flight_bytes: int,
    metrics_port: int | None,
    metrics_host: str,
    max_pause_seconds: float,
    as_json: bool,
    overwrite: bool,
    dry_run: bool,
    jobs_root: str | None,
    **given: Any,
) -> int:
    """Answer the questions of INPUT... through the workers at a broker, as `answer` does here.

    The same command again, or `resume` with the broker, goes on where it was stopped.
    """
    if broker_url is None:
        raise UsageError("submit has no broker: give --broker URL, or set SPANMILL_BROKER_URL")
    if given["provider"] == "auto":  # it is the workers that answer, not this machine
        given["provider"] = "cpu"
    log = _open_log(look)
    where = _Where(broker_url, queue, metrics_host, metrics_port)
    answer = _at(broker_url, where, (in_flight_batches, in_flight_bytes), log, wait=not no_wait)
    how = _How(answer, max_pause_seconds, as_json, log, where.words())
    return _start(given, jobs_root, how, overwrite=overwrite, dry_run=dry_run)


@click.command()
@click.argument("job")
@JOBS_ROOT
@BROKER
@QUEUE
@WORKERS
@metrics_options
@PAUSE
@JSON
@click.pass_obj
def resume(
    look: str | None,
    /,
    job: str,
    jobs_root: str | None,
    broker_url: str | None,
    queue: str,
    workers: int | None,
    metrics_port: int | None,
    metrics_host: str,
    max_pause_seconds: float,
    as_json: bool,
) -> int:
    """Go on with a job that was stopped, killed or cancelled."""
    folder = JobFolder(find_store(jobs_root, job), job)

    def prepare() -> tuple[JobManifest, Diary]:
        manifest = folder.need_manifest()
        check_untouched(folder, manifest)
        return manifest, Diary(folder)

    if broker_url is not None and _is_from("queue", ParameterSource.DEFAULT):
        known = find_queue(broker_url, job)
        queue = queue if known is None else known
    log = _open_log(look)
    where = _Where(broker_url, queue, metrics_host, metrics_port)
    answer = _choose(where, workers, log)
    return _run(folder, prepare, _How(answer, max_pause_seconds, as_json, log, where.words()))


@click.command("retry-errors")
@click.argument("job")
@option(
    "--out",
    "output",
    type=read_output,
    metavar="FILE",
    help="Where to write all answers.  [default: the job's output]",
)
@JOBS_ROOT
@BROKER
@QUEUE
@WORKERS
@metrics_options
@PAUSE
@JSON
@click.pass_obj
def retry_errors(
    look: str | None,
    /,
    job: str,
    output: str | None,
    jobs_root: str | None,
    broker_url: str | None,
    queue: str,
    workers: int | None,
    metrics_port: int | None,
    metrics_host: str,
    max_pause_seconds: float,
    as_json: bool,
) -> int:
    """Answer a job's error rows again, as a child job, and lay its answers over."""
    parent = JobFolder(find_store(jobs_root, job), job)
    made = make_retry(parent, None if output is None else to_path(output))
    if made is None:
        finished = show(parent, parent.need_manifest())
        if finished is None:
            raise JobError(f"the job {job} has lost its answers: answer it again")
        return _report_finished(finished, f"the job {job} has no error rows", as_json=as_json)
    folder = JobFolder(parent.store, made.job)
    log = _open_log(look)
    where = _Where(broker_url, queue, metrics_host, metrics_port)
    answer = _choose(where, workers, log)
    return _run(
        folder,
        partial(begin_retry, made, folder, parent.need_manifest()),
        _How(answer, max_pause_seconds, as_json, log, where.words()),
    )


def _is_from(parameter: str, source: ParameterSource) -> bool:
    return click.get_current_context().get_parameter_source(parameter) is source


def _here(workers: int | None) -> Callable[[Run, Diary], None]:
    """Answer on this machine."""
    return Processes(count_cores() if workers is None else workers).answer


def _at(
    broker_url: str, where: _Where, in_flight: tuple[int, int], log: Log, *, wait: bool
) -> Callable[[Run, Diary], None]:
    """Answer through the fleet at a broker, which is checked first."""
    # Celery and Prometheus take their time to load, and `answer` has no use for them.
    from producer.meter import Meter
    from producer.publish import open_fleet

    meter = Meter(log)
    fleet = open_fleet(broker_url, where.queue, in_flight, meter, wait=wait)
    if where.metrics_port is not None:
        meter.serve(where.metrics_host, where.metrics_port)
    return fleet.answer


def _choose(where: _Where, workers: int | None, log: Log) -> Callable[[Run, Diary], None]:
    """Answer through the fleet where a broker is known, else on this machine."""
    if where.broker_url is not None:
        return _at(where.broker_url, where, (MAX_BATCHES, MAX_BYTES), log, wait=True)
    if where.metrics_port is not None:
        raise UsageError("--metrics-port is for a fleet's jobs: give --broker URL too")
    return _here(workers)


def _open_log(look: str | None) -> Log:
    return open_log(look, {"host": socket.gethostname()})


def _start(
    given: dict[str, Any], jobs_root: str | None, how: _How, *, overwrite: bool, dry_run: bool
) -> int:
    """Run the job that the options ask for."""
    request = make_request(given, list_versions())
    files = find_files(request.inputs)
    store = _choose_store(request, jobs_root)
    warn = partial(_warn, how.log)
    check_output(request, files)
    check_root(store, request)
    choice = choose_provider(request.provider, request.bundle.model)
    if choice.note is not None:
        how.log.tell(Event("notice", message=choice.note))
    request = replace(
        request,
        provider=choice.provider,
        any_provider=request.provider == AUTO,
        provider_note=choice.note,
    )
    folder = JobFolder(store, name_job(request))
    prove_root(store)
    if dry_run:
        found = look(request, files, folder, warn, overwrite=overwrite)
        state = None if overwrite else folder.read_state()
        return _describe(request, found, folder.job, state, as_json=how.as_json)
    return _run(folder, partial(begin, request, files, folder, warn, overwrite=overwrite), how)


def _choose_store(request: Request, jobs_root: str | None) -> Store:
    if jobs_root is not None:
        return open_store(jobs_root)
    return open_store(f"{find_parent(request.output)}/spanmill-jobs")


def _warn(log: Log, text: str) -> None:
    log.tell(Event("warning", Level.WARNING, text))


def _describe(
    request: Request, found: Scan, job: str, state: State | None, *, as_json: bool
) -> int:
    """Say what would be done."""
    manifest = request.bundle.manifest
    plan = {
        "job": job,
        "state": state,
        "rows": found.rows,
        "files": len(found.files),
        "batches": found.batches,
        "output": request.output,
        "bundle": request.bundle.digest,
        "bundle_name": manifest.name,
        "provider": request.provider,
        "null_threshold": request.reading.null_threshold,
    }
    if as_json:
        click.echo(msgspec.json.encode(plan))
        return DONE
    stands = "would be new" if state is None else f"is {state}"
    threshold = "none" if plan["null_threshold"] is None else plan["null_threshold"]
    click.echo(
        f"{found.rows} rows of {len(found.files)} files in {found.batches} batches"
        f" -> {request.output}\njob {job} {stands}, bundle {manifest.name}"
        f" ({request.bundle.digest[:12]}), provider {request.provider},"
        f" null threshold {threshold}"
    )
    return DONE


def _run(folder: JobFolder, prepare: Prepare, how: _How) -> int:
    """Hold the job, run it to its end, and say how that went."""
    with Interrupts() as interrupts:
        try:
            with hold(folder.store, folder.job) as is_lost:
                manifest, diary = prepare()
                finished = show(folder, manifest)
                if finished is not None:
                    said = f"the job {folder.job} is done already; --overwrite begins anew"
                    return _report_finished(finished, said, as_json=how.as_json)
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


def _say_stopped(folder: JobFolder, how: _How) -> int:
    goes_on = "the same command begins again"
    if folder.read_manifest() is not None:
        again = name_command("resume", folder.store, folder.job) + how.where
        goes_on = f"go on with: {again}"
    how.log.tell(Event("stopped", message=f"stopped; {goes_on}", job=folder.job))
    return INTERRUPTED


def _report_finished(finished: Finished, said: str, *, as_json: bool) -> int:
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
