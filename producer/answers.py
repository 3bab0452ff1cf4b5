"""The answers file: its footer, its parts, and putting it in place in one step."""

import contextlib
import fcntl
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from producer.place import ObjectPath, Place, make_place, to_source
from producer.upload import list_output, upload
from worker.contracts.errors import UsageError
from worker.contracts.shard import write_rows
from worker.contracts.store import sync_folder
from worker.contracts.url import is_url
from worker.contracts.verdict import Calibration, to_plain

PART_ROWS = 1_000_000
FIRST_PART = "part-00000.parquet"
GROUP_ROWS = 65_536
GROUP_BYTES = 32 * 1024 * 1024
VERSION = 1
_META = b"spanmill"
_SCRATCH = ".spanmill-"


@dataclass(frozen=True, slots=True)
class AnswersMeta:
    """What the footer of an answers file says: enough to judge its rows again."""

    version: int
    job: str
    bundle: str
    bundle_name: str
    null_threshold: float | None
    calibration: Calibration
    versions: dict[str, str]


def read_answers_meta(path: Place) -> AnswersMeta | None:
    """Return what an answers file's footer says, or None when it is no answers file."""
    try:
        metadata = pq.read_schema(to_source(path)).metadata
        raw = None if metadata is None else metadata.get(_META)
        return None if raw is None else msgspec.json.decode(raw, type=AnswersMeta)
    except (pa.ArrowException, OSError, msgspec.DecodeError, RecursionError):
        return None


def list_parts(answers: str) -> list[Place]:
    """Return the files of an answers file or folder, in their order.

    Raises:
        UsageError: there is none.
    """
    path = make_place(answers)
    if isinstance(path, ObjectPath):
        found = [one for one in list_output(answers) if not answers.endswith("/") or _is_part(one)]
        if not found:
            raise UsageError(f"the answers {answers} do not exist: check the URL")
        return sorted(found, key=str)
    parts: list[Place] = [*sorted(path.glob("part-*.parquet"))] if path.is_dir() else [path]
    if path.is_dir() and not parts:
        raise UsageError(f"the folder {path} holds no parts of answers: check the path")
    if not parts[0].is_file():
        raise UsageError(f"the answers {path} do not exist: check the path")
    return parts


def find_owner(output: str) -> str | None:
    """Return the job whose answers lie there; None for nothing, and for what is no answers."""
    try:
        meta = read_answers_meta(list_parts(output)[0])
    except UsageError:
        return None
    return None if meta is None else meta.job


def find_change(output: str) -> float | None:
    """Return when an output came or changed, in seconds since the epoch; None for nothing."""
    if is_url(output):
        stats = [one.look() for one in list_output(output)]
        return max((stat.changed_at for stat in stats if stat is not None), default=None)
    path = Path(output.rstrip("/"))
    return path.stat().st_ctime if path.exists() else None


def encode_meta(meta: AnswersMeta) -> dict[bytes, bytes]:
    """Return the footer's metadata."""
    plain = msgspec.to_builtins(meta) | {"calibration": to_plain(meta.calibration)}
    return {_META: msgspec.json.encode(plain)}


class AnswerWriter:
    """Writes tables as one or more Parquet files, in row groups of bounded size."""

    def __init__(self, folder: Path, schema: pa.Schema, part_rows: float) -> None:
        """Take the folder to make; ``part_rows`` may be infinite for a single file."""
        self._folder = folder
        self._schema = schema
        self._room = part_rows
        self._waiting: list[pa.Table] = []
        self._waiting_rows = self._waiting_bytes = self._part_rows = self._parts = 0
        self._writer: Any = None

    def __enter__(self) -> "AnswerWriter":
        self._folder.mkdir()
        self._next_part()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._flush()
            self._writer.close()
            return
        with contextlib.suppress(OSError, pa.ArrowException):  # the file is thrown away
            self._writer.close()

    def write(self, table: pa.Table) -> None:
        """Append rows; they reach the disk a row group at a time."""
        while table.num_rows:
            room = min(self._room - self._part_rows - self._waiting_rows, table.num_rows)
            if room <= 0:
                self._flush()
                self._next_part()
                continue
            part, table = table.slice(0, int(room)), table.slice(int(room))
            self._waiting.append(part)
            self._waiting_rows += part.num_rows
            self._waiting_bytes += part.nbytes
            if self._waiting_rows >= GROUP_ROWS or self._waiting_bytes >= GROUP_BYTES:
                self._flush()

    def _next_part(self) -> None:
        if self._writer is not None:
            self._writer.close()
        path = self._folder / f"part-{self._parts:05d}.parquet"
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._parts += 1
        self._part_rows = 0

    def _flush(self) -> None:
        if self._waiting_rows:
            table = pa.concat_tables(self._waiting)
            write_rows(self._writer, table.replace_schema_metadata(self._schema.metadata))
        self._part_rows += self._waiting_rows
        self._waiting, self._waiting_rows, self._waiting_bytes = [], 0, 0


@contextlib.contextmanager
def scratch_folder(output: str, owner: str) -> Iterator[Path]:
    """Make a folder beside the output, and remove it at the end.

    For an output in an object store, in the folder for temporary files (TMPDIR).

    Those of the same owner that a killed process left behind go, too: death let go of their locks.
    """
    beside = Path(output.rstrip("/")).absolute().parent
    if is_url(output):
        beside = Path(tempfile.gettempdir())
    beside.mkdir(parents=True, exist_ok=True)
    for left in beside.glob(f"{_SCRATCH}{owner}-*"):
        with contextlib.suppress(OSError), _locked(left):
            shutil.rmtree(left, ignore_errors=True)
    scratch = beside / f"{_SCRATCH}{owner}-{uuid.uuid4().hex}"
    scratch.mkdir()
    try:
        with _locked(scratch):
            yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def check_free(output: str, *, overwrite: bool) -> None:
    """Refuse an output that exists.

    Raises:
        UsageError: it does, and must not be replaced or holds more than answers.
    """
    if is_url(output):
        _check_free_objects(output, overwrite=overwrite)
        return
    path = Path(output)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not overwrite:
        raise UsageError(f"the output {output} exists: choose another --out, or give --overwrite")
    if path.is_dir() and not all(_is_part(one) for one in path.iterdir()):
        raise UsageError(f"{output} holds more than parts of answers: choose another --out")


def _check_free_objects(output: str, *, overwrite: bool) -> None:
    found = list_output(output)
    if found and not overwrite:
        raise UsageError(f"the output {output} exists: choose another --out, or give --overwrite")
    if output.endswith("/") and not all(_is_part(one) for one in found):
        raise UsageError(f"{output} holds more than parts of answers: choose another --out")


def put_in_place(made: Path, output: str) -> None:
    """Move a folder of parts, or its only part, to where the user wants it."""
    if is_url(output):
        upload(made, output)
        return
    final = Path(output.rstrip("/")).absolute()
    for part in made.iterdir():
        with part.open("rb") as stream:
            os.fsync(stream.fileno())
    sync_folder(made)
    if not output.endswith("/"):
        next(made.iterdir()).replace(final)
    else:
        if final.is_dir() and all(_is_part(one) for one in final.iterdir()):
            shutil.rmtree(final)
        made.rename(final)
    sync_folder(final.parent)


def _is_part(path: Place) -> bool:
    return path.name.startswith("part-") and path.suffix == ".parquet"
