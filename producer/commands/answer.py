"""The commands that run a job on this machine: `answer`, `resume` and `retry-errors`."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import msgspec

from producer.answers import check_free, read_answers_meta
from producer.books import Summary
from producer.embedded import Interrupted, Run, collect_job, hold, run_job
from producer.exits import DONE, INTERRUPTED, WITH_ERRORS
from producer.options import JOBS_ROOT, JSON, job_options, make_request, option
from producer.plan import (
    Request,
    check_output,
    check_same,
    check_writable,
    make_manifest,
    name_job,
    publish_bundle,
    remove_job,
)
from producer.progress import Progress
from producer.retry import make_retry
from producer.scan import scan
from producer.source import find_files, open_source
from producer.status import find_root
from worker.contracts.folder import JobFolder
from worker.contracts.job import DONE as DONE_STATES
from worker.contracts.job import JobManifest, State
from worker.contracts.store import LocalStore
from worker.session import choose_provider
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


@click.command()
@job_options
@WORKERS
@PAUSE
@JSON
def answer(  # the options are the request's fields
    workers: int | None,
    max_pause_seconds: float,
    as_json: bool,
    overwrite: bool,
    dry_run: bool,
    jobs_root: Path | None,
    **given: Any,
) -> int:
    """Answer the questions of INPUT... (Parquet, SQuAD JSON, JSON lines; files, folders, globs).

    The same command again goes on where it was stopped, and says so when all is done.
    """
    request = make_request(given, list_versions())
    files = find_files(request.inputs)
    check_output(request, files)
    root = _choose_root(request, jobs_root)
    choice = choose_provider(request.provider, request.bundle.model)
    if choice.note is not None:
        click.echo(f"spanmill: {choice.note}", err=True)
    request = replace(request, provider=choice.provider)
    folder = JobFolder(LocalStore(root), name_job(request))
    if dry_run:
        return _describe(request, files, folder)
    check_writable(root, "the jobs' folder", "--jobs-root")
    manifest = _begin(request, files, folder, root, overwrite=overwrite)
    return _run(folder, manifest, root, workers, max_pause_seconds, as_json=as_json)


@click.command()
@click.argument("job")
@JOBS_ROOT
@WORKERS
@PAUSE
@JSON
def resume(
    job: str,
    jobs_root: Path | None,
    workers: int | None,
    max_pause_seconds: float,
    as_json: bool,
) -> int:
    """Go on with a job that was stopped, killed or cancelled."""
    root = find_root(jobs_root, job)
    folder = JobFolder(LocalStore(root), job)
    manifest = folder.need_manifest()
    return _run(folder, manifest, root, workers, max_pause_seconds, as_json=as_json)


@click.command("retry-errors")
@click.argument("job")
@option("--out", "output", help="Where to write all answers.  [default: the job's output]")
@JOBS_ROOT
@WORKERS
@PAUSE
@JSON
def retry_errors(
    job: str,
    output: str | None,
    jobs_root: Path | None,
    workers: int | None,
    max_pause_seconds: float,
    as_json: bool,
) -> int:
    """Answer a job's error rows again, as a child job, and lay its answers over."""
    root = find_root(jobs_root, job)
    parent = JobFolder(LocalStore(root), job)
    manifest = make_retry(parent, root, output)
    if manifest is None:
        click.echo(f"spanmill: the job {job} has no error rows")
        return DONE
    folder = JobFolder(parent.store, manifest.job)
    if folder.read_manifest() is None:
        folder.put_event(State.VALIDATING)
        folder.put_manifest(manifest)
    return _run(folder, manifest, root, workers, max_pause_seconds, as_json=as_json)


def _choose_root(request: Request, jobs_root: Path | None) -> Path:
    if jobs_root is not None:
        return jobs_root.absolute()
    return Path(request.output.rstrip("/")).absolute().parent / "spanmill-jobs"


def _describe(request: Request, files: tuple[Path, ...], folder: JobFolder) -> int:
    """Say what would be done."""
    found = scan(open_source(files, request.columns), request.batch_rows)
    exists = "goes on with" if folder.read_manifest() is not None else "would be"
    click.echo(
        f"{found.rows} rows of {len(files)} files in {found.batches} batches"
        f" -> {request.output}\njob {exists} {folder.job}, bundle"
        f" {request.bundle.manifest.name} ({request.bundle.digest[:12]}), provider"
        f" {request.provider}, null threshold {request.reading.null_threshold}"
    )
    return DONE


def _begin(
    request: Request, files: tuple[Path, ...], folder: JobFolder, root: Path, *, overwrite: bool
) -> JobManifest:
    """Return the manifest of the job: the one that is there, or a new one."""
    if overwrite:
        check_free(request.output, overwrite=True)
        with hold(root, folder.job):
            remove_job(root, folder.job)
    manifest = folder.read_manifest()
    if manifest is not None:
        check_same(manifest, request)
        return manifest
    check_free(request.output, overwrite=overwrite)
    folder.put_event(State.VALIDATING)
    source = open_source(files, request.columns)
    found = scan(source, request.batch_rows)
    for count, what in (
        (found.null_ids, "have no id: the row number stands in for it"),
        (found.repeated_ids, "repeat an id: the row number tells them apart"),
    ):
        if count:
            click.echo(f"spanmill: warning: {count} rows {what}", err=True)
    if not found.rows:
        click.echo("spanmill: warning: the input has no rows", err=True)
    publish_bundle(folder.store, request.bundle)
    made = make_manifest(request, source, found)
    folder.put_manifest(made)
    return folder.need_manifest()


def _run(
    folder: JobFolder,
    manifest: JobManifest,
    root: Path,
    workers: int | None,
    max_pause_seconds: float,
    *,
    as_json: bool,
) -> int:
    if folder.read_state() in DONE_STATES:
        return _say_done_already(folder, manifest, as_json=as_json)
    with _interruptible() as interrupted:
        run = Run(
            root=root,
            folder=folder,
            manifest=manifest,
            workers=count_cores() if workers is None else workers,
            max_pause_seconds=max_pause_seconds,
            progress=Progress(manifest.rows),
            interrupted=interrupted,
        )
        try:
            summary = run_job(run)
        except (Interrupted, KeyboardInterrupt):
            click.echo(
                f"spanmill: stopped; go on with: spanmill resume {folder.job} --jobs-root {root}",
                err=True,
            )
            return INTERRUPTED
    return _report(summary, as_json=as_json)


def _say_done_already(folder: JobFolder, manifest: JobManifest, *, as_json: bool) -> int:
    """A finished job is not run again; its output is written again if it is gone."""
    output = Path(manifest.output.rstrip("/"))
    if not output.exists():
        return _report(collect_job(folder, manifest, manifest.output), as_json=as_json)
    meta = None if output.is_dir() else read_answers_meta(output)
    if not output.is_dir() and (meta is None or meta.job != folder.job):
        check_free(manifest.output, overwrite=False)
    raw = folder.store.read(f"{folder.job}/summary.json")
    if raw is None:
        return _report(collect_job(folder, manifest, manifest.output), as_json=as_json)
    summary = msgspec.json.decode(raw, type=Summary)
    if not as_json:
        click.echo(f"the job {folder.job} is done already; --overwrite begins anew")
    return _report(summary, as_json=as_json)


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


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C or SIGTERM into an answer to be asked for; the second stops at once."""
    asked: list[int] = []

    def ask(number: int, _: Any) -> None:
        asked.append(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.default_int_handler)

    before = {one: signal.signal(one, ask) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
