"""Stream examples out of files: Parquet, SQuAD JSON and JSON lines, in bounded memory.

Whatever the format, rows come as Arrow tables of ``EXAMPLE_SCHEMA`` with the kept columns behind.
"""

import glob
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from producer import json_source, parquet_source
from producer.place import Place, list_objects
from producer.raw import RawChunk, is_utf8
from producer.sizes import measure_rows
from producer.tables import compact, pick_rows
from producer.walk import walk
from worker.contracts.errors import InputError
from worker.contracts.job import TEXT_ALONE_VERSION, Columns, Cut, cut_batches
from worker.contracts.shard import ANSWER_SCHEMA, EXAMPLE_SCHEMA
from worker.contracts.url import is_url, to_path

PARQUET_ENDINGS = (".parquet", ".pq")

#: Gives the bytes of each row of a chunk, as they count towards a batch's bound.
Measure = Callable[[pa.Table], list[int]]


@dataclass(frozen=True, slots=True)
class Source:
    """Files in their order, the columns to read, and the schema of the kept ones."""

    files: tuple[Place, ...]
    columns: Columns
    kept_schema: pa.Schema


def find_files(inputs: Sequence[str]) -> tuple[Place, ...]:
    """Return the files behind paths, URLs, folders and globs, each folder's in the order of names.

    Raises:
        InputError: something names no file, or a file of no known format.
    """
    files = [path for one in inputs for path in _expand(one)]
    for path in files:
        if isinstance(path, Path) and not path.is_file():
            raise InputError(f"{path} is no regular file: write its rows to one")
        if not is_utf8(str(path)):
            raise InputError(f"the name of {path} is not UTF-8: rename it")
        if _format(path) is None:
            known = (
                f"{', '.join(PARQUET_ENDINGS)}, or {', '.join(json_source.ENDINGS)} (or .gz of it)"
            )
            raise InputError(f"{path} has no known ending: name it {known}")
    return tuple(files)


def open_source(files: Sequence[Place], columns: Columns) -> Source:
    """Check that all files have the columns, and agree on the kept ones.

    Raises:
        InputError: a file cannot be read, lacks a column, or has one of another type.
    """
    clashes = sorted({*ANSWER_SCHEMA.names, "attempts"} & set(columns.keep))
    if clashes:
        raise InputError(
            f"--keep {clashes[0]} has the name of an output column: rename it in the input"
        )
    schemas = [_reader(path).check(path, columns) for path in files]
    kept = schemas[0]
    for path, schema in zip(files[1:], schemas[1:], strict=True):
        kept = pa.schema([
            _agree(*pair, files[0], path) for pair in zip(kept, schema, strict=True)
        ])  # fmt: skip
    return Source(tuple(files), columns, kept)


def choose_id_column(files: Sequence[Place], column: str) -> str | None:
    """Return the id column that nobody named, or None when no file has it.

    Raises:
        InputError: a file cannot be read.
    """
    named = any(column in _reader(path).list_columns(path) for path in files)
    return column if named else None


def stream_file(source: Source, path: Place, first_row: int) -> Iterator[pa.Table]:
    """Yield one file's rows as chunks of examples; the first has the number ``first_row``.

    Raises:
        InputError: the file is damaged.
    """
    row = first_row
    for raw in _reader(path).stream(path, source.columns):
        chunk = _to_examples(raw, row, source.kept_schema)
        row += chunk.num_rows
        yield chunk


def stream_rows(source: Source) -> Iterator[pa.Table]:
    """Yield the rows of all files, numbered through."""
    row = 0
    for path in source.files:
        for chunk in stream_file(source, path, row):
            row += chunk.num_rows
            yield chunk


def select_rows(chunks: Iterator[pa.Table], chosen: NDArray[np.int64]) -> Iterator[pa.Table]:
    """Yield only the chosen rows of a stream. Shape of ``chosen``: ``(rows,)``, sorted."""
    for chunk in chunks:
        rows = chunk.column("row").to_numpy()
        low, high = np.searchsorted(chosen, (rows[0], rows[-1] + 1)) if len(rows) else (0, 0)
        if low < high:
            yield pick_rows(chunk, np.searchsorted(rows, chosen[low:high]))


def choose_measure(version: int) -> Measure:
    """Return what counts towards a batch's bytes in a job whose manifest has this version."""
    return count_text_bytes if version <= TEXT_ALONE_VERSION else count_bytes


def count_bytes(chunk: pa.Table) -> list[int]:
    """Return the bytes of each row, kept columns and all: a payload holds these, too."""
    sizes = np.array(count_text_bytes(chunk), np.int64)
    for column in chunk.columns[len(EXAMPLE_SCHEMA) :]:
        sizes += measure_rows(column)
    counted: list[int] = sizes.tolist()
    return counted


def count_text_bytes(chunk: pa.Table) -> list[int]:
    """Return the bytes of question and context of each row."""
    question, context = (EXAMPLE_SCHEMA.get_field_index(name) for name in ("question", "context"))
    total = pc.add(
        pc.binary_length(chunk.column(question)), pc.binary_length(chunk.column(context))
    )
    sizes: list[int] = total.to_pylist()
    return sizes


def stream_batches(
    chunks: Iterator[pa.Table], cut: Cut, measure: Measure = count_bytes
) -> Iterator[pa.Table]:
    """Yield chunks again, cut into batches."""
    waiting: list[pa.Table] = []

    def sizes() -> Iterator[int]:
        for chunk in chunks:
            waiting.append(chunk)
            yield from measure(chunk)

    for rows in cut_batches(sizes(), cut):
        yield compact(_take(waiting, rows))


def _take(waiting: list[pa.Table], rows: int) -> pa.Table:
    """Take rows from the front of what waits."""
    parts = []
    missing = rows
    while missing:
        part = waiting[0].slice(0, missing)
        rest = waiting.pop(0).slice(missing)
        if rest.num_rows:
            waiting.insert(0, rest)
        parts.append(part)
        missing -= part.num_rows
    return pa.concat_tables(parts)


def _expand(given: str) -> list[Place]:
    name = to_path(given)
    if is_url(name):
        return _expand_url(name)
    try:
        found = _list_files(Path(name))
    except OSError as error:
        raise InputError(
            f"the input {name} cannot be looked at ({error.strerror}): check the path"
        ) from error
    if not found:
        what = "holds no Parquet or JSON file" if Path(name).is_dir() else "does not exist"
        raise InputError(f"the input {name} {what}: check the path")
    return [one.absolute() for one in found]


def _expand_url(name: str) -> list[Place]:
    is_folder = name.endswith("/")
    found = list_objects(name)
    chosen: list[Place] = [one for one in found if not is_folder or _format(one) is not None]
    if not chosen:
        what = "holds no Parquet or JSON file" if is_folder else "does not exist"
        raise InputError(f"the input {name} {what}: check the URL, and end a folder's in /")
    return chosen


def _list_files(path: Path) -> list[Path]:
    if path.is_dir():
        files = (one for _, files in walk(path) for one in files)
        return sorted(one for one in files if _format(one) is not None)
    if path.exists():
        return [path]
    found = [Path(one) for one in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207
    return [one for one in found if one.is_file()]


def _format(path: Place) -> ModuleType | None:
    if json_source.is_json(path):
        return json_source
    return parquet_source if path.suffix.lower() in PARQUET_ENDINGS else None


def _reader(path: Place) -> ModuleType:
    reader = _format(path)
    if reader is None:
        raise InputError(f"{path} has no known ending: name it .parquet, .json or .jsonl")
    return reader


def _agree(one: pa.Field, other: pa.Field, first: Place, path: Place) -> pa.Field:
    """Return what a kept column is in both of two files: it may be null if it may in one."""
    if one.type != other.type:
        raise InputError(
            f"the column {one.name!r} of {path} is {other.type}, but {one.type} in {first}:"
            " answer the files apart, or give it one type"
        )
    return one.with_nullable(one.nullable or other.nullable)


def _to_examples(raw: RawChunk, first_row: int, kept_schema: pa.Schema) -> pa.Table:
    rows = pa.array(range(first_row, first_row + len(raw.questions)), pa.int64())
    numbers = rows.cast(pa.string())
    ids = numbers if raw.ids is None else pc.coalesce(raw.ids, numbers)
    faults = raw.faults
    for name, column in (("question", raw.questions), ("context", raw.contexts)):
        null = pc.and_(pc.is_null(faults), pc.is_null(column))
        faults = pc.if_else(null, f"the {name} is null: give it a text", faults)
    bad, empty = pc.is_valid(faults), pa.scalar("", pa.large_string())
    questions, contexts = (pc.if_else(bad, empty, one) for one in (raw.questions, raw.contexts))
    warnings = pa.nulls(len(rows), pa.string())
    if raw.ids is not None:
        no_id = "the id is null or damaged: the row number stands in for it"
        warnings = pc.if_else(pc.is_null(raw.ids), no_id, warnings)
    table = pa.Table.from_arrays(
        [rows, ids, questions, contexts, faults, warnings], schema=EXAMPLE_SCHEMA
    )
    for field in kept_schema:
        table = table.append_column(field, raw.kept.column(field.name))
    return table
