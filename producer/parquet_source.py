"""Read Parquet files in chunks of bounded bytes, one huge row group too."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from producer.place import Place, to_source
from producer.raw import RawChunk
from worker.contracts.errors import InputError
from worker.contracts.job import Columns

CHUNK_BYTES = 8 * 1024 * 1024
LARGEST_CHUNK_ROWS = 4096
BUFFER_BYTES = 1024 * 1024
#: What the heads of a column's pages may take beside its data.
PAGE_HEADS_BYTES = 4096


@dataclass(frozen=True, slots=True)
class _Read:
    """Neighbouring row groups, the columns to read as dictionaries, and the rows of a chunk."""

    groups: list[int]
    repeated: tuple[str, ...]
    rows: int


def check(path: Place, columns: Columns) -> pa.Schema:
    """Return the schema of the kept columns.

    Raises:
        InputError: the file cannot be read, lacks a column, or has one of a wrong type.
    """
    with _open(path) as file:
        schema = file.schema_arrow
    for name in _wanted(columns):
        if schema.names.count(name) != 1:
            how = "several columns" if name in schema.names else "no column"
            raise InputError(
                f"{path} has {how} {name!r}: its columns are {', '.join(schema.names)}"
            )
    for name in (columns.question, columns.context):
        if not _is_text(schema.field(name).type):
            raise InputError(
                f"the column {name!r} of {path} is {schema.field(name).type}, not string:"
                " name another column or convert it"
            )
    if columns.id is not None and not _is_id(schema.field(columns.id).type):
        raise InputError(
            f"the column {columns.id!r} of {path} is {schema.field(columns.id).type}, which is no"
            " id: use a string or integer column, or --id-column ''"
        )
    return pa.schema([schema.field(name) for name in columns.keep])


def stream(path: Place, columns: Columns) -> Iterator[RawChunk]:
    """Yield the file's rows in their order.

    Raises:
        InputError: the file is damaged.
    """
    with _open(path) as file:
        metadata, schema = file.metadata, file.schema_arrow
    names = _wanted(columns)
    for read in _plan_reads(metadata, schema, names):
        with _open(path, metadata, read.repeated) as file:
            try:
                batches = file.iter_batches(
                    read.rows,
                    read.groups,
                    columns=names,
                    # Waiting for a store must happen in this thread, which hears interrupts.
                    use_threads=isinstance(path, Path),
                )
                for batch in batches:
                    # The name "a.b" reads the part b of a structure a, too.
                    rows = batch.select(names)
                    for part in _cut_decoded(rows, {columns.question, columns.context}, read):
                        yield _to_raw(_restore(part, schema), columns)
            except (pa.ArrowException, OSError) as error:
                raise InputError(
                    f"{path} is damaged ({_first_line(error)}): write the file again"
                ) from error


def list_columns(path: Place) -> list[str]:
    """Return the names of a file's columns.

    Raises:
        InputError: the file cannot be read.
    """
    with _open(path) as file:
        return list(file.schema_arrow.names)


def _wanted(columns: Columns) -> list[str]:
    named = [columns.question, columns.context, *columns.keep]
    return list(dict.fromkeys(named if columns.id is None else [columns.id, *named]))


def _open(path: Place, metadata: Any = None, dictionaries: Sequence[str] = ()) -> Any:
    try:
        return pq.ParquetFile(
            to_source(path),
            metadata=metadata,
            read_dictionary=list(dictionaries),
            # Without a buffer size the reader holds whole column chunks of a row group.
            buffer_size=BUFFER_BYTES,
            pre_buffer=False,
            page_checksum_verification=True,
        )
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{path} cannot be read as Parquet ({_first_line(error)}): check or rewrite the file"
        ) from error


def _plan_reads(metadata: Any, schema: pa.Schema, names: list[str]) -> Iterator[_Read]:
    """Yield the row groups to read in one go, and how, from what the file's footer tells."""
    texts = {field.name for field in schema if _is_plain_text(field.type)} & set(names)
    sized = [
        (number, *_measure_row(metadata.row_group(number), texts, names))
        for number in range(metadata.num_row_groups)
    ]
    for repeated, run in groupby(sized, key=itemgetter(1)):
        groups = list(run)
        rows = int(CHUNK_BYTES / max(row_bytes for _, _, row_bytes in groups))
        yield _Read(
            groups=[number for number, _, _ in groups],
            repeated=repeated,
            rows=max(1, min(LARGEST_CHUNK_ROWS, rows)),
        )


def _measure_row(group: Any, texts: set[str], names: list[str]) -> tuple[tuple[str, ...], float]:
    """Return the columns of texts that repeat in a row group, and the mean bytes of its rows.

    Their data pages are indices into a dictionary and nothing else. They are read as dictionaries:
    one passage of ten thousand questions is small in the file, and decoded fills the memory.
    """
    repeated = []
    size = 1.0
    for column in (group.column(index) for index in range(group.num_columns)):
        path = column.path_in_schema
        if path in texts and _has_only_indices(column, group.num_rows):
            repeated.append(path)
        elif any(path == name or path.startswith(f"{name}.") for name in names):
            size += column.total_uncompressed_size
    return tuple(repeated), size / max(group.num_rows, 1)


def _has_only_indices(column: Any, rows: int) -> bool:
    if not column.has_dictionary_page:
        return False
    dictionary_bytes = column.data_page_offset - column.dictionary_page_offset
    return bool(column.total_compressed_size - dictionary_bytes <= 4 * rows + PAGE_HEADS_BYTES)


def _cut_decoded(batch: pa.RecordBatch, texts: set[str], read: _Read) -> Iterator[pa.Table]:
    """Yield a batch in parts whose dictionaries, once decoded, stay within the chunk's bytes."""
    ends = np.zeros(batch.num_rows, np.int64)
    for name in texts.union(read.repeated):
        column = batch.column(name)
        if pa.types.is_dictionary(column.type):
            lengths = pc.take(pc.binary_length(column.dictionary), column.indices)
            ends += np.cumsum(lengths.fill_null(0).to_numpy(zero_copy_only=False), dtype=np.int64)
    table = pa.Table.from_batches([batch])
    first = 0
    while first < batch.num_rows:
        before = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + CHUNK_BYTES, side="right")))
        yield table.slice(first, last - first)
        first = last


def _restore(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Give columns that were read as dictionaries the types that the file says."""
    for index, name in enumerate(table.column_names):
        field = schema.field(name)
        if table.schema.field(index).type != field.type:
            table = table.set_column(index, field, table.column(index).cast(field.type))
    return table


def _to_raw(table: pa.Table, columns: Columns) -> RawChunk:
    questions, bad_questions = _read_text(table.column(columns.question), pa.large_string())
    contexts, bad_contexts = _read_text(table.column(columns.context), pa.large_string())
    faults = pa.nulls(table.num_rows, pa.string())
    for name, bad in (("context", bad_contexts), ("question", bad_questions)):
        faults = pc.if_else(bad, f"the {name} is not valid UTF-8: encode it again", faults)
    return RawChunk(
        ids=None if columns.id is None else _read_text(table.column(columns.id), pa.string())[0],
        questions=questions,
        contexts=contexts,
        faults=faults,
        kept=table.select(list(columns.keep)),
    )


def _read_text(column: pa.ChunkedArray, kind: pa.DataType) -> tuple[pa.Array, pa.Array]:
    """Return texts, null where they are no UTF-8, and a mask of these rows.

    Parquet does not promise that its strings are UTF-8.
    """
    texts = pa.concat_arrays(column.cast(kind).chunks)
    try:
        texts.validate(full=True)
    except pa.ArrowInvalid:
        decoded = [None if raw is None else _decode(raw) for raw in _raw_bytes(texts)]
        read = pa.array(decoded, kind)
        return read, pc.and_(pc.is_null(read), pc.is_valid(texts))
    return texts, pa.array(np.zeros(len(texts), bool))


def _raw_bytes(texts: pa.Array) -> list[bytes | None]:
    binary = pa.large_binary() if pa.types.is_large_string(texts.type) else pa.binary()
    raw: list[bytes | None] = texts.view(binary).to_pylist()
    return raw


def _decode(raw: bytes) -> str | None:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _is_plain_text(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
    )


def _is_text(kind: pa.DataType) -> bool:
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(
        pa.types.is_null(inner)  # what pandas makes of a column without any value
        or pa.types.is_string(inner)
        or pa.types.is_large_string(inner)
        or pa.types.is_string_view(inner)
    )


def _is_id(kind: pa.DataType) -> bool:
    return _is_text(kind) or bool(pa.types.is_integer(kind))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
