"""The books: counts and times of a whole job, from a few numbers a batch."""

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from producer import books as books_module
from producer.books import Books, Quantiles, Summary
from tests.making import make_answer, make_manifest, make_stats
from worker.contracts.records import Status
from worker.contracts.shard import BatchStats, make_answer_table

ANSWERS = [make_answer(0), make_answer(1, Status.UNANSWERABLE), make_answer(2, Status.ERROR)]


def keep(path: Path, *stats: BatchStats, **manifest: Any) -> Summary:
    with Books(make_manifest("job", "/o", 9, 9, **manifest), path / "stats.parquet") as books:
        for one in stats:
            books.enter(one)
            books.count(make_answer_table(ANSWERS, one.latency_ms))
        return books.summarize("/o")


def slow_quantile(weighted: list[tuple[float, int]], percent: int) -> float:
    """Return the nearest rank: the least value that so many of a hundred rows do not exceed."""
    rows = sorted(value for value, count in weighted for _ in range(count))
    return rows[math.ceil(len(rows) * percent / 100) - 1]


batches = st.lists(
    st.tuples(st.integers(0, 4000).map(lambda eighths: eighths / 8), st.integers(1, 50)),
    min_size=1,
    max_size=40,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches)
def test_quantiles_are_over_rows_not_batches(
    tmp_path: Path, weighted: list[tuple[float, int]]
) -> None:
    stats = [
        make_stats(number, ANSWERS, rows=rows, latency_ms=value, queue_ms=value / 2)
        for number, (value, rows) in enumerate(weighted)
    ]
    summary = keep(tmp_path, *stats)
    expected = Quantiles(*(slow_quantile(weighted, percent) for percent in (50, 95, 99)))
    assert summary.latency_ms == expected
    halves = [(value / 2, rows) for value, rows in weighted]
    assert summary.queue_ms == Quantiles(
        *(round(slow_quantile(halves, percent), 3) for percent in (50, 95, 99))
    )


def test_a_summary_counts_rows_and_measures_from_the_first_begin_to_the_last_end(
    tmp_path: Path,
) -> None:
    summary = keep(
        tmp_path,
        make_stats(1, ANSWERS, started_at="2026-01-02T03:04:06.000+00:00"),
        make_stats(0, ANSWERS, started_at="2026-01-02T03:04:05.000+00:00"),
    )
    assert (summary.rows, summary.answered, summary.unanswerable, summary.errors) == (6, 2, 2, 2)
    assert summary.seconds == pytest.approx(1.02)
    assert summary.rows_per_second == pytest.approx(6 / 1.02, abs=0.01)
    assert summary.padding_efficiency == 0.8
    assert (summary.tokenize_ms.p50, summary.inference_ms.p99, summary.decode_ms.p95) == (4, 12, 4)
    assert (summary.job, summary.bundle_name, summary.provider, summary.output) == (
        "job", "tiny", "cpu", "/o",
    )  # fmt: skip


def test_a_job_of_no_rows_has_a_summary_too(tmp_path: Path) -> None:
    summary = keep(tmp_path)
    assert (summary.rows, summary.seconds, summary.rows_per_second) == (0, 0.0, 0.0)
    assert summary.latency_ms == Quantiles(0.0, 0.0, 0.0)
    assert summary.padding_efficiency == 1.0
    assert pq.read_table(tmp_path / "stats.parquet").num_rows == 0


def test_every_batch_is_a_row_of_the_statistics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(books_module, "STATS_ROWS", 2)
    stats = [make_stats(number, ANSWERS, attempt=number) for number in range(5)]
    keep(tmp_path, *stats)
    table = pq.read_table(tmp_path / "stats.parquet")
    assert table.to_pylist() == [asdict(one) for one in stats]
    assert table.schema.names == [
        "batch", "rows", "answered", "unanswerable", "errors", "windows", "tokens",
        "padded_tokens", "queue_ms", "tokenize_ms", "inference_ms", "decode_ms", "latency_ms",
        "attempt", "host", "pid", "started_at", "bundle_digest", "provider", "cpu",
    ]  # fmt: skip
    assert table.schema.field("rows").type == pa.int64()
    assert table.schema.field("queue_ms").type == pa.float64()
