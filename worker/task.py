"""One batch, from payload to committed shard; knows no broker.

The order: is it done already? -> encode -> score -> decode -> shard -> commit. A worker that dies
anywhere on this way leaves either no shard or a whole one.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from worker.contracts.errors import RowError
from worker.contracts.job import shard_key
from worker.contracts.records import Answer, Example, Status
from worker.contracts.shard import BatchStats, Payload, decode_payload, encode_shard
from worker.contracts.store import Store
from worker.reading.reader import Reader, Scored
from worker.reading.windows import Encoded
from worker.telemetry import Machine

MarkRows = Callable[[Sequence[int]], None]


@dataclass(frozen=True, slots=True)
class Delivery:
    """One attempt at a batch.

    ``published_at`` is in seconds since the epoch. ``crashes`` names rows, by number, that must not
    be read, and why: each of them ended a process before. ``alone`` asks for one window a run,
    after a crash that several rows may have caused.
    """

    attempt: int
    published_at: float
    crashes: Mapping[int, str]
    alone: bool = False


@dataclass(frozen=True, slots=True)
class Tools:
    """What a worker process holds ready for every batch of a job."""

    store: Store
    reader: Reader
    machine: Machine
    pid: int
    bundle_digest: str
    provider: str


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a batch. ``stats`` is None when another delivery had committed it.

    ``in_vain``: that one committed it while this one was at it.
    """

    batch: int
    stats: BatchStats | None
    in_vain: bool = False


@dataclass(frozen=True, slots=True)
class _Clock:
    """Seconds at which each stage began and ended."""

    start: float
    tokenized: float
    scored: float
    decoded: float


def run_batch(raw: bytes, delivery: Delivery, tools: Tools, mark_rows: MarkRows) -> Done:
    """Answer one batch and commit its shard.

    ``mark_rows`` hears which rows are read next, so that a crash can name its row; none while the
    shard is made and put.

    Raises:
        JobError: the payload cannot be read.
        WorldError: the store failed; nothing was committed.
    """
    started_at = time.time()
    payload = decode_payload(raw)
    key = shard_key(payload.job, payload.batch)
    if tools.store.exists(key):
        return Done(payload.batch, None)
    examples = [_spare(example, delivery.crashes) for example in payload.examples]

    def mark(chosen: Sequence[int]) -> None:
        mark_rows([examples[index].row for index in chosen])

    start = time.perf_counter()
    encoded = tools.reader.encode(examples, mark)
    tokenized = time.perf_counter()
    scored = tools.reader.score(encoded, mark, alone=delivery.alone)
    inferred = time.perf_counter()
    answers = []
    for example, windows, logits in zip(examples, encoded, scored, strict=True):
        mark_rows([example.row])
        answers.append(tools.reader.decode(example, windows, logits))
    mark_rows([])
    clock = _Clock(start, tokenized, inferred, time.perf_counter())

    counts = _count(answers, encoded, scored)
    stats = _measure(payload, delivery, tools, started_at, clock, counts)
    shard = encode_shard(payload.job, answers, payload.kept, stats)
    if not tools.store.put_new(key, shard):
        return Done(payload.batch, None, in_vain=True)
    return Done(payload.batch, stats)


def _spare(example: Example, crashes: Mapping[int, str]) -> Example:
    fault = crashes.get(example.row)
    if fault is None:
        return example
    return Example(example.row, example.id, "", "", fault, example.warning)


def _count(
    answers: Sequence[Answer],
    encoded: Sequence[Encoded | RowError],
    scored: Sequence[Scored | RowError],
) -> dict[str, int]:
    statuses = [answer.status for answer in answers]
    tokens = sum(
        len(window)
        for one, result in zip(encoded, scored, strict=True)
        if isinstance(one, Encoded) and isinstance(result, Scored) and result.logits
        for window in one.windows
    )
    padding = sum(one.padding_tokens for one in scored if isinstance(one, Scored))
    return {
        "answered": statuses.count(Status.ANSWERED),
        "unanswerable": statuses.count(Status.UNANSWERABLE),
        "errors": statuses.count(Status.ERROR),
        "windows": sum(answer.windows for answer in answers),
        "tokens": tokens,
        "padded_tokens": tokens + padding,
    }


def _measure(
    payload: Payload,
    delivery: Delivery,
    tools: Tools,
    started_at: float,
    clock: _Clock,
    counts: Mapping[str, int],
) -> BatchStats:
    return BatchStats(
        batch=payload.batch,
        rows=len(payload.examples),
        **counts,
        queue_ms=max(0.0, started_at - delivery.published_at) * 1e3,
        tokenize_ms=(clock.tokenized - clock.start) * 1e3,
        inference_ms=(clock.scored - clock.tokenized) * 1e3,
        decode_ms=(clock.decoded - clock.scored) * 1e3,
        latency_ms=max(0.0, time.time() - delivery.published_at) * 1e3,
        attempt=delivery.attempt,
        host=tools.machine.host,
        pid=tools.pid,
        started_at=datetime.fromtimestamp(started_at, UTC).isoformat(timespec="milliseconds"),
        bundle_digest=tools.bundle_digest,
        provider=tools.provider,
        cpu=tools.machine.cpu,
    )
