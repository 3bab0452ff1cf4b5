"""From a request to a job that can run: a new one, or that which the same command began before."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from producer.answers import check_free, find_owner
from producer.diary import Diary
from producer.lock import hold
from producer.overlap import reads_jobs
from producer.plan import (
    Request,
    check_inputs,
    check_same,
    check_writable,
    make_manifest,
    name_job,
    publish_bundle,
    remove_job,
)
from producer.run import is_answered
from producer.scan import Scan, scan
from producer.source import Source, open_source
from worker.contracts.bundle import MANIFEST, Bundle, load_bundle
from worker.contracts.errors import BundleError, JobError, UsageError
from worker.contracts.folder import JobFolder, list_jobs
from worker.contracts.job import DONE, JobManifest, State
from worker.contracts.store import LocalStore

Warn = Callable[[str], None]


def check_root(root: Path, request: Request) -> None:
    """Refuse a jobs' folder whose shards would be read as input the next time.

    Raises:
        UsageError: it lies in an input's folder, or under an input's glob.
    """
    if reads_jobs(request.inputs, root, name_job(request)):
        raise UsageError(f"the jobs' folder {root} lies in the input: choose another --jobs-root")


def begin(
    request: Request,
    files: tuple[Path, ...],
    folder: JobFolder,
    root: Path,
    warn: Warn,
    *,
    overwrite: bool,
) -> tuple[JobManifest, Diary]:
    """Return the manifest of the job: the one that is there, or a new one. The job is held.

    With ``overwrite`` the job that is there, and its retries, are forgotten once the input has been
    read. The bound on errors is always the one that was given last: no answer depends on it.

    Raises:
        UsageError: the output exists, or an input is damaged; nothing is left behind.
        JobError: the id is another job's, or the bundle or an input has changed.
    """
    manifest = folder.read_manifest() if not overwrite else None
    if manifest is not None:
        check_same(manifest, request)
        done = folder.read_state() in DONE
        if done or is_answered(folder, manifest):
            check_inputs(manifest)  # else they are checked as they are read
        if not done and find_owner(Path(request.output.rstrip("/"))) != folder.job:
            check_free(request.output, overwrite=False)  # it has come since the job began
        put_bundle(root, request.bundle)
        return replace(manifest, max_error_ratio=request.max_error_ratio), Diary(folder)
    check_free(request.output, overwrite=overwrite)
    source = open_source(files, request.columns)
    found = None
    if folder.read_state() is not None:  # it is given up only for what can take its place
        found = scan(source, request.batch_rows)
        put_bundle(root, request.bundle)
    forget(root, folder.job)
    diary = Diary(folder)
    return _validate(request, source, found, folder, root, warn), diary


def check_untouched(folder: JobFolder, manifest: JobManifest) -> None:
    """Refuse to replace an output that has come since an unfinished job began.

    One that was there before is to be replaced: the job's command said so.

    Raises:
        UsageError: it has.
    """
    path = Path(manifest.output.rstrip("/"))
    if folder.read_state() in DONE or not path.exists():
        return
    began = datetime.fromisoformat(manifest.created_at).timestamp()
    owner = find_owner(path)
    ours = owner is not None and owner in (folder.job, manifest.parent)
    if path.stat().st_ctime > began and not ours:
        raise UsageError(
            f"the output {path} has come or changed since the job {folder.job} began: move it away"
        )


def begin_retry(
    made: JobManifest, folder: JobFolder, parent: JobManifest
) -> tuple[JobManifest, Diary]:
    """Return the manifest of a job of error rows: the one that is there, or the one just made.

    Raises:
        UsageError: the output exists, or the retry went to another one.
    """
    manifest = folder.read_manifest()
    if manifest is None:
        mine = made.output == parent.output
        if not mine or find_owner(Path(made.output.rstrip("/"))) != parent.job:
            check_free(made.output, overwrite=False)
        check_writable(Path(made.output.rstrip("/")).parent, "the output's folder", "--out")
        folder.put_event(State.VALIDATING)
        folder.put_manifest(made)
    elif manifest.output != made.output:
        raise UsageError(
            f"the errors of {parent.job} are retried by {folder.job} for {manifest.output}: give"
            f" that as --out, or collect it elsewhere with `spanmill collect {folder.job}`"
        )
    return folder.need_manifest(), Diary(folder)


def look(
    request: Request, files: tuple[Path, ...], folder: JobFolder, warn: Warn, *, overwrite: bool
) -> Scan:
    """Check all that `begin` checks, and write nothing.

    Raises:
        UsageError: the job could not begin.
        JobError: the id is another job's, or the bundle or an input has changed.
    """
    manifest = None if overwrite else folder.read_manifest()
    if manifest is None:
        check_free(request.output, overwrite=overwrite)
    else:
        check_same(manifest, request)
        check_inputs(manifest)
    found = scan(open_source(files, request.columns), request.batch_rows)
    warn_of(found, warn)
    return found


def forget(root: Path, job: str) -> None:
    """Delete a held job and the retries of its errors, which would lay old answers over."""
    for child in list_children(root, job):
        with hold(root, child):
            forget(root, child)
    remove_job(root, job)


def list_children(root: Path, job: str) -> list[str]:
    """Return the jobs that retry this one's errors."""
    store = LocalStore(root)
    found = []
    for other in list_jobs(store):
        try:
            manifest = JobFolder(store, other).read_manifest()
        except JobError:  # damaged, or a newer version's: none of ours
            continue
        if manifest is not None and manifest.parent == job:
            found.append(other)
    return found


def put_bundle(root: Path, bundle: Bundle) -> None:
    """Copy the bundle to where the processes find it, and mend a copy that was damaged."""
    store = LocalStore(root)
    publish_bundle(store, bundle)
    home = f"bundles/{bundle.digest}"
    try:
        load_bundle(root / home)
    except BundleError:
        for name in [*bundle.manifest.files, MANIFEST]:
            store.put_file(f"{home}/{name}", bundle.folder / name)


def warn_of(found: Scan, warn: Warn) -> None:
    """Say what is odd about the input."""
    if found.null_ids:
        warn(f"{found.null_ids} rows have no id: the row number stands in for it")
    if found.repeated_ids:
        warn(f"{found.repeated_ids} rows repeat an id: the row number tells them apart")
    if not found.rows:
        warn("the input has no rows")


def _validate(
    request: Request,
    source: Source,
    found: Scan | None,
    folder: JobFolder,
    root: Path,
    warn: Warn,
) -> JobManifest:
    try:
        folder.put_event(State.VALIDATING, request.provider_note)
        if found is None:
            found = scan(source, request.batch_rows)
        warn_of(found, warn)
        put_bundle(root, request.bundle)
        folder.put_manifest(make_manifest(request, source, found))
    except BaseException:  # an interrupt too: nothing was done, so nothing is left behind
        remove_job(root, folder.job)
        raise
    return folder.need_manifest()
