"""Read Parquet files in chunks of bounded bytes, one huge row group too."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from producer.raw import RawChunk
from worker.contracts.errors import InputError
from worker.contracts.job import Columns

CHUNK_BYTES = 8 * 1024 * 1024
LARGEST_CHUNK_ROWS = 4096
BUFFER_BYTES = 1024 * 1024


def check(path: Path, columns: Columns) -> pa.Schema:
    """Return the schema of the kept columns.

    Raises:
        InputError: the file cannot be read, lacks a column, or has one of a wrong type.
    """
    with _open(path) as file:
        schema = file.schema_arrow
    wanted = [columns.question, columns.context, *columns.keep]
    for name in wanted if columns.id is None else [columns.id, *wanted]:
        if schema.get_field_index(name) < 0:
            raise InputError(
                f"{path} has no column {name!r}: its columns are {', '.join(schema.names)}"
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


def stream(path: Path, columns: Columns) -> Iterator[RawChunk]:
    """Yield the file's rows in their order.

    Raises:
        InputError: the file is damaged.
    """
    named = [columns.question, columns.context, *columns.keep]
    names = named if columns.id is None else [columns.id, *named]
    with _open(path) as file:
        rows = _choose_rows(file, set(names))
        try:
            for batch in file.iter_batches(rows, columns=list(dict.fromkeys(names))):
                yield _to_raw(pa.Table.from_batches([batch]), columns)
        except (pa.ArrowException, OSError) as error:
            raise InputError(
                f"{path} is damaged ({_first_line(error)}): write the file again"
            ) from error


def _open(path: Path) -> Any:
    try:
        # Without a buffer size the reader holds whole column chunks of a row group.
        return pq.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{path} cannot be read as Parquet ({_first_line(error)}): check or rewrite the file"
        ) from error


def _choose_rows(file: Any, names: set[str]) -> int:
    """Return how many rows to read at once, from the sizes that the file's footer tells."""
    largest = 1.0
    for number in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(number)
        size = sum(
            group.column(index).total_uncompressed_size
            for index in range(group.num_columns)
            if group.column(index).path_in_schema.split(".")[0] in names
        )
        largest = max(largest, size / max(group.num_rows, 1))
    return max(1, min(LARGEST_CHUNK_ROWS, int(CHUNK_BYTES / largest)))


def _to_raw(table: pa.Table, columns: Columns) -> RawChunk:
    questions, question_faults = _read_text(table.column(columns.question), "question")
    contexts, context_faults = _read_text(table.column(columns.context), "context")
    faults = [
        a if a is not None else b for a, b in zip(question_faults, context_faults, strict=True)
    ]
    return RawChunk(
        ids=None if columns.id is None else _one(table.column(columns.id).cast(pa.string())),
        questions=questions,
        contexts=contexts,
        faults=pa.array(faults, pa.string()),
        kept=table.select(list(columns.keep)),
    )


def _read_text(column: pa.ChunkedArray, name: str) -> tuple[pa.Array, list[str | None]]:
    """Return a text column, and which rows are no UTF-8: Parquet does not promise that they are."""
    texts = _one(column.cast(pa.large_string()))
    try:
        texts.validate(full=True)
    except pa.ArrowInvalid:
        raw = [None if text is None else _decode(text) for text in texts.cast(pa.large_binary())
               .to_pylist()]  # fmt: skip
        fault = f"the {name} is not valid UTF-8: encode it again"
        faults = [
            fault if one is None and text.is_valid else None
            for one, text in zip(raw, texts, strict=True)
        ]
        return pa.array(raw, pa.large_string()), faults
    return texts, [None] * len(texts)


def _decode(raw: bytes) -> str | None:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _one(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    return pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array


def _is_text(kind: pa.DataType) -> bool:
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(
        pa.types.is_string(inner)
        or pa.types.is_large_string(inner)
        or pa.types.is_string_view(inner)
    )


def _is_id(kind: pa.DataType) -> bool:
    return _is_text(kind) or bool(pa.types.is_integer(kind))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
