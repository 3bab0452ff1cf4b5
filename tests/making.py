"""Real inputs, batches and whole jobs, made without a model, for the producer's tests."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from worker.contracts.bundle import (
    MANIFEST,
    MODEL,
    TOKENIZER,
    Bundle,
    BundleManifest,
    digest_bytes,
    load_bundle,
    prove_file,
    write_manifest,
)
from worker.contracts.family import WindowSizes
from worker.contracts.folder import JobFolder
from worker.contracts.job import VERSION, Columns, Cut, JobManifest
from worker.contracts.options import ForwardPolicy, ReadingOptions
from worker.contracts.records import Answer, Span, Status
from worker.contracts.shard import BatchStats, encode_schema, encode_shard
from worker.contracts.store import LocalStore
from worker.contracts.verdict import Calibration, Logistic

CALIBRATION = Calibration(
    answer=Logistic(bias=0.2, null_odds=-0.5, margin=0.3),
    abstention=Logistic(bias=-0.4, null_odds=0.6),
)
BUNDLE = BundleManifest(
    format=1,
    name="tiny",
    family="bert",
    language="en",
    sizes=WindowSizes(),
    null_threshold=0.0,
    calibration=CALIBRATION,
    quantization="none (fp32)",
    licence="Apache-2.0",
    files={},
)
BUNDLE_BYTES = msgspec.json.encode(BUNDLE)
BUNDLE_DIGEST = digest_bytes(BUNDLE_BYTES)


def typed_columns() -> dict[str, pa.Array]:
    """Return a column of five rows, nulls among them, for every type that Parquet files hold."""
    words = ["a", "b" * 40, None, "a", "ç😀"]
    raw = [b"\xff\x00", b"", None, b"a" * 40, b"b"]
    numbers = [1, None, 3, 0, 1]
    money = [Decimal("1.23"), None, Decimal("-4.50"), Decimal(0), Decimal("9.99")]
    lists = [[1], None, [], [2, None], [3]]
    coded = pa.dictionary(pa.int32(), pa.string())
    arrays = {
        **{str(kind): pa.array(words, kind) for kind in (pa.string(), pa.large_string())},
        **{str(kind): pa.array(raw, kind) for kind in (pa.binary(), pa.large_binary())},
        "string_view": pa.array(words, pa.string_view()),
        "binary_view": pa.array(raw, pa.binary_view()),
        "dictionary": pa.array(words, coded),
        "dictionary8": pa.array(words, pa.dictionary(pa.int8(), pa.string())),
        "ordered": pa.DictionaryArray.from_arrays(
            pa.array([1, 0, None, 2, 0], pa.int8()), pa.array(["z", "m", "c"]), ordered=True
        ),
        "dictionary of binary": pa.array(raw, pa.dictionary(pa.int32(), pa.binary())),
        "fixed binary": pa.array([b"ab", None, b"cd", b"ef", b"gh"], pa.binary(2)),
        "bool": pa.array([True, None, False, True, False]),
        "half": pa.array([1.5, None, -2.0, 0.0, 65504.0], pa.float16()),
        "float": pa.array([1.5, None, float("inf"), -0.0, 1e-40], pa.float32()),
        "double": pa.array([1.5, None, float("-inf"), -0.0, 5e-324], pa.float64()),
        "decimal32": pa.array(money, pa.decimal32(7, 2)),
        "decimal": pa.array(money, pa.decimal128(20, 2)),
        "decimal256": pa.array(money, pa.decimal256(50, 2)),
        "date": pa.array(numbers, pa.date32()),
        "time of ms": pa.array(numbers, pa.time32("ms")),
        "time of ns": pa.array(numbers, pa.time64("ns")),
        "timestamp with zone": pa.array(numbers, pa.timestamp("ns", tz="Europe/Paris")),
        "timestamp of us": pa.array(numbers, pa.timestamp("us")),
        "duration": pa.array(numbers, pa.duration("ns")),
        "list": pa.array(lists, pa.list_(pa.int64())),
        "large list": pa.array(lists, pa.large_list(pa.int8())),
        "list view": pa.array(lists, pa.list_view(pa.int8())),
        "fixed list": pa.array([[1, 2], None, [3, None], [5, 6], [7, 8]], pa.list_(pa.int32(), 2)),
        "nested list": pa.array([[[1], [2, 3]], None, [], [None], [[4]]]),
        "list of dictionary": pa.array([["a"], None, [], ["b", "a"], ["c"]], pa.list_(coded)),
        "list of view": pa.array([["a"], None, [], ["b" * 40], ["c"]], pa.list_(pa.string_view())),
        "map": pa.array(
            [[("a", 1)], None, [], [("b", None)], [("c", 3)]], pa.map_(pa.string(), pa.int32())
        ),
        "struct": pa.array([{"x": 1, "y": "a"}, None, {"x": None, "y": "b"}, {"x": 2}, {"y": "c"}]),
        "struct of dictionary": pa.array(
            [{"x": "a"}, None, {"x": None}, {"x": "b"}, {"x": "a"}], pa.struct([("x", coded)])
        ),
        "uuid": pa.array([uuid.UUID(int=number).bytes for number in range(5)], pa.uuid()),
        "json": pa.array(["{}", None, "[1]", "2", '"x"'], pa.json_()),
        "null": pa.nulls(5),
    }
    kinds = (pa.int8(), pa.int16(), pa.int32(), pa.int64())
    kinds += (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())
    return arrays | {str(kind): pa.array(numbers, kind) for kind in kinds}


def values(table: pa.Table) -> dict[str, list[Any]]:
    """Return what a table holds, whatever its chunks and dictionaries; times as whole numbers."""
    types = pa.types
    return {
        name: (
            column.cast(pa.int64()) if types.is_temporal(kind) and kind.bit_width == 64 else column
        ).to_pylist()
        for name, column, kind in zip(
            table.column_names, table.columns, table.schema.types, strict=True
        )
    }


def write_input(path: Path, rows: int = 5, **columns: Any) -> Path:
    """Write a Parquet input of ids, questions and contexts; ``columns`` replace or add some."""
    table = {
        "id": [f"q{row}" for row in range(rows)],
        "question": [f"what is {row}?" for row in range(rows)],
        "context": [f"it is {row}." for row in range(rows)],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table | columns), path)
    return path


def make_bundle(folder: Path) -> Bundle:
    """Write a bundle that proves itself, of a graph and a tokenizer that nobody can load."""
    folder.mkdir()
    for name in (MODEL, TOKENIZER):
        (folder / name).write_bytes(name.encode())
    proofs = {name: prove_file(folder / name) for name in (MODEL, TOKENIZER)}
    write_manifest(folder, replace(BUNDLE, files=proofs))
    return load_bundle(folder)


def make_answer(row: int, status: Status = Status.ANSWERED, **changes: Any) -> Answer:
    """Return an answer whose numbers follow from its row and survive float32."""
    if status is Status.ERROR:
        return Answer(row, f"q{row}", status, **{"error": "the question is empty"} | changes)
    given: dict[str, Any] = {
        "best": Span(f"answer {row}", 3, 10, 4.5),
        "null_odds": 1.25 if status is Status.UNANSWERABLE else -0.75,
        "margin": 2.5,
        "confidence": 0.5,
        "windows": 1,
    }
    return Answer(row, f"q{row}", status, **given | changes)


def make_stats(batch: int, answers: Sequence[Answer], **changes: Any) -> BatchStats:
    """Return the statistics of a batch that took 20 ms after 10 ms of waiting."""
    statuses = [answer.status for answer in answers]
    given: dict[str, Any] = {
        "batch": batch,
        "rows": len(answers),
        "answered": statuses.count(Status.ANSWERED),
        "unanswerable": statuses.count(Status.UNANSWERABLE),
        "errors": statuses.count(Status.ERROR),
        "windows": len(answers),
        "tokens": 40,
        "padded_tokens": 50,
        "queue_ms": 10.0,
        "tokenize_ms": 4.0,
        "inference_ms": 12.0,
        "decode_ms": 4.0,
        "latency_ms": 30.0,
        "attempt": 1,
        "host": "mill",
        "pid": 7,
        "started_at": "2026-01-02T03:04:05.000+00:00",
        "bundle_digest": BUNDLE_DIGEST,
        "provider": "cpu",
        "cpu": "a processor (avx2)",
    }
    return BatchStats(**given | changes)


def make_manifest(
    job: str, output: Path | str, rows: int, batches: int, **changes: Any
) -> JobManifest:
    """Return a job's manifest."""
    given: dict[str, Any] = {
        "version": VERSION,
        "job": job,
        "created_at": "2026-01-02T03:04:05.000+00:00",
        "inputs": (),
        "columns": Columns(),
        "kept_schema": encode_schema(pa.schema([])),
        "rows": rows,
        "batches": batches,
        "cut": Cut(8),
        "bundle": BUNDLE_DIGEST,
        "bundle_name": BUNDLE.name,
        "reading": ReadingOptions(null_threshold=0.0),
        "forward": ForwardPolicy(),
        "provider": "cpu",
        "output": str(output),
    }
    return JobManifest(**given | changes)


def make_job(
    root: Path,
    batches: Sequence[Sequence[Answer]],
    *,
    job: str = "job",
    output: Path | str | None = None,
    kept: pa.Table | None = None,
    stats: Mapping[str, Any] | None = None,
    **changes: Any,
) -> tuple[JobFolder, JobManifest]:
    """Write a job whose batches are these answers; ``kept`` has a row for each of them."""
    folder = JobFolder(LocalStore(root), job)
    rows = sum(map(len, batches))
    if kept is None:
        kept = pa.table({"_": pa.nulls(rows)}).select([])
    out = root.parent / f"{job}.parquet" if output is None else output
    changes = {"kept_schema": encode_schema(kept.schema)} | changes
    manifest = make_manifest(job, out, rows, len(batches), **changes)
    folder.store.put_new(f"bundles/{BUNDLE_DIGEST}/{MANIFEST}", BUNDLE_BYTES)
    folder.put_manifest(manifest)
    done = 0
    for number, answers in enumerate(batches):
        put_shard(
            folder,
            number,
            answers,
            kept.slice(done, len(answers)),
            **({} if stats is None else stats),
        )
        done += len(answers)
    return folder, manifest


def put_shard(
    folder: JobFolder, number: int, answers: Sequence[Answer], kept: pa.Table, **stats: Any
) -> None:
    """Commit a batch's answers."""
    raw = encode_shard(folder.job, answers, kept, make_stats(number, answers, **stats))
    key = f"{folder.job}/shards/{number // 1000:04d}/{number:07d}.parquet"
    assert folder.store.put_new(key, raw)
