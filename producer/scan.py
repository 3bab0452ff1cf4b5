"""One pass over the inputs before a job begins: rows, batches, digests, and what is odd."""

import hashlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from producer.place import ObjectPath, Place
from producer.source import Source, count_bytes, stream_file
from worker.contracts.errors import InputError
from worker.contracts.job import (
    BATCHES_AT_LEAST,
    LARGEST_BATCH_ROWS,
    Cut,
    InputFile,
    choose_cut,
    cut_batches,
)

#: Ids are looked at for repeats in so many rows at the most, to bound memory.
CHECKED_IDS = 1_000_000


@dataclass(frozen=True, slots=True)
class Scan:
    """What one pass over the inputs found. The last two count rows that deserve a warning."""

    files: tuple[InputFile, ...]
    rows: int
    cut: Cut
    batches: int
    null_ids: int
    repeated_ids: int


def scan(source: Source, batch_rows: int | None) -> Scan:
    """Read all rows once: count them and their batches, and take the files' digests.

    Raises:
        InputError: a file is damaged anywhere.
    """
    files: list[InputFile] = []
    ids = _IdCheck(named=source.columns.id is not None)

    def sizes() -> Iterator[int]:
        row = 0
        for path in source.files:
            first = row
            for chunk in stream_file(source, path, row):
                row += chunk.num_rows
                ids.look(chunk)
                yield from count_bytes(chunk)
            files.append(prove_input(path, row - first))

    cut, batches = _count_batches(sizes(), batch_rows)
    rows = sum(file.rows for file in files)
    return Scan(tuple(files), rows, cut, batches, ids.null, ids.count_repeated())


def prove_input(path: Place, rows: int) -> InputFile:
    """Return what a file is now; of an object what its store says, and not its bytes.

    Raises:
        InputError: it cannot be read.
    """
    try:
        if isinstance(path, ObjectPath):
            stat = path.need()
            return InputFile(str(path), stat.size_bytes, None, rows, stat.version)
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return InputFile(str(path), path.stat().st_size, digest, rows)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): check the file") from error


def _count_batches(sizes: Iterator[int], batch_rows: int | None) -> tuple[Cut, int]:
    """Return the cut and the number of batches; the cut follows from the first rows' number."""
    first = []
    for size in sizes:
        first.append(size)
        if len(first) == BATCHES_AT_LEAST * LARGEST_BATCH_ROWS:
            break
    cut = choose_cut(len(first), batch_rows)

    def again() -> Iterator[int]:
        yield from first
        yield from sizes

    return cut, sum(1 for _ in cut_batches(again(), cut))


class _IdCheck:
    """Counts null and repeated ids, in bounded memory."""

    def __init__(self, *, named: bool) -> None:
        self.null = 0
        self._named = named
        self._hashes = array("q")  # a set of them would take ten times the memory

    def look(self, chunk: pa.Table) -> None:
        if not self._named:
            return
        self.null += chunk.num_rows - chunk.column("warning").null_count
        room = CHECKED_IDS - len(self._hashes)
        self._hashes.extend(map(hash, chunk.column("id").slice(0, room).to_pylist()))

    def count_repeated(self) -> int:
        return len(self._hashes) - len(np.unique(np.asarray(self._hashes)))
