"""One batch: every row of it gets an answer, and its shard is committed once and whole."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from tests.making import make_answer, make_stats, typed_columns, values
from tests.tiny import PASSAGES, QUESTIONS, Tiny
from worker.contracts.bundle import load_bundle
from worker.contracts.errors import JobError, WorldError
from worker.contracts.job import shard_key
from worker.contracts.options import ReadingOptions
from worker.contracts.records import Example
from worker.contracts.shard import EXAMPLE_SCHEMA, encode_payload, encode_shard, read_shard
from worker.contracts.store import LocalStore
from worker.opening import open_reader
from worker.task import Delivery, Done, Tools, run_batch
from worker.telemetry import Machine

KEY = shard_key("job", 3)
KEPT = pa.table(typed_columns())
EXAMPLES = [
    Example(10, "a", QUESTIONS[0], PASSAGES[0]),
    Example(11, "b", QUESTIONS[1], PASSAGES[1] * 12, warning="the id is null"),
    Example(12, "c", " ", PASSAGES[2]),
    Example(13, "d", QUESTIONS[2], ""),
    Example(14, "e", "", "", fault="the context is null: give it a text"),
]


@pytest.fixture
def tools(tmp_path: Path, tiny: Tiny) -> Tools:
    bundle = load_bundle(tiny.bundle())
    return Tools(
        store=LocalStore(tmp_path),
        reader=open_reader(bundle, ReadingOptions(null_threshold=None, top_k=2)),
        machine=Machine("mill", "a processor"),
        pid=7,
        bundle_digest=bundle.digest,
        provider="cpu",
    )


def make_payload(examples: Sequence[Example] = EXAMPLES, kept: pa.Table = KEPT) -> bytes:
    columns = [
        pa.array([getattr(one, field.name) for one in examples], field.type)
        for field in EXAMPLE_SCHEMA
    ]
    table = pa.Table.from_arrays(columns, schema=EXAMPLE_SCHEMA)
    for field, column in zip(kept.schema, kept.columns, strict=True):
        table = table.append_column(field, column.slice(0, len(examples)))
    return encode_payload("job", 3, table)


def deliver(**changes: object) -> Delivery:
    return replace(Delivery(1, time.time(), {}), **changes)  # type: ignore[arg-type]


def run(tools: Tools, payload: bytes | None = None, delivery: Delivery | None = None) -> Done:
    return run_batch(
        make_payload() if payload is None else payload,
        deliver() if delivery is None else delivery,
        tools,
        lambda rows: None,
    )


def read_committed(tools: Tools) -> pa.Table:
    raw = tools.store.read(KEY)
    assert raw is not None
    return read_shard(raw)[1]


def test_every_row_ends_with_a_status_and_keeps_its_columns(tools: Tools) -> None:
    done = run(tools)
    table = read_committed(tools)
    assert table.column("row").to_pylist() == [10, 11, 12, 13, 14]
    assert table.column("id").to_pylist() == list("abcde")
    assert table.column("status").to_pylist() == [
        "answered", "answered", "error", "unanswerable", "error",
    ]  # fmt: skip
    assert table.column("error").to_pylist()[4] == "the context is null: give it a text"
    assert table.column("warning").to_pylist()[1] == "the id is null"
    answered = table.select(["answer", "start_char", "end_char"]).slice(0, 2).to_pylist()
    for row, example in zip(answered, EXAMPLES, strict=False):
        assert example.context[row["start_char"] : row["end_char"]] == row["answer"] != ""
    assert values(table.select(KEPT.column_names)) == values(KEPT)
    assert done.batch == 3


def test_its_statistics_add_up(tools: Tools) -> None:
    done = run(tools, delivery=deliver(attempt=2, published_at=time.time() - 5))
    stats = done.stats
    assert stats is not None
    raw = tools.store.read(KEY)
    assert raw is not None
    meta, table = read_shard(raw)
    assert meta.stats == stats
    assert meta.first_row == 10
    assert (stats.rows, stats.answered, stats.unanswerable, stats.errors) == (5, 2, 1, 2)
    assert stats.windows == sum(table.column("windows").to_pylist()) > 2
    assert stats.tokens == stats.padded_tokens > 384
    assert 5000 <= stats.queue_ms < 60_000
    spent = stats.tokenize_ms + stats.inference_ms + stats.decode_ms
    assert 0 < spent <= stats.latency_ms - stats.queue_ms + 1
    assert table.column("latency_ms").to_pylist() == pytest.approx([stats.latency_ms] * 5)
    assert (stats.attempt, stats.host, stats.pid, stats.cpu) == (2, "mill", 7, "a processor")


def test_a_second_delivery_reads_nothing_and_changes_nothing(tools: Tools) -> None:
    run(tools)
    first = tools.store.read(KEY)
    marked: list[Sequence[int]] = []
    done = run_batch(make_payload(), deliver(attempt=2), tools, marked.append)
    assert done == Done(3, None)
    assert marked == []
    assert tools.store.read(KEY) == first


def test_of_two_deliveries_at_once_the_first_to_commit_wins(tools: Tools) -> None:
    answers = [make_answer(row) for row in range(10, 15)]
    other = encode_shard("job", answers, KEPT, make_stats(3, answers))

    def overtake(rows: Sequence[int]) -> None:
        tools.store.put_new(KEY, other)

    assert run_batch(make_payload(), deliver(), tools, overtake) == Done(3, None, in_vain=True)
    assert tools.store.read(KEY) == other


def test_a_row_that_crashed_before_is_not_read_again_and_its_neighbours_are(tools: Tools) -> None:
    fault = "reading this row ended its process: check its text"
    done = run(tools, delivery=deliver(crashes={10: fault}))
    table = read_committed(tools)
    assert table.column("error").to_pylist()[0] == fault
    assert table.column("status").to_pylist()[:2] == ["error", "answered"]
    assert table.column("id").to_pylist()[0] == "a"
    assert done.stats is not None
    assert done.stats.errors == 3


def test_a_batch_of_nothing_but_crashed_rows_ends_in_a_shard(tools: Tools) -> None:
    run(tools, delivery=deliver(crashes=dict.fromkeys(range(10, 15), "gone")))
    assert read_committed(tools).column("error").to_pylist() == ["gone"] * 5


def test_the_rows_that_are_read_are_marked_and_none_at_the_commit(tools: Tools) -> None:
    marked: list[list[int]] = []

    def mark(rows: Sequence[int]) -> None:
        assert not tools.store.exists(KEY)
        marked.append(list(rows))

    run_batch(make_payload(), deliver(), tools, mark)
    assert marked[:5] == [[10], [11], [12], [13], [14]]
    assert marked[-1] == []
    assert {row for rows in marked[5:] for row in rows} >= {10, 11}


def test_answers_are_the_same_alone(tools: Tools, tmp_path: Path) -> None:
    run(tools)
    alone = replace(tools, store=LocalStore(tmp_path / "other"))
    run(alone, delivery=deliver(alone=True))
    timed = ["latency_ms", *KEPT.column_names]
    assert read_committed(tools).drop(timed).equals(read_committed(alone).drop(timed))


def test_a_payload_that_cannot_be_read_commits_nothing(tools: Tools) -> None:
    with pytest.raises(JobError, match="payload cannot be read"):
        run(tools, payload=make_payload()[:100])
    assert not tools.store.exists(KEY)


def test_a_store_that_fails_is_the_worlds_fault(tools: Tools, tmp_path: Path) -> None:
    (tmp_path / "job").write_bytes(b"a file where the job's folder should be")
    with pytest.raises(WorldError, match="cannot write"):
        run(tools)
