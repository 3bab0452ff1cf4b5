"""From a request to a job that can run: a new one, or that which the same command began before."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime

from producer.answers import check_free, find_change, find_owner
from producer.diary import Diary
from producer.lock import hold
from producer.overlap import reads_jobs
from producer.place import Place
from producer.plan import (
    Request,
    check_inputs,
    check_not_input,
    check_place,
    check_same,
    check_writable,
    make_manifest,
    name_job,
    publish_bundle,
    remove_job,
)
from producer.retry import name_retry
from producer.run import is_answered
from producer.scan import Scan, scan
from producer.source import Source, open_source
from worker.contracts.bundle import MANIFEST, Bundle
from worker.contracts.errors import JobError, UsageError, WorldError
from worker.contracts.folder import JobFolder
from worker.contracts.job import BUNDLES, DONE, JobManifest, State
from worker.contracts.object_store import ObjectStore
from worker.contracts.store import LocalStore, Store
from worker.contracts.url import find_parent

Warn = Callable[[str], None]


def check_root(store: Store, request: Request) -> None:
    """Refuse a jobs' folder whose shards would be read as input the next time.

    Raises:
        UsageError: it lies in an input's folder, or under an input's glob.
    """
    if reads_jobs(request.inputs, store.name, name_job(request)):
        raise UsageError(
            f"the jobs' folder {store.name} lies in the input: choose another --jobs-root"
        )


def prove_root(store: Store) -> None:
    """Refuse a jobs' folder in which no job can live.

    Raises:
        UsageError: it cannot be written to, or lets a name be written twice.
    """
    if isinstance(store, LocalStore):
        check_writable(store.name, "the jobs' folder", "--jobs-root")
    if isinstance(store, ObjectStore):
        try:
            store.prove()
        except WorldError as error:
            raise UsageError(str(error)) from error


def begin(
    request: Request,
    files: tuple[Place, ...],
    folder: JobFolder,
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
        if not done and find_owner(request.output) != folder.job:
            check_free(request.output, overwrite=False)  # it has come since the job began
        put_bundle(folder.store, request.bundle)
        return replace(manifest, max_error_ratio=request.max_error_ratio), Diary(folder)
    check_free(request.output, overwrite=overwrite)
    source = open_source(files, request.columns)
    found = None
    if folder.read_state() is not None:  # it is given up only for what can take its place
        found = scan(source, request.batch_rows)
        put_bundle(folder.store, request.bundle)
    forget(folder.store, folder.job)
    diary = Diary(folder)
    return _validate(request, source, found, folder, warn), diary


def check_untouched(folder: JobFolder, manifest: JobManifest) -> None:
    """Refuse to replace an output that has come since an unfinished job began.

    One that was there before is to be replaced: the job's command said so.

    Raises:
        UsageError: it has.
    """
    changed_at = find_change(manifest.output)
    if folder.read_state() in DONE or changed_at is None:
        return
    began = datetime.fromisoformat(manifest.created_at).timestamp()
    owner = find_owner(manifest.output)
    ours = owner is not None and owner in (folder.job, manifest.parent)
    if changed_at > began and not ours:
        raise UsageError(
            f"the output {manifest.output} has come or changed since the job {folder.job} began:"
            " move it away"
        )


def begin_retry(
    made: JobManifest, folder: JobFolder, parent: JobManifest
) -> tuple[JobManifest, Diary]:
    """Return the manifest of a job of error rows: the one that is there, or the one just made.

    Raises:
        UsageError: the output exists, is no place for one, or the retry went to another one.
    """
    manifest = folder.read_manifest()
    if manifest is None:
        check_place(made.output)
        check_not_input(made.output, parent)
        mine = made.output == parent.output
        if not mine or find_owner(made.output) != parent.job:
            check_free(made.output, overwrite=False)
        check_writable(find_parent(made.output), "the output's folder", "--out")
        folder.put_event(State.VALIDATING)
        folder.put_manifest(made)
    elif manifest.output != made.output:
        raise UsageError(
            f"the errors of {parent.job} are retried by {folder.job} for {manifest.output}: give"
            f" that as --out, or collect it elsewhere with `spanmill collect {folder.job}`"
        )
    return folder.need_manifest(), Diary(folder)


def look(
    request: Request, files: tuple[Place, ...], folder: JobFolder, warn: Warn, *, overwrite: bool
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


def forget(store: Store, job: str) -> None:
    """Delete a held job and the retry of its errors, which would lay old answers over."""
    child = find_child(store, job)
    if child is not None:
        with hold(store, child):
            forget(store, child)
    remove_job(store, job)


def find_child(store: Store, job: str) -> str | None:
    """Return the job that retries this one's errors: there is one name for it."""
    name = name_retry(job)
    try:
        manifest = JobFolder(store, name).read_manifest()
    except JobError:  # damaged, or a newer version's: none of ours
        return None
    return name if manifest is not None and manifest.parent == job else None


def put_bundle(store: Store, bundle: Bundle) -> None:
    """Copy the bundle to where the processes find it, and mend a copy that was damaged."""
    publish_bundle(store, bundle)
    proofs = {name: proof.sha256 for name, proof in bundle.manifest.files.items()}
    for name, sha256 in {**proofs, MANIFEST: bundle.digest}.items():
        key = f"{BUNDLES}/{bundle.digest}/{name}"
        if _digest(store, key) != sha256:
            store.put_file(key, bundle.folder / name)


def _digest(store: Store, key: str) -> str | None:
    copy = store.open(key)
    if copy is None:
        return None
    with copy:
        return hashlib.file_digest(copy, "sha256").hexdigest()


def warn_of(found: Scan, warn: Warn) -> None:
    """Say what is odd about the input."""
    if found.null_ids:
        warn(f"{found.null_ids} rows have no id: the row number stands in for it")
    if found.repeated_ids:
        warn(f"{found.repeated_ids} rows repeat an id: the row number tells them apart")
    if not found.rows:
        warn("the input has no rows")


def _validate(
    request: Request, source: Source, found: Scan | None, folder: JobFolder, warn: Warn
) -> JobManifest:
    try:
        folder.put_event(State.VALIDATING, request.provider_note)
        if found is None:
            found = scan(source, request.batch_rows)
        warn_of(found, warn)
        put_bundle(folder.store, request.bundle)
        folder.put_manifest(make_manifest(request, source, found))
    except BaseException:  # an interrupt too: nothing was done, so nothing is left behind
        remove_job(folder.store, folder.job)
        raise
    return folder.need_manifest()
