"""Stream examples out of files: Parquet, SQuAD JSON and JSON lines, in bounded memory.

Whatever the format, rows come as Arrow tables of ``EXAMPLE_SCHEMA`` with the kept columns behind.
"""

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from producer import json_source, parquet_source
from producer.raw import RawChunk
from worker.contracts.errors import InputError
from worker.contracts.job import Columns, Cut, cut_batches
from worker.contracts.shard import ANSWER_SCHEMA, EXAMPLE_SCHEMA

SUFFIXES = {
    ".parquet": parquet_source,
    ".pq": parquet_source,
    ".json": json_source,
    ".jsonl": json_source,
    ".ndjson": json_source,
}


@dataclass(frozen=True, slots=True)
class Source:
    """Files in their order, the columns to read, and the schema of the kept ones."""

    files: tuple[Path, ...]
    columns: Columns
    kept_schema: pa.Schema


def find_files(inputs: Sequence[str]) -> tuple[Path, ...]:
    """Return the files behind paths, folders and globs, each folder's in the order of names.

    Raises:
        InputError: something names no file, or a file of no known format.
    """
    files = [path for one in inputs for path in _expand(one)]
    for path in files:
        if _format(path) is None:
            known = ", ".join(SUFFIXES)
            raise InputError(f"{path} has no known ending: name it one of {known} (or with .gz)")
    return tuple(files)


def open_source(files: Sequence[Path], columns: Columns) -> Source:
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
    for path, schema in zip(files[1:], schemas[1:], strict=True):
        if not schema.equals(schemas[0]):
            raise InputError(
                f"the kept columns of {path} have other types than those of {files[0]}:"
                " answer the files apart, or give them one type"
            )
    return Source(tuple(files), columns, schemas[0])


def stream_file(source: Source, path: Path, first_row: int) -> Iterator[pa.Table]:
    """Yield one file's rows as chunks of examples; the first has the number ``first_row``.

    Raises:
        InputError: the file is damaged.
    """
    row = first_row
    for raw in _reader(path).stream(path, source.columns):
        chunk = _to_examples(raw, row)
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
        mask = np.isin(chunk.column("row").to_numpy(), chosen, assume_unique=True)
        if mask.any():
            yield chunk.filter(pa.array(mask))


def stream_batches(chunks: Iterator[pa.Table], cut: Cut) -> Iterator[pa.Table]:
    """Yield chunks again, cut into batches."""
    waiting: list[pa.Table] = []

    def count_bytes() -> Iterator[int]:
        for chunk in chunks:
            waiting.append(chunk)
            yield from count_text_bytes(chunk)

    for rows in cut_batches(count_bytes(), cut):
        yield _compact(_take(waiting, rows))


def count_text_bytes(chunk: pa.Table) -> list[int]:
    """Return the bytes of question and context of each row."""
    question, context = (EXAMPLE_SCHEMA.get_field_index(name) for name in ("question", "context"))
    total = pc.add(
        pc.binary_length(chunk.column(question)), pc.binary_length(chunk.column(context))
    )
    sizes: list[int] = total.to_pylist()
    return sizes


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


def _expand(name: str) -> list[Path]:
    path = Path(name)
    if path.is_dir():
        found = sorted(
            inner
            for inner in path.rglob("*")
            if inner.is_file()
            and _format(inner) is not None
            and not any(part[0] in "._" for part in inner.relative_to(path).parts)
        )
    elif path.exists():
        found = [path]
    else:
        found = [Path(one) for one in sorted(glob.glob(name, recursive=True))]  # noqa: PTH207
        found = [one for one in found if one.is_file()]
    if not found:
        what = "holds no Parquet or JSON file" if path.is_dir() else "does not exist"
        raise InputError(f"the input {name} {what}: check the path")
    return [one.absolute() for one in found]


def _format(path: Path) -> ModuleType | None:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        zipped = suffixes[-2:-1]
        return json_source if zipped and SUFFIXES.get(zipped[0]) is json_source else None
    return SUFFIXES.get(suffixes[-1]) if suffixes else None


def _reader(path: Path) -> ModuleType:
    reader = _format(path)
    if reader is None:
        raise InputError(f"{path} has no known ending: name it .parquet, .json or .jsonl")
    return reader


def _to_examples(raw: RawChunk, first_row: int) -> pa.Table:
    rows = pa.array(range(first_row, first_row + len(raw.questions)), pa.int64())
    numbers = rows.cast(pa.string())
    ids = numbers if raw.ids is None else pc.coalesce(raw.ids, numbers)
    faults = raw.faults
    for name, column in (("question", raw.questions), ("context", raw.contexts)):
        null = pc.and_(pc.is_null(faults), pc.is_null(column))
        faults = pc.if_else(null, f"the {name} is null: give it a text", faults)
    questions = pc.fill_null(raw.questions, "")
    contexts = pc.fill_null(raw.contexts, "")
    warnings = pa.nulls(len(rows), pa.string())
    if raw.ids is not None:
        no_id = "the id is null: the row number stands in for it"
        warnings = pc.if_else(pc.is_null(raw.ids), no_id, warnings)
    table = pa.Table.from_arrays(
        [rows, ids, questions, contexts, faults, warnings], schema=EXAMPLE_SCHEMA
    )
    for field in raw.kept.schema:
        table = table.append_column(field, raw.kept.column(field.name))
    return table


def _compact(table: pa.Table) -> pa.Table:
    """Drop dictionary entries that no row of this batch uses: a slice carries them all along."""
    for index, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            plain = table.column(index).cast(field.type.value_type)
            column = plain.combine_chunks().dictionary_encode().cast(field.type)
            table = table.set_column(index, field, column)
    return table
