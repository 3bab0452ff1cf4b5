"""Starts the job that a command's options ask for, or says what would be done."""

from dataclasses import replace
from functools import partial
from typing import Any

import click
import msgspec

from producer.begin import begin, check_root, look, prove_root
from producer.commands.running import How, run_command
from producer.exits import DONE
from producer.options import make_request
from producer.plan import Request, check_output, name_job
from producer.scan import Scan
from producer.source import find_files
from worker.contracts.folder import JobFolder
from worker.contracts.job import State
from worker.contracts.object_store import open_store
from worker.contracts.store import Store
from worker.contracts.url import find_parent
from worker.events import Event, Level
from worker.log import Log
from worker.session import AUTO, choose_provider
from worker.telemetry import list_versions


def start(
    given: dict[str, Any], jobs_root: str | None, how: How, *, overwrite: bool, dry_run: bool
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
    return run_command(
        folder, partial(begin, request, files, folder, warn, overwrite=overwrite), how
    )


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
