"""What a call costs the broker in the middle of a job of 10⁹ rows on 200 workers, and its memory.

    python -m tests.benchmarks.ledger --out bench/ledger.json

Milliseconds of Redis' own processor time a call, with 400 batches begun and 112 that wait.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from tests.benchmarks.report import describe_conditions, format_table, write_report
from tests.redis_server import RedisServer
from worker.contracts import scripts
from worker.contracts.broker import connect
from worker.contracts.flight import MAX_BATCHES, About, Room, WorkerCard
from worker.contracts.ledger import Ledger

BATCHES = 3_906_250
WORKERS, PROCESSES = 200, 400
QUEUE, JOB = "spanmill-default-v1", "bench"
FIRST = BATCHES // 2
PAYLOAD_BYTES = 1000
#: Long enough for messages to be suspected of being lost, which they are not.
WAITED_SECONDS = 12.0


def fill(ledger: Ledger) -> list[WorkerCard]:
    """Put the broker into the middle of the job, and return its workers."""
    ledger.open_job(About(JOB, QUEUE, "token", "now", BATCHES))
    ledger.recount(JOB, [(BATCHES - 1, 256, 0)])
    for batch in range(FIRST, FIRST + MAX_BATCHES):
        ledger.admit(JOB, batch, bytes(PAYLOAD_BYTES), Room())
    for batch in range(FIRST, FIRST + PROCESSES):
        ledger.begin(JOB, batch, f"holder-{batch}")
    redis = connect(ledger.broker)
    sent_at = time.time() - WAITED_SECONDS
    for batch in range(FIRST + PROCESSES, FIRST + MAX_BATCHES):
        redis.zadd(scripts.WAITING, {f"{JOB}:{batch}": sent_at})
        redis.lpush(QUEUE, "a message")
    redis.hset(scripts.BEGUN, QUEUE, str(sent_at))
    cards = [WorkerCard(f"worker-{n}", (QUEUE,), 1, 2, "0.1.0") for n in range(WORKERS)]
    for card in cards:
        ledger.hear(card)
    return cards


def measure(ledger: Ledger) -> dict[str, Any]:
    """Return milliseconds a call, and bytes."""
    cards = fill(ledger)
    calls: dict[str, Callable[[int], object]] = {
        "lapsed": lambda _: ledger.lapsed(),
        "hear": lambda n: ledger.hear(cards[n]),
        "renew": lambda n: ledger.renew(JOB, FIRST + n, f"holder-{FIRST + n}"),
        "count": lambda _: ledger.count(JOB),
        "flight": lambda _: ledger.flight(),
        "list_workers": lambda _: ledger.list_workers(),
    }
    redis = connect(ledger.broker)
    cost = {}
    for name, call in calls.items():
        before = _cpu_seconds(redis)
        for number in range(WORKERS):
            call(number)
        cost[name] = round(1e3 * (_cpu_seconds(redis) - before) / WORKERS, 3)
    return {
        "cpu_ms_per_call": cost,
        "done_bytes": redis.memory_usage(f"{scripts.PREFIX}:{{{JOB}}}:done"),
        "used_bytes_without_payloads": (
            cast(Any, redis.info("memory"))["used_memory"] - ledger.in_flight_bytes()
        ),
    }


def _cpu_seconds(redis: Any) -> float:
    info = redis.info("cpu")
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


def main() -> None:
    """Measure, write the report, and print what it says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench/ledger.json"))
    asked = parser.parse_args()
    conditions = describe_conditions()
    with tempfile.TemporaryDirectory(prefix="spanmill-") as name:
        server = RedisServer(Path(name))
        server.start()
        try:
            report = conditions | measure(Ledger(server.broker))
        finally:
            server.stop()
    write_report(report, asked.out)
    rows = [[name, f"{cost:.3f}"] for name, cost in report["cpu_ms_per_call"].items()]
    print(format_table(["call", "ms"], rows))
    print({name: report[name] for name in ("done_bytes", "used_bytes_without_payloads")})


if __name__ == "__main__":
    main()
