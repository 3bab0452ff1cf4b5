"""A job: its immutable manifest, its states, and the batches that follow from it."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

from worker.contracts.errors import JobError, UsageError
from worker.contracts.options import ForwardPolicy, ReadingOptions

#: Since 2 kept columns count towards a batch's bytes, and inputs may lie in object stores; a job of
#: 1 goes on by the rule it began with.
VERSION = 2
TEXT_ALONE_VERSION = 1
MANIFEST = "manifest.json"
#: The folder of the jobs' bundles, beside the jobs.
BUNDLES = "bundles"
LONGEST_ID = 64
_JOB_ID = re.compile(rf"[a-z0-9][a-z0-9-]{{0,{LONGEST_ID - 1}}}")

#: Small jobs get smaller batches, so that every core has work and a kill costs little.
BATCHES_AT_LEAST = 64
SMALLEST_BATCH_ROWS = 8
LARGEST_BATCH_ROWS = 256
LARGEST_BATCH_BYTES = 2 * 1024 * 1024


class State(StrEnum):
    """Where a job stands; the last event in its folder says so."""

    VALIDATING = "validating"
    RUNNING = "running"
    PAUSED = "paused"
    COLLECTING = "collecting"
    COMPLETED = "completed"
    COMPLETED_WITH_ERRORS = "completed_with_errors"
    FAILED = "failed"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


#: States of a job whose answers lie at its output.
DONE = frozenset({State.COMPLETED, State.COMPLETED_WITH_ERRORS})


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file of the input, as it was when the job began; ``path`` may be an object's URL.

    Of a file on a disk ``sha256`` is known, of an object its ``version`` in its store.
    """

    path: str
    size_bytes: int
    sha256: str | None
    rows: int
    version: str | None = None


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns to read; without an id column the row number is the id."""

    id: str | None = "id"
    question: str = "question"
    context: str = "context"
    keep: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cut:
    """The bounds of a batch. A single row larger than ``max_bytes`` travels alone."""

    max_rows: int
    max_bytes: int = LARGEST_BATCH_BYTES

    def __post_init__(self) -> None:
        """Refuse a bound that bounds nothing: no batch is empty."""
        if min(self.max_rows, self.max_bytes) < 1:
            raise ValueError("a batch has at least one row and one byte: raise its bounds")


@dataclass(frozen=True, slots=True)
class JobManifest:
    """Everything that a job's answers depend on; written once, never changed.

    ``kept_schema`` is the Arrow schema of the kept columns, as base64 of its IPC message.
    ``bundle`` is a digest. ``parent`` is the job whose error rows this one answers again.
    """

    version: int
    job: str
    created_at: str
    inputs: tuple[InputFile, ...]
    columns: Columns
    kept_schema: str
    rows: int
    batches: int
    cut: Cut
    bundle: str
    bundle_name: str
    reading: ReadingOptions
    forward: ForwardPolicy
    provider: str
    output: str
    max_error_ratio: float | None = None
    parent: str | None = None
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Versioned:
    version: int


def encode_manifest(manifest: JobManifest) -> bytes:
    """Return the manifest as JSON."""
    plain = msgspec.to_builtins(manifest)
    for file in plain["inputs"]:
        if file["version"] is None:
            del file["version"]  # as before there was one: what was read is written the same
    return msgspec.json.format(msgspec.json.encode(plain), indent=1) + b"\n"


def decode_manifest(raw: bytes, where: str) -> JobManifest:
    """Read a manifest back.

    Raises:
        JobError: it is damaged, or written by a newer version.
    """
    try:
        # Alone and first: a newer manifest may lack fields, or have them of other types.
        version = msgspec.json.decode(raw, type=_Versioned).version
        if version > VERSION:
            raise JobError(
                f"{where} has version {version} but this program reads {VERSION}: upgrade spanmill"
            )
        return msgspec.json.decode(raw, type=JobManifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise JobError(
            f"{where} is not a manifest that this version reads ({error}): start a new job"
        ) from error


def check_job_id(job: str) -> str:
    """Return the id if it is one.

    Raises:
        UsageError: it holds other characters, or is too long; it names a folder, and must not be
            that of the bundles.
    """
    if _JOB_ID.fullmatch(job) is None or job == BUNDLES:
        raise UsageError(
            f"{job!r} is no job id: use up to {LONGEST_ID} lower-case letters, digits and inner"
            f" hyphens (and not {BUNDLES!r})"
        )
    return job


def choose_cut(rows: int, batch_rows: int | None) -> Cut:
    """Return the cut for a job of so many rows; ``batch_rows`` overrules the rule."""
    if batch_rows is not None:
        return Cut(batch_rows)
    return Cut(min(max(rows // BATCHES_AT_LEAST, SMALLEST_BATCH_ROWS), LARGEST_BATCH_ROWS))


def cut_batches(sizes: Iterable[int], cut: Cut) -> Iterator[int]:
    """Yield the number of rows of each batch, from the bytes of each row."""
    rows = size = 0
    for row_bytes in sizes:
        if rows and (rows == cut.max_rows or size + row_bytes > cut.max_bytes):
            yield rows
            rows = size = 0
        rows += 1
        size += row_bytes
    if rows:
        yield rows


def shard_key(job: str, batch: int) -> str:
    """Return where a batch's answers lie: folders of a thousand."""
    return f"{job}/shards/{batch // 1000:04d}/{batch:07d}.parquet"
