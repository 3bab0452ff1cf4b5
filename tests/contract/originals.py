"""What the golden files of each version say, and the program that wrote them.

The files are never written again: a change of what their bytes mean takes a new version, with
golden files of its own, and these must stay readable. ``python -m tests.contract.originals``
writes missing ones.
"""

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import msgspec
import pyarrow as pa

from producer.answers import AnswersMeta, AnswerWriter, encode_meta
from worker.contracts.bundle import BundleManifest, FileProof, SampleRow
from worker.contracts.family import WindowSizes
from worker.contracts.folder import Event
from worker.contracts.job import Columns, Cut, InputFile, JobManifest, State, encode_manifest
from worker.contracts.options import ForwardPolicy, ReadingOptions
from worker.contracts.records import Answer, Example, Span, Status
from worker.contracts.shard import (
    ANSWER_SCHEMA,
    EXAMPLE_SCHEMA,
    BatchStats,
    encode_payload,
    encode_schema,
    encode_shard,
    make_answer_table,
)
from worker.contracts.verdict import Calibration, Logistic

FOLDER = Path(__file__).parent / "golden"

KEPT = pa.table(
    {
        "word": pa.array(["a", None, "ç😀"]),
        "code": pa.array(["x", "y", None], pa.dictionary(pa.int8(), pa.string())),
        "when": pa.array([1, None, 3], pa.timestamp("ns", tz="Europe/Paris")),
        "cost": pa.array([Decimal("1.23"), None, Decimal("-4.50")], pa.decimal128(20, 2)),
        "list": pa.array([[1], None, []], pa.list_(pa.int64())),
        "pair": pa.array([{"x": 1, "y": "a"}, None, {"x": None, "y": "b"}]),
    }
)
EXAMPLES = (
    Example(40, "q-40", "Who built it?", "Joan built it in 1742. 😀"),
    Example(41, "41", "When?", "", warning="the id is null or damaged"),
    Example(42, "q-42", "", "", fault="the context is null: give it a text"),
)
SPAN = Span("Joan", 0, 4, 7.25)
ANSWERS = (
    Answer(
        40, "q-40", Status.ANSWERED, best=SPAN, null_odds=-3.5, margin=1.5, confidence=0.75,
        alternatives=(SPAN, Span("1742", 17, 21, 5.75)), windows=2,
    ),
    Answer(41, "41", Status.UNANSWERABLE, confidence=1.0, warning="the id is null or damaged"),
    Answer(42, "q-42", Status.ERROR, error="the context is null: give it a text"),
)  # fmt: skip
STATS = BatchStats(
    batch=5,
    rows=3,
    answered=1,
    unanswerable=1,
    errors=1,
    windows=2,
    tokens=40,
    padded_tokens=50,
    queue_ms=10.0,
    tokenize_ms=4.0,
    inference_ms=12.5,
    decode_ms=3.5,
    latency_ms=30.0,
    attempt=2,
    host="mill",
    pid=7,
    started_at="2026-01-02T03:04:05.000+00:00",
    bundle_digest="ab" * 32,
    provider="cpu",
    cpu="a processor (avx2)",
)
MANIFEST = JobManifest(
    version=1,
    job="answers-0123456789",
    created_at="2026-01-02T03:04:05.000+00:00",
    inputs=(InputFile("/data/é.parquet", 4096, "ab" * 32, 43),),
    columns=Columns(id="id", question="q", context="c", keep=tuple(KEPT.column_names)),
    kept_schema=encode_schema(KEPT.schema),
    rows=43,
    batches=6,
    cut=Cut(8, 2_097_152),
    bundle="ab" * 32,
    bundle_name="tiny",
    reading=ReadingOptions(0.25, 2, 30, 1_000_000),
    forward=ForwardPolicy(1, 16_384),
    provider="cpu",
    output="/data/answers.parquet",
    max_error_ratio=0.5,
    parent="answers-old",
    versions={"spanmill": "0.1.0"},
)
#: Of version 2, whose batches are cut by the bytes of kept columns, too.
MANIFEST_2 = replace(MANIFEST, version=2)
#: One whose input is an object: its store knows its version, nobody its digest.
MANIFEST_2_OBJECTS = replace(
    MANIFEST_2,
    inputs=(InputFile("s3://bucket/é.parquet", 4096, None, 43, '"0123456789abcdef"'),),
    output="s3://bucket/answers.parquet",
)
EVENT = Event(State.PAUSED, "2026-01-02T03:04:05.678+00:00", "the disk is full")
CALIBRATION = Calibration(Logistic(0.2, -0.5, 0.3), Logistic(-0.4, 0.6), max_margin=8.0)
BUNDLE = BundleManifest(
    format=1,
    name="tiny",
    family="roberta",
    language="en",
    sizes=WindowSizes(384, 128, 64),
    null_threshold=-1.5,
    calibration=CALIBRATION,
    quantization="dynamic int8",
    licence="Apache-2.0",
    files={
        "model.onnx": FileProof("cd" * 32, 1000),
        "tokenizer.json": FileProof("ef" * 32, 2000),
    },
    sample=(SampleRow("Who?", "Joan built it.", "Joan", 7.25, -3.5),),
    versions={"onnxruntime": "1.31.0"},
    card={"data": ["squad"], "scores": {"f1": 80.5}},
)
META = AnswersMeta(1, "answers-1", "ab" * 32, "tiny", None, CALIBRATION, {"spanmill": "0.1.0"})


def to_rows() -> pa.Table:
    """Return the examples with their kept columns."""
    columns = [
        pa.array([getattr(one, field.name) for one in EXAMPLES], field.type)
        for field in EXAMPLE_SCHEMA
    ]
    table = pa.Table.from_arrays(columns, schema=EXAMPLE_SCHEMA)
    for field, column in zip(KEPT.schema, KEPT.columns, strict=True):
        table = table.append_column(field, column)
    return table


def make_answers_file(folder: Path) -> bytes:
    """Return an answers file, written into a folder that does not exist yet."""
    with AnswerWriter(folder, ANSWER_SCHEMA.with_metadata(encode_meta(META)), 9) as writer:
        writer.write(make_answer_table(ANSWERS, 30.0))
    return (folder / "part-00000.parquet").read_bytes()


def make_all(folder: Path) -> dict[str, bytes]:
    """Return the golden files' names and bytes, as this version writes them."""
    return {
        "payload-1.arrow": encode_payload("answers-0123456789", 5, to_rows()),
        "shard-1.parquet": encode_shard("answers-0123456789", ANSWERS, KEPT, STATS),
        "manifest-1.json": encode_manifest(MANIFEST),
        "manifest-2.json": encode_manifest(MANIFEST_2),
        "manifest-2-objects.json": encode_manifest(MANIFEST_2_OBJECTS),
        "event-1.json": msgspec.json.encode(EVENT),
        "bundle-1.json": msgspec.json.format(msgspec.json.encode(BUNDLE), indent=1) + b"\n",
        "answers-1.parquet": make_answers_file(folder),
    }


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        for name, raw in make_all(Path(scratch) / "parts").items():
            if not (FOLDER / name).exists():
                (FOLDER / name).write_bytes(raw)
