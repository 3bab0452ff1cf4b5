"""Read SQuAD JSON (``.json``) and JSON lines (``.jsonl``, ``.ndjson``), gzipped or not."""

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import ijson
import ijson.backends.python as ijson_python
import pyarrow as pa

from producer.place import Place
from producer.raw import RawChunk, is_utf8
from worker.contracts.errors import InputError
from worker.contracts.job import Columns

ENDINGS = (".json", ".jsonl", ".ndjson")
CHUNK_ROWS = 1024
CHUNK_CHARS = 4 * 1024 * 1024
LONGEST_LINE_BYTES = 32 * 1024 * 1024
BLOCK_BYTES = 1024 * 1024
#: The parser names each value by all that it lies in: time grows with the square of the depth.
DEEPEST = 10_000
_OPENINGS = frozenset({"start_map", "start_array"})
_CLOSINGS = frozenset({"end_map", "end_array"})
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")

#: A row as an object, or in words why there is none.
Row = dict[str, Any] | str


def check(path: Place, columns: Columns) -> pa.Schema:
    """Return the schema of the kept columns: text, as JSON where the value is no string.

    Raises:
        InputError: the file cannot be read, or none of its first rows has a column.
    """
    first = _read_first(path)
    objects = [row for row in first if isinstance(row, dict)]
    names = _list_names(objects)
    wanted = [columns.question, columns.context, *columns.keep]
    for name in wanted if columns.id is None else [columns.id, *wanted]:
        if objects and name not in names:
            raise InputError(f"{path} has no field {name!r}: its fields are {', '.join(names)}")
    if first and not objects:
        raise InputError(f"{path} holds no JSON objects: write one object a line")
    return pa.schema([pa.field(name, pa.string()) for name in columns.keep])


def stream(path: Place, columns: Columns) -> Iterator[RawChunk]:
    """Yield the file's rows in their order.

    Raises:
        InputError: the file is damaged.
    """
    for rows in _chunks(_rows(path)):
        try:
            yield _to_raw(rows, columns)
        except RecursionError as error:
            raise InputError(
                f"{path} has a value that is nested too deep to be kept: flatten it"
            ) from error


def list_columns(path: Place) -> list[str]:
    """Return the names of the fields that the first rows have.

    Raises:
        InputError: the file cannot be read.
    """
    return _list_names([row for row in _read_first(path) if isinstance(row, dict)])


def iter_objects(path: Place) -> Iterator[dict[str, Any]]:
    """Yield a file's rows.

    Raises:
        InputError: the file is damaged, or one of its rows is no object.
    """
    for number, row in enumerate(_rows(path)):
        if isinstance(row, str):
            raise InputError(f"row {number} of {path} cannot be read: {row}")
        yield row


def is_json(path: Place) -> bool:
    """Say by a file's name whether it is for this reader."""
    return _kind(path) in ENDINGS


def _kind(path: Place) -> str:
    return Path(path.stem if _is_zipped(path) else path.name).suffix.lower()


def _is_zipped(path: Place) -> bool:
    return path.suffix.lower() == ".gz"


def _read_first(path: Place) -> list[Row]:
    return next(_chunks(_rows(path)), [])


def _list_names(objects: list[dict[str, Any]]) -> list[str]:
    return sorted({name for row in objects for name in row})


def _rows(path: Place) -> Iterator[Row]:
    try:
        with path.open("rb") as raw:
            stream: IO[bytes] = gzip.GzipFile(fileobj=raw) if _is_zipped(path) else raw  # type: ignore[assignment]
            yield from _squad_rows(stream, path) if _kind(path) == ".json" else _line_rows(stream)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None)
        raise InputError(
            f"{path} cannot be read ({reason if reason is not None else error}): check the file"
        ) from error


def _squad_rows(stream: IO[bytes], path: Place) -> Iterator[Row]:
    found = False
    try:
        _refuse_deep(stream, path)
        # The back end in C is five times as fast, but replaces lone surrogates without a word.
        backend = ijson_python if _has_surrogates(stream) else ijson
        for article in backend.items(stream, "data.item", use_float=True):
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    found = True
                    yield {
                        **{name: article[name] for name in article if name != "paragraphs"},
                        **{name: paragraph[name] for name in paragraph if name != "qas"},
                        **question,
                    }
        if not found and not _has_data(stream):
            raise InputError(
                f"{path} has no 'data' list as SQuAD JSON has: name it .jsonl if it holds one"
                " object a line"
            )
    except (ijson.JSONError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is not SQuAD JSON ({type(error).__name__}): repair it, or name it .jsonl if it"
            " holds one object a line"
        ) from error


def _refuse_deep(stream: IO[bytes], path: Place) -> None:
    """Refuse what would take the parser for ever, and rewind.

    Raises:
        InputError: it is nested too deep.
    """
    depth = 0
    for event, _ in ijson.basic_parse(stream, use_float=True):
        if event in _OPENINGS:
            depth += 1
            if depth > DEEPEST:
                raise InputError(f"{path} is nested more than {DEEPEST} deep: flatten it")
        elif event in _CLOSINGS:
            depth -= 1
    stream.seek(0)


def _has_surrogates(stream: IO[bytes]) -> bool:
    """Say whether there is an escape of a surrogate, lone or not, and rewind."""
    tail = b""
    while block := stream.read(BLOCK_BYTES):
        if _SURROGATE.search(tail + block):
            break
        tail = block[-3:]
    stream.seek(0)
    return bool(block)


def _has_data(stream: IO[bytes]) -> bool:
    stream.seek(0)
    events = ijson.parse(stream)
    return any(place == "data" and event == "start_array" for place, event, _ in events)


def _line_rows(stream: IO[bytes]) -> Iterator[Row]:
    while line := stream.readline(LONGEST_LINE_BYTES):
        if not line.endswith(b"\n") and len(line) == LONGEST_LINE_BYTES:
            while (rest := stream.readline(LONGEST_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield f"the line is longer than {LONGEST_LINE_BYTES} bytes: split it"
        elif line.strip():
            yield _parse_line(line)


def _parse_line(line: bytes) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return "the line is not JSON: write one object a line"
    return (
        row if isinstance(row, dict) else "the line is not a JSON object: write one object a line"
    )


def _chunks(rows: Iterator[Row]) -> Iterator[list[Row]]:
    chunk: list[Row] = []
    chars = 0
    for row in rows:
        chunk.append(row)
        if isinstance(row, dict):
            chars += sum(len(value) for value in row.values() if isinstance(value, str))
        if len(chunk) == CHUNK_ROWS or chars >= CHUNK_CHARS:
            yield chunk
            chunk, chars = [], 0
    if chunk:
        yield chunk


def _to_raw(rows: list[Row], columns: Columns) -> RawChunk:
    read = [_read_row(row, columns) for row in rows]
    objects = [row if isinstance(row, dict) else {} for row in rows]
    kept = {name: [_keep(row.get(name)) for row in objects] for name in columns.keep}
    ids = None if columns.id is None else [_read_id(row.get(columns.id)) for row in objects]
    return RawChunk(
        ids=None if ids is None else pa.array(ids, pa.string()),
        questions=pa.array([question for question, _, _ in read], pa.large_string()),
        contexts=pa.array([context for _, context, _ in read], pa.large_string()),
        faults=pa.array([fault for _, _, fault in read], pa.string()),
        kept=pa.table(
            kept, schema=pa.schema([pa.field(name, pa.string()) for name in columns.keep])
        ),
    )


def _read_row(row: Row, columns: Columns) -> tuple[str | None, str | None, str | None]:
    """Return question, context, and why the row cannot be answered."""
    if isinstance(row, str):
        return None, None, row
    texts: list[str | None] = []
    for kind, name in (("question", columns.question), ("context", columns.context)):
        value = row.get(name)
        if value is not None and not isinstance(value, str):
            return None, None, f"the {kind} is not a text: give it one"
        if value is not None and not is_utf8(value):
            return None, None, f"the {kind} holds a lone surrogate: encode it again"
        texts.append(value)
    return texts[0], texts[1], None


def _read_id(value: object) -> str | None:
    text = _to_text(value)
    return text if text is not None and is_utf8(text) else None


def _keep(value: object) -> str | None:
    """Return a kept value as text; a lone surrogate, which no Parquet file takes, as its escape."""
    text = _to_text(value)
    return None if text is None else text.encode("utf-8", "backslashreplace").decode("utf-8")


def _to_text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)
