"""Judging again: the same as answering at the other threshold, and no model needed."""

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from producer.answers import list_parts, read_answers_meta
from producer.collect import collect
from producer.commands.rethreshold import rethreshold
from producer.plan import publish_bundle
from tests.making import make_answer, make_job, make_manifest, typed_columns, values
from tests.tiny import PASSAGES, QUESTIONS, Tiny
from worker.contracts.bundle import load_bundle
from worker.contracts.errors import InputError, UsageError, WorldError
from worker.contracts.folder import JobFolder
from worker.contracts.options import ForwardPolicy, ReadingOptions
from worker.contracts.records import Status
from worker.contracts.shard import EXAMPLE_SCHEMA, encode_payload, encode_schema
from worker.contracts.store import LocalStore
from worker.opening import open_reader
from worker.task import Delivery, Tools, run_batch
from worker.telemetry import Machine

TYPED = pa.table(typed_columns())


def judge(answers: Path, threshold: float, output: Path | str, *more: str) -> int:
    arguments = [str(answers), "--null-threshold", str(threshold), "--out", str(output), *more]
    done = CliRunner().invoke(rethreshold, arguments, standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    status: int = done.return_value
    return status


def iter_rows() -> Iterator[tuple[str | None, ...]]:
    """Yield questions and contexts; more of them than answers alike, and every kind of row."""
    for count in range(5):
        for question in QUESTIONS:
            yield question, PASSAGES[count % 3][count * 5 :] * (1 + count % 4), None
    yield from (("  ", "a context", None), ("a question?", "", None), ("", "", "the id is bad"))


def answer(root: Path, tiny: Tiny, threshold: float | None) -> Path:
    """Answer the rows with a real reader; return the answers file."""
    bundle = load_bundle(tiny.bundle())
    reading = ReadingOptions(null_threshold=threshold, top_k=2)
    store = LocalStore(root)
    publish_bundle(store, bundle)
    tools = Tools(
        store, open_reader(bundle, reading), Machine("mill", "cpu"), 1, bundle.digest, "cpu"
    )
    rows = [(row, f"q{row}", *texts, None) for row, texts in enumerate(iter_rows())]
    arrays = [
        pa.array(column, kind)
        for column, kind in zip(zip(*rows, strict=True), EXAMPLE_SCHEMA.types, strict=True)
    ]
    table = pa.Table.from_arrays(arrays, schema=EXAMPLE_SCHEMA)
    payload = encode_payload("job", 0, table.append_column("k", pa.array(range(len(rows)))))
    run_batch(payload, Delivery(1, time.time(), {}), tools, lambda rows: None)
    manifest = make_manifest(
        "job", root / "out.parquet", len(rows), 1, bundle=bundle.digest, reading=reading,
        forward=ForwardPolicy(), kept_schema=encode_schema(pa.schema([("k", pa.int64())])),
    )  # fmt: skip
    collect(JobFolder(store, "job"), manifest, manifest.output, partial=False)
    return Path(manifest.output)


def test_judging_again_is_answering_at_that_threshold(tmp_path: Path, tiny: Tiny) -> None:
    first = answer(tmp_path / "first", tiny, 0.0)
    odds = sorted(
        one for one in pq.read_table(first).column("null_odds").to_pylist() if one is not None
    )
    middle = odds[len(odds) // 2]
    kinds = set()
    for threshold in (middle, math.nextafter(middle, -math.inf), -100.0, math.inf):
        named = None if math.isinf(threshold) else threshold
        again = answer(tmp_path / str(threshold), tiny, named)
        assert judge(first, threshold, tmp_path / f"{threshold}.parquet") == 0
        judged = pq.read_table(tmp_path / f"{threshold}.parquet")
        expected = pq.read_table(again)
        assert judged.drop(["latency_ms"]).equals(expected.drop(["latency_ms"]))
        meta, wanted = (
            read_answers_meta(tmp_path / f"{threshold}.parquet"),
            read_answers_meta(again),
        )
        assert meta == wanted
        kinds.add(tuple(sorted(set(judged.column("status").to_pylist()))))
    assert len(kinds) > 1, "the thresholds decide nothing here"


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    statuses = [Status.ANSWERED, Status.UNANSWERABLE, Status.ERROR, Status.ANSWERED]
    rows = [make_answer(row, status, null_odds=float(row)) for row, status in enumerate(statuses)]
    rows.append(
        replace(make_answer(4, Status.UNANSWERABLE), best=None, null_odds=None, margin=None)
    )
    folder, manifest = make_job(tmp_path / "jobs", [rows], kept=TYPED)
    collect(folder, manifest, manifest.output, partial=False)
    return Path(manifest.output)


def test_only_the_decision_changes(answers: Path, tmp_path: Path) -> None:
    judge(answers, 0.5, tmp_path / "new.parquet")
    old, new = pq.read_table(answers), pq.read_table(tmp_path / "new.parquet")
    decided = ["status", "answer", "start_char", "end_char", "confidence"]
    assert new.schema.equals(old.schema)
    assert values(new.drop(decided)) == values(old.drop(decided))
    assert new.column("status").to_pylist() == [
        "answered", "unanswerable", "error", "unanswerable", "unanswerable",
    ]  # fmt: skip
    assert new.column("answer").to_pylist() == ["answer 0", None, None, None, None]
    assert new.column("confidence").to_pylist()[4] == 1.0


def test_the_output_may_be_parts_and_parts_may_be_judged(
    answers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producer.commands.rethreshold.PART_ROWS", 2)
    judge(answers, 0.5, f"{tmp_path}/parts/")
    assert len(list_parts(str(tmp_path / "parts"))) == 3
    judge(tmp_path / "parts", math.inf, tmp_path / "back.parquet")
    assert pq.read_table(tmp_path / "back.parquet").column("status").to_pylist() == [
        "answered", "answered", "error", "answered", "unanswerable",
    ]  # fmt: skip


def test_answers_can_be_judged_in_their_place(answers: Path) -> None:
    with pytest.raises(UsageError, match="exists"):
        judge(answers, 0.5, answers)
    assert judge(answers, 0.5, answers, "--overwrite") == 0
    meta = read_answers_meta(answers)
    assert meta is not None
    assert meta.null_threshold == 0.5


def test_a_file_of_no_answers_is_refused(answers: Path, tmp_path: Path) -> None:
    pq.write_table(TYPED, tmp_path / "plain.parquet")
    with pytest.raises(InputError, match="is no answers file: give what `answer` wrote"):
        judge(tmp_path / "plain.parquet", 0, tmp_path / "new.parquet")
    with pytest.raises(UsageError, match="do not exist"):
        judge(tmp_path / "none.parquet", 0, tmp_path / "new.parquet")
    newer = pq.read_table(answers)
    meta = newer.schema.metadata[b"spanmill"].replace(b'"version":1', b'"version":2')
    pq.write_table(newer.replace_schema_metadata({"spanmill": meta}), tmp_path / "newer.parquet")
    with pytest.raises(InputError, match="has version 2 but this program reads 1: upgrade"):
        judge(tmp_path / "newer.parquet", 0, tmp_path / "new.parquet")
    assert not (tmp_path / "new.parquet").exists()


def test_damaged_answers_are_refused_and_nothing_is_left_behind(
    answers: Path, tmp_path: Path
) -> None:
    raw = bytearray(answers.read_bytes())
    raw[4:200] = b"\xff" * 196
    answers.write_bytes(raw)
    with pytest.raises(InputError, match=r"job\.parquet is damaged"):
        judge(answers, 0, tmp_path / "new.parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.parquet", "jobs"]


def test_a_place_that_cannot_be_written_is_refused(answers: Path, tmp_path: Path) -> None:
    with pytest.raises((UsageError, WorldError), match="cannot be written to"):
        judge(answers, 0, "/proc/none/new.parquet")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="is a folder: end it in /"):
        judge(answers, 0, tmp_path / "folder")
