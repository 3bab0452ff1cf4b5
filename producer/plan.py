"""From what the user asked to a job's manifest: look at everything before any work is done."""

import hashlib
import tempfile
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from producer.overlap import reads_output
from producer.place import ObjectPath, Place, absolute, make_place, resolve
from producer.raw import is_utf8
from producer.scan import Scan, prove_input
from producer.source import Source, find_files, open_source
from producer.upload import check_object, prove_writable
from worker.contracts.bundle import MANIFEST, Bundle
from worker.contracts.errors import JobError, UsageError
from worker.contracts.job import (
    BUNDLES,
    VERSION,
    Columns,
    JobManifest,
    check_job_id,
    choose_cut,
)
from worker.contracts.object_file import Wait, give_up
from worker.contracts.options import ForwardPolicy, ReadingOptions
from worker.contracts.shard import encode_schema
from worker.contracts.store import Store
from worker.contracts.url import find_parent, is_url


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for, as given, defaults filled in.

    ``output`` ends in a slash for a folder of parts. ``any_provider`` says that nobody named the
    provider, ``provider_note`` which better ones failed.
    """

    inputs: tuple[str, ...]
    output: str
    columns: Columns
    reading: ReadingOptions
    bundle: Bundle
    provider: str
    batch_rows: int | None = None
    max_error_ratio: float | None = None
    job: str | None = None
    versions: dict[str, str] | None = None
    any_provider: bool = False
    provider_note: str | None = None


def name_job(request: Request) -> str:
    """Return the job's id: the one given, or one that follows from the command.

    The inputs' content is left out, so that a changed input is noticed instead of being a new job.
    """
    if request.job is not None:
        return check_job_id(request.job)
    inputs = tuple(absolute(one).rstrip("/") for one in request.inputs)  # of globs too
    what = (
        inputs,
        absolute(request.output),
        request.columns,
        request.reading,
        request.bundle.manifest.name,
        request.batch_rows,
    )
    digest = hashlib.sha256(msgspec.json.encode(what)).hexdigest()
    stem = "".join(
        char if char.isascii() and char.isalnum() else "-" for char in Path(request.output).stem
    )
    stem = stem.lower().strip("-")[:40]
    return f"{stem if stem else 'job'}-{digest[:10]}"


def check_output(request: Request, files: tuple[Place, ...]) -> None:
    """Refuse an output that cannot be written or that an input takes.

    Raises:
        UsageError: it is an input, lies in an input's folder or under an input's glob, or its
            folder is not writable.
    """
    check_place(request.output)
    output = resolve(request.output)  # by a link too, an input must not be overwritten
    if output in {resolve(str(one)) for one in files} or reads_output(
        request.inputs, request.output
    ):
        raise UsageError(f"the output {output} lies in the input: write it somewhere else")
    check_writable(find_parent(output), "the output's folder", "--out")


def check_place(output: str) -> None:
    """Refuse an output that is no file, or no folder, as its name says.

    Raises:
        UsageError: it is a folder and does not end in a slash, or the reverse.
    """
    path = make_place(output)
    if not is_utf8(output):
        raise UsageError(f"the name of the output {output} is not UTF-8: choose another --out")
    if isinstance(path, ObjectPath):
        check_object(path.url, is_folder=output.endswith("/"))
        return
    if path.is_dir() and not output.endswith("/"):
        raise UsageError(f"the output {output} is a folder: end it in / for a folder of parts")
    if path.is_file() and output.endswith("/"):
        raise UsageError(f"the output {output} is a file: leave out the / at its end")


def check_not_input(output: str, manifest: JobManifest) -> None:
    """Refuse an output that is an input of a job, by a link too.

    Raises:
        UsageError: it is.
    """
    if resolve(output) in {resolve(file.path) for file in manifest.inputs}:
        raise UsageError(f"the output {output} is an input of the job: choose another --out")


def check_writable(name: str, what: str, option: str) -> None:
    """Write a file there, or where the folder would be made, and remove it again.

    Raises:
        UsageError: that failed.
    """
    if is_url(name):
        prove_writable(name)
        return
    folder = Path(name)
    there = next((one for one in (folder, *folder.parents) if one.exists()), folder)
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UsageError(
            f"{what} {folder} cannot be written to ({error.strerror}): choose another {option}"
        ) from error


def check_inputs(manifest: JobManifest, wait: Wait = give_up) -> None:
    """Check that a job's inputs are what they were; ``wait`` hears of a store that fails.

    Raises:
        JobError: one of them is gone or has changed.
    """
    for file in manifest.inputs:
        path = make_place(file.path, wait)
        if not path.is_file():
            raise JobError(
                f"{path} is gone since the job {manifest.job} began: put it back, or begin anew"
                " with --overwrite"
            )
        if prove_input(path, file.rows) != file:
            raise JobError(
                f"{path} has changed since the job {manifest.job} began: put the old file back, or"
                " begin anew with --overwrite or another --job-id"
            )


def make_manifest(request: Request, source: Source, found: Scan) -> JobManifest:
    """Write down everything that the job's answers depend on."""
    return JobManifest(
        version=VERSION,
        job=name_job(request),
        created_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        inputs=found.files,
        columns=request.columns,
        kept_schema=encode_schema(source.kept_schema),
        rows=found.rows,
        batches=found.batches,
        cut=found.cut,
        bundle=request.bundle.digest,
        bundle_name=request.bundle.manifest.name,
        reading=request.reading,
        forward=choose_forward(request.provider),
        provider=request.provider,
        output=absolute(request.output),
        max_error_ratio=request.max_error_ratio,
        versions={} if request.versions is None else request.versions,
    )


def check_same(manifest: JobManifest, request: Request) -> None:
    """Check that a job that exists is the one asked for.

    Whatever was given is held to, but for ``max_error_ratio``, which no answer depends on: the
    caller takes the one that was given last. What was left to choose stays as it was chosen.

    Raises:
        JobError: it has another command, or its bundle has changed.
    """
    asked = replace(
        manifest,
        columns=request.columns,
        reading=request.reading,
        bundle=request.bundle.digest,
        output=absolute(request.output),
    )
    if asked.bundle != manifest.bundle:
        raise JobError(
            f"the job {manifest.job} began with another bundle ({manifest.bundle[:12]}): give that"
            " one, or begin anew with --overwrite or another --job-id"
        )
    cut = None if request.batch_rows is None else choose_cut(manifest.rows, request.batch_rows)
    if cut not in (None, manifest.cut):
        raise JobError(
            f"the job {manifest.job} began with --batch-rows {manifest.cut.max_rows}: give that,"
            " or begin anew with --overwrite or another --job-id"
        )
    if not request.any_provider and request.provider != manifest.provider:
        raise JobError(
            f"the job {manifest.job} began with --provider {manifest.provider}: give that, or"
            " begin anew with --overwrite or another --job-id"
        )
    if asked != manifest:
        raise JobError(
            f"{manifest.job!r} is the id of another job (other columns, output or options):"
            " choose another --job-id"
        )
    files = [str(path) for path in find_files(request.inputs)]
    if files != [file.path for file in manifest.inputs]:
        raise JobError(
            f"{manifest.job!r} is the id of another job, or files have come to its inputs or gone"
            " since it began: put them back, or begin anew with --overwrite or another --job-id"
        )


def reopen(manifest: JobManifest, wait: Wait = give_up) -> Source:
    """Return the source of a job that began before, its inputs unchanged.

    ``wait`` is what happens whenever a store of inputs fails.

    Raises:
        JobError: an input is gone or has changed.
    """
    check_inputs(manifest, wait)
    return open_source([make_place(file.path, wait) for file in manifest.inputs], manifest.columns)


def publish_bundle(store: Store, bundle: Bundle) -> None:
    """Copy the bundle to where the job's workers find it by its digest, its manifest last."""
    for name in [*bundle.manifest.files, MANIFEST]:
        key = f"{BUNDLES}/{bundle.digest}/{name}"
        if not store.exists(key):
            store.put_new(key, (bundle.folder / name).read_bytes())


def choose_forward(provider: str) -> ForwardPolicy:
    """Return how many windows share a model run: one on CPUs, many elsewhere."""
    return ForwardPolicy() if provider == "cpu" else ForwardPolicy(max_windows=64)


def remove_job(store: Store, job: str) -> None:
    """Delete a job's folder but for its lock: whoever calls holds it."""
    for name in store.names(job):
        if name != "lock":
            store.remove(f"{job}/{name}")
