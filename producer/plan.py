"""From what the user asked to a job's manifest: look at everything before any work is done."""

import hashlib
import os
import shutil
import tempfile
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from producer.overlap import reads_output
from producer.raw import is_utf8
from producer.scan import Scan, prove_input
from producer.source import Source, find_files, open_source
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
from worker.contracts.options import ForwardPolicy, ReadingOptions
from worker.contracts.shard import encode_schema
from worker.contracts.store import Store


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
    inputs = tuple(os.path.abspath(one) for one in request.inputs)  # noqa: PTH100  of globs too
    what = (
        inputs,
        absolute_output(request.output),
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


def check_output(request: Request, files: tuple[Path, ...]) -> None:
    """Refuse an output that cannot be written or that an input takes.

    Raises:
        UsageError: it is an input, lies in an input's folder or under an input's glob, or its
            folder is not writable.
    """
    check_place(request.output)
    output = Path(request.output).resolve()  # by a link too, an input must not be overwritten
    if output in [path.resolve() for path in files] or reads_output(request.inputs, request.output):
        raise UsageError(f"the output {output} lies in the input: write it somewhere else")
    check_writable(output.parent, "the output's folder", "--out")


def check_place(output: str) -> None:
    """Refuse an output that is no file, or no folder, as its name says.

    Raises:
        UsageError: it is a URL, or a folder and does not end in a slash, or the reverse.
    """
    path = Path(output)
    if not is_utf8(output):
        raise UsageError(f"the name of the output {output} is not UTF-8: choose another --out")
    if "://" in output:
        raise UsageError(f"the output {output} is a URL: write to a disk, then copy it there")
    if path.is_dir() and not output.endswith("/"):
        raise UsageError(f"the output {output} is a folder: end it in / for a folder of parts")
    if path.is_file() and output.endswith("/"):
        raise UsageError(f"the output {output} is a file: leave out the / at its end")


def check_writable(folder: Path, what: str, option: str) -> None:
    """Write a file there, or where the folder would be made, and remove it again.

    Raises:
        UsageError: that failed.
    """
    there = next((one for one in (folder, *folder.parents) if one.exists()), folder)
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise UsageError(
            f"{what} {folder} cannot be written to ({error.strerror}): choose another {option}"
        ) from error


def check_inputs(manifest: JobManifest) -> None:
    """Check that a job's inputs are what they were.

    Raises:
        JobError: one of them is gone or has changed.
    """
    for file in manifest.inputs:
        path = Path(file.path)
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
        output=absolute_output(request.output),
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
        output=absolute_output(request.output),
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


def reopen(manifest: JobManifest) -> Source:
    """Return the source of a job that began before, its inputs unchanged.

    Raises:
        JobError: an input is gone or has changed.
    """
    check_inputs(manifest)
    return open_source([Path(file.path) for file in manifest.inputs], manifest.columns)


def publish_bundle(store: Store, bundle: Bundle) -> None:
    """Copy the bundle to where the job's workers find it by its digest, its manifest last."""
    for name in [*bundle.manifest.files, MANIFEST]:
        key = f"{BUNDLES}/{bundle.digest}/{name}"
        if not store.exists(key):
            store.put_new(key, (bundle.folder / name).read_bytes())


def choose_forward(provider: str) -> ForwardPolicy:
    """Return how many windows share a model run: one on CPUs, many elsewhere."""
    return ForwardPolicy() if provider == "cpu" else ForwardPolicy(max_windows=64)


def absolute_output(output: str) -> str:
    """Return an output's whole path; a slash at its end says that it is a folder, and stays."""
    return os.path.abspath(output) + ("/" if output.endswith("/") else "")  # noqa: PTH100


def remove_job(root: Path, job: str) -> None:
    """Delete a job's folder, its lock last: whoever calls holds it."""
    folder = root / job
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "lock":
            path.unlink()
