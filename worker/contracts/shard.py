"""The Arrow schemas, and a batch's payload and result shard, to and from bytes.

Kept columns travel behind the named ones, untouched, from the input through payload and shard.
"""

import base64
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from worker.contracts.errors import JobError
from worker.contracts.records import Answer, Example, Span

VERSION = 1
#: Enough for the footer of nearly every shard, so that one look at it is enough.
TAIL_BYTES = 16 * 1024
#: A Parquet file ends in its footer, the footer's length in four bytes, and four letters.
_END_BYTES = 8
_META = b"spanmill"
#: What damaged bytes make the libraries raise.
_UNREADABLE = (
    pa.ArrowException, msgspec.DecodeError, LookupError, TypeError, ValueError, OSError,
    RecursionError,
)  # fmt: skip

#: What the producer sends: one row an example; ``fault`` says why a row cannot be answered.
EXAMPLE_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64()),
        pa.field("id", pa.string()),
        pa.field("question", pa.large_string()),
        pa.field("context", pa.large_string()),
        pa.field("fault", pa.string()),
        pa.field("warning", pa.string()),
    ]
)

_SPAN = pa.struct(
    [
        pa.field("text", pa.string()),
        pa.field("start_char", pa.int32()),
        pa.field("end_char", pa.int32()),
        pa.field("score", pa.float32()),
    ]
)

#: What the user gets: one row an input row.
ANSWER_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("row", pa.int64()),
        pa.field("status", pa.dictionary(pa.int8(), pa.string())),
        pa.field("answer", pa.string()),
        pa.field("start_char", pa.int32()),
        pa.field("end_char", pa.int32()),
        pa.field("confidence", pa.float32()),
        pa.field("score", pa.float32()),
        pa.field("null_odds", pa.float32()),
        pa.field("margin", pa.float32()),
        pa.field("best_answer", pa.string()),
        pa.field("best_start_char", pa.int32()),
        pa.field("best_end_char", pa.int32()),
        pa.field("alternatives", pa.list_(_SPAN)),
        pa.field("windows", pa.int32()),
        pa.field("warning", pa.string()),
        pa.field("error", pa.string()),
        pa.field("latency_ms", pa.float32()),
    ]
)


@dataclass(frozen=True, slots=True)
class Payload:
    """A batch on its way to a worker. ``kept`` has the kept columns alone, row by row."""

    job: str
    batch: int
    examples: tuple[Example, ...]
    kept: pa.Table


@dataclass(frozen=True, slots=True)
class _PayloadMeta:
    version: int
    job: str
    batch: int


@dataclass(frozen=True, slots=True)
class BatchStats:
    """How a batch went; one row of ``stats.parquet``, in this order.

    ``tokens`` counts what the model read, ``padded_tokens`` the same with padding. ``queue_ms``
    is from publication (on one machine: the hand-out to a process) until the worker began,
    ``latency_ms`` from the same until the answers were ready to be committed.
    """

    batch: int
    rows: int
    answered: int
    unanswerable: int
    errors: int
    windows: int
    tokens: int
    padded_tokens: int
    queue_ms: float
    tokenize_ms: float
    inference_ms: float
    decode_ms: float
    latency_ms: float
    attempt: int
    host: str
    pid: int
    started_at: str
    bundle_digest: str
    provider: str
    cpu: str


@dataclass(frozen=True, slots=True)
class ShardMeta:
    """What a shard's footer says: which batch of which job it is, and how that went."""

    version: int
    job: str
    first_row: int
    stats: BatchStats


def encode_payload(job: str, batch: int, rows: pa.Table) -> bytes:
    """Pack rows of EXAMPLE_SCHEMA and kept columns as a compressed Arrow IPC stream."""
    meta = {_META: msgspec.json.encode(_PayloadMeta(VERSION, job, batch))}
    table = rows.replace_schema_metadata(meta)
    with contextlib.suppress(pa.ArrowInvalid):  # dictionaries too many for one: a stream takes many
        table = table.combine_chunks()
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def decode_payload(raw: bytes) -> Payload:
    """Unpack a payload.

    Raises:
        JobError: the bytes are not a payload that this version reads.
    """
    try:
        with pa.ipc.open_stream(raw) as reader:
            table = reader.read_all()
        meta = msgspec.json.decode(table.schema.metadata[_META], type=_PayloadMeta)
        named = table.select(range(len(EXAMPLE_SCHEMA)))
        named.validate(full=True)  # Arrow trusts what it reads
        columns = named.to_pydict().values()
    except _UNREADABLE as error:
        raise JobError(
            f"a batch's payload cannot be read ({type(error).__name__}): publish it again"
        ) from error
    if meta.version != VERSION:
        raise JobError(
            f"a payload has version {meta.version} but this worker reads {VERSION}:"
            " use the same release everywhere"
        )
    examples = tuple(Example(*values) for values in zip(*columns, strict=True))
    # By position: a kept column may have the name of one before it.
    kept = table.select(range(len(EXAMPLE_SCHEMA), table.num_columns))
    return Payload(meta.job, meta.batch, examples, kept)


def encode_shard(job: str, answers: Sequence[Answer], kept: pa.Table, stats: BatchStats) -> bytes:
    """Pack answers and kept columns as a Parquet file, its statistics in the footer."""
    table = make_answer_table(answers, stats.latency_ms)
    for field, column in zip(kept.schema, kept.columns, strict=True):
        table = table.append_column(field, column)
    meta = ShardMeta(VERSION, job, answers[0].row, stats)
    table = table.replace_schema_metadata({_META: msgspec.json.encode(meta)})
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink, table.schema, compression="zstd", use_dictionary=False, write_statistics=False
    ) as writer:
        write_rows(writer, table)
    return bytes(sink.getvalue())


def open_shard(raw: bytes) -> tuple[ShardMeta, pq.ParquetFile]:
    """Open a shard; its rows are read when asked for.

    Raises:
        JobError: the bytes are not a shard that this version reads.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(raw))
        return _decode_meta(file.metadata), file
    except _UNREADABLE as error:
        raise _unreadable(error) from error


def read_footer(read_tail: Callable[[int], bytes]) -> ShardMeta:
    """Return what a shard's footer says, without its rows.

    ``read_tail`` gives so many of the shard's last bytes, or all if it has fewer.

    Raises:
        JobError: the bytes are not a shard that this version reads.
    """
    tail = read_tail(TAIL_BYTES)
    footer_bytes = _END_BYTES + int.from_bytes(tail[-_END_BYTES:-4], "little")
    if footer_bytes > len(tail) == TAIL_BYTES:
        tail = read_tail(footer_bytes)
    try:
        return _decode_meta(pq.read_metadata(pa.BufferReader(tail)))
    except _UNREADABLE as error:
        raise _unreadable(error) from error


def _decode_meta(footer: pq.FileMetaData) -> ShardMeta:
    meta = msgspec.json.decode(footer.metadata[_META], type=ShardMeta)
    if meta.version > VERSION:
        raise JobError(
            f"a shard has version {meta.version} but this program reads {VERSION}: upgrade spanmill"
        )
    return meta


def _unreadable(error: Exception) -> JobError:
    return JobError(
        f"a shard cannot be read ({type(error).__name__}): delete it and run the job again"
    )


def read_shard(raw: bytes) -> tuple[ShardMeta, pa.Table]:
    """Return what a shard's footer says, and its rows.

    Raises:
        JobError: the bytes are not a shard that this version reads.
    """
    meta, file = open_shard(raw)
    try:
        groups = [file.read_row_group(number) for number in range(file.num_row_groups)]
        return meta, pa.concat_tables(groups)
    except (pa.ArrowException, OSError) as error:
        raise JobError(
            f"the shard of batch {meta.stats.batch} of {meta.job} is damaged"
            f" ({type(error).__name__}): delete it and run the job again"
        ) from error


def write_rows(writer: pq.ParquetWriter, table: pa.Table) -> None:
    """Write rows as one row group; as several where their dictionaries do not fit into one.

    The entries of an int8 dictionary, for instance, may be others in each file of the input, and
    a reader takes them a row group at a time.
    """
    try:
        whole = table.unify_dictionaries().combine_chunks()
    except pa.ArrowInvalid:
        if table.num_rows < 2:  # one row has no two dictionaries
            raise
        half = table.num_rows // 2
        write_rows(writer, table.slice(0, half))
        write_rows(writer, table.slice(half))
    else:
        writer.write_table(whole)


def make_answer_table(answers: Sequence[Answer], latency_ms: float) -> pa.Table:
    """Return answers as a table of ANSWER_SCHEMA."""
    rows = [_columns(answer, latency_ms) for answer in answers]
    columns = [
        pa.array(values, type=field.type)
        for values, field in zip(zip(*rows, strict=True), ANSWER_SCHEMA, strict=True)
    ]
    return pa.Table.from_arrays(columns, schema=ANSWER_SCHEMA)


def encode_schema(schema: pa.Schema) -> str:
    """Return a schema as text."""
    return base64.b64encode(schema.serialize().to_pybytes()).decode("ascii")


def decode_schema(text: str) -> pa.Schema:
    """Return the schema that ``encode_schema`` wrote."""
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))


def _columns(answer: Answer, latency_ms: float) -> tuple[object, ...]:
    best = answer.best
    answered = answer.status == "answered" and best is not None
    span = _span(best if answered else None)
    return (
        answer.id,
        answer.row,
        str(answer.status),
        *span,
        answer.confidence,
        None if best is None else best.score,
        answer.null_odds,
        answer.margin,
        *_span(best),
        [(one.text, one.start_char, one.end_char, one.score) for one in answer.alternatives],
        answer.windows,
        answer.warning,
        answer.error,
        latency_ms,
    )


def _span(span: Span | None) -> tuple[str | None, int | None, int | None]:
    return (None, None, None) if span is None else (span.text, span.start_char, span.end_char)
