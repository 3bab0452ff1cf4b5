"""A job in numbers: counts, quantiles of every stage, and the file of its batches' statistics."""

from array import array
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from worker.contracts.job import JobManifest
from worker.contracts.shard import BatchStats

STATS_ROWS = 4096
_STAGES = ("queue_ms", "tokenize_ms", "inference_ms", "decode_ms")


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Milliseconds that half, 95 and 99 of a hundred rows did not exceed (nearest rank)."""

    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True)
class Summary:
    """A job in numbers. ``seconds`` is from its first batch's beginning to its last one's end."""

    job: str
    rows: int
    answered: int
    unanswerable: int
    errors: int
    seconds: float
    rows_per_second: float
    latency_ms: Quantiles
    queue_ms: Quantiles
    tokenize_ms: Quantiles
    inference_ms: Quantiles
    decode_ms: Quantiles
    padding_efficiency: float
    bundle: str
    bundle_name: str
    provider: str
    output: str
    versions: dict[str, str]


class Books:
    """Counts rows and keeps one small number a batch and stage for the quantiles."""

    def __init__(self, manifest: JobManifest, path: Path) -> None:
        """Take the job, and where to write its statistics."""
        self._manifest = manifest
        self._path = path
        self._waiting: list[dict[str, Any]] = []
        self._counts = {"answered": 0, "unanswerable": 0, "error": 0}
        self._times = {name: array("f") for name in ("latency_ms", *_STAGES)}
        self._rows = array("i")
        self._tokens = self._padded_tokens = 0
        self._first, self._last = float("inf"), 0.0
        self._writer: Any = None
        #: Of the batch entered last.
        self.attempts = 1

    def __enter__(self) -> "Books":
        """Open the file of statistics."""
        self._writer = pq.ParquetWriter(self._path, _STATS_SCHEMA)
        return self

    def __exit__(self, *_: object) -> None:
        """Write what waits, and close the file."""
        self._flush()
        self._writer.close()

    def enter(self, stats: BatchStats) -> None:
        """Take in a batch's statistics; its rows come next."""
        self._waiting.append(msgspec.to_builtins(stats))
        if len(self._waiting) == STATS_ROWS:
            self._flush()
        self.attempts = stats.attempt
        for name, values in self._times.items():
            values.append(getattr(stats, name))
        self._rows.append(stats.rows)
        self._tokens += stats.tokens
        self._padded_tokens += stats.padded_tokens
        began = datetime.fromisoformat(stats.started_at).timestamp()
        self._first = min(self._first, began)
        self._last = max(self._last, began + (stats.latency_ms - stats.queue_ms) / 1e3)

    def count(self, table: pa.Table) -> None:
        """Count a batch's rows by status."""
        for status, count in zip(
            *pc.value_counts(table.column("status").cast(pa.string())).flatten(), strict=True
        ):
            self._counts[status.as_py()] += count.as_py()

    def summarize(self, output: str) -> Summary:
        """Return the job in numbers."""
        manifest = self._manifest
        seconds = max(self._last - self._first, 0.0) if self._rows else 0.0
        times = {name: self._quantiles(name) for name in self._times}
        return Summary(
            job=manifest.job,
            rows=sum(self._counts.values()),
            answered=self._counts["answered"],
            unanswerable=self._counts["unanswerable"],
            errors=self._counts["error"],
            seconds=round(seconds, 3),
            rows_per_second=round(sum(self._rows) / seconds, 2) if seconds else 0.0,
            **times,
            padding_efficiency=(
                round(self._tokens / self._padded_tokens, 4) if self._padded_tokens else 1.0
            ),
            bundle=manifest.bundle,
            bundle_name=manifest.bundle_name,
            provider=manifest.provider,
            output=output,
            versions=manifest.versions,
        )

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.Table.from_pylist(self._waiting, schema=_STATS_SCHEMA))
            self._waiting = []

    def _quantiles(self, name: str) -> Quantiles:
        """Weigh each batch by its rows: the quantiles are over rows."""
        if not self._rows:
            return Quantiles(0.0, 0.0, 0.0)
        values = np.frombuffer(self._times[name], np.float32)
        order = np.argsort(values)
        reached = np.cumsum(np.frombuffer(self._rows, np.int32)[order], dtype=np.int64)
        places = [np.searchsorted(reached, share * reached[-1]) for share in (0.5, 0.95, 0.99)]
        return Quantiles(*(round(float(values[order][place]), 3) for place in places))


def _stats_field(name: str, kind: Any) -> pa.Field:
    types = {int: pa.int64(), float: pa.float64(), str: pa.string()}
    return pa.field(name, types[kind])


_STATS_SCHEMA = pa.schema(
    [_stats_field(name, kind) for name, kind in BatchStats.__annotations__.items()]
)
