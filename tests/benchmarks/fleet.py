"""A million rows through a whole fleet past an instant reader: memory of all, rows per second.

    python -m tests.benchmarks.fleet --rows 1000000 --out bench/fleet.json

A private Redis, `spanmill submit` and one `spanmill worker` of two processes, as real programs.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import psutil  # type: ignore[import-untyped]
from redis import Redis

from tests.benchmarks.memory import FLAT_MIB, MEMORY_LIMIT_MIB, MIB, write_input
from tests.benchmarks.report import describe_conditions, format_table, write_report
from tests.making import make_bundle
from tests.redis_server import RedisServer
from tests.scraping import Scraped, scrape
from worker.contracts.broker import connect
from worker.contracts.folder import JobFolder
from worker.contracts.job import State, shard_key
from worker.contracts.ledger import Ledger
from worker.contracts.store import LocalStore

SAMPLE_SECONDS = 0.25
#: What the project promises (issue of the fleet, point 5).
RATE_TARGET = 5_000
#: The default bound of payloads in flight, and as much again for what surrounds them.
REDIS_LIMIT_MIB = 2 * 64
HOME = Path(__file__).resolve().parent.parent.parent


@dataclass
class Samples:
    """What was seen while the job ran; ``workers``: rows done, and MiB of each process by name."""

    producer_mib: float = 0.0
    redis_mib: list[float] = field(default_factory=list)
    in_flight_mib: list[float] = field(default_factory=list)
    workers: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    #: Seconds of each process, by its id, since it began.
    cpu: list[dict[int, float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Site:
    """Where it all happens."""

    folder: Path
    server: RedisServer

    @property
    def jobs(self) -> Path:
        return self.folder / "jobs"

    def start(self, program: str, *words: object, name: str) -> "subprocess.Popen[bytes]":
        with (self.folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", program, *map(str, words)],
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(HOME)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )


@contextmanager
def run_worker(site: Site, processes: int) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """Start a worker, and give it with the port of its metrics."""
    words = ["worker", "--broker", site.server.url, "--jobs-root", site.jobs]
    more = ["--processes", processes, "--metrics-port", 0, "--log-format", "json"]
    worker = site.start("tests.benchmarks.instant_worker", *words, *more, name="worker")
    try:
        log = site.folder / "worker.log"
        while b" ready." not in log.read_bytes():
            if worker.poll() is not None:
                raise SystemExit(log.read_text())
            time.sleep(SAMPLE_SECONDS)
        events = map(json.loads, log.read_text().splitlines())
        yield worker, next(one["port"] for one in events if one["event"] == "metrics-served")
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait(60)


def watch(site: Site, worker: int, producer: "subprocess.Popen[bytes]") -> Samples:
    """Sample all processes until the producer ends."""
    samples = Samples()
    redis, ledger = connect(site.server.broker), Ledger(site.server.broker)
    while producer.poll() is None:
        samples.producer_mib = max(samples.producer_mib, _peak_mib(producer.pid))
        samples.redis_mib.append(cast(Any, redis.info("memory"))["used_memory"] / MIB)
        samples.in_flight_mib.append(ledger.flight().payload_bytes / MIB)
        counts = ledger.count("bench")
        rows = 0 if counts is None else counts.rows_done
        samples.workers.append((rows, _resident_mib(worker)))
        samples.cpu.append(_cpu_seconds(producer.pid, worker))
        time.sleep(SAMPLE_SECONDS)
    return samples


def measure(site: Site, inputs: list[Path], processes: int) -> dict[str, Any]:
    """Run the job, and return what it took."""
    bundle = make_bundle(site.folder / "bundle").folder
    words = ["submit", *inputs, "--out", "answers.parquet", "--bundle", bundle, "--keep", "year"]
    where = ["--broker", site.server.url, "--jobs-root", site.jobs, "--job-id", "bench"]
    redis = connect(site.server.broker)
    idle_mib = cast(Any, redis.info("memory"))["used_memory"] / MIB
    with run_worker(site, processes) as (worker, port):
        redis_began, bytes_began = _redis_cpu_seconds(redis), _redis_bytes(redis)
        began = time.perf_counter()
        producer = site.start("producer.cli", *words, *where, "--json", name="producer")
        samples = watch(site, worker.pid, producer)
        seconds = time.perf_counter() - began
        said = (site.folder / "producer.log").read_text()
        if producer.returncode != 0:
            raise SystemExit(said)
        told = scrape(port)
        spent = _spend(samples.cpu, producer.pid, worker.pid)
        spent["redis"] = _redis_cpu_seconds(redis) - redis_began
        moved = _redis_bytes(redis) - bytes_began
    summary = json.loads(said.splitlines()[-1])
    published = _time_publishing(site)
    batches = round(told("batches_total", outcome="answered"))
    return {
        "rows": summary["rows"],
        "batches": batches,
        "processes": processes,
        "seconds": {
            "all": round(seconds, 2),
            "answer": round(summary["seconds"], 2),
            "first_to_last_shard": round(published, 2),
            "collect": round(_time_collecting(site), 2),
        },
        "rows_per_second": {
            "all": round(summary["rows"] / seconds),
            "first_to_last_shard": round(summary["rows"] / max(published, 1e-3)),
        },
        "batch_ms": _per_batch(told),
        "cpu_ms_per_batch": {
            name: round(1e3 * seconds / batches, 2) for name, seconds in spent.items()
        },
        "redis_kib_per_batch": round(moved / 1024 / batches, 1),
        "latency_ms": summary["latency_ms"],
        "memory_mib": _digest(samples, idle_mib),
    }


def _per_batch(told: Scraped) -> dict[str, float]:
    """Return means over all batches, in milliseconds."""
    names = {"whole": ("batch_duration_seconds", {})} | {
        stage: ("stage_duration_seconds", {"stage": stage})
        for stage in ("tokenize", "inference", "decode")
    }
    return {
        name: round(1e3 * told(f"{metric}_sum", **labels) / told(f"{metric}_count", **labels), 2)
        for name, (metric, labels) in names.items()
    }


def _time_publishing(site: Site) -> float:
    """Return the seconds from the first shard's commit to the last one's."""
    shards = (site.jobs / shard_key("bench", 0)).parent.parent.glob("*/*.parquet")
    times = [path.stat().st_mtime for path in shards]
    return max(times) - min(times)


def _time_collecting(site: Site) -> float:
    """Return the seconds from the job's event that says it is collecting to the last event."""
    events = JobFolder(LocalStore(site.jobs), "bench").read_events()
    begun = next(event for event in events if event.state == State.COLLECTING)
    at = [datetime.fromisoformat(event.at) for event in (begun, events[-1])]
    return (at[1] - at[0]).total_seconds()


def _cpu_seconds(*roots: int) -> dict[int, float]:
    """Return what the processes and all that they started have used so far."""
    seconds = {}
    for root in roots:
        try:
            top = psutil.Process(root)
            for one in (top, *top.children(recursive=True)):
                times = one.cpu_times()
                seconds[one.pid] = float(times.user + times.system)
        except psutil.NoSuchProcess:
            continue
    return seconds


def _redis_cpu_seconds(redis: Redis) -> float:
    info = cast(Any, redis.info("cpu"))
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


def _redis_bytes(redis: Redis) -> int:
    """Return what went in and out so far."""
    info = cast(Any, redis.info("stats"))
    return int(info["total_net_input_bytes"]) + int(info["total_net_output_bytes"])


def _spend(cpu: list[dict[int, float]], producer: int, worker: int) -> dict[str, float]:
    """Return the seconds of the producer, its start included, and of the worker meanwhile."""
    first, last = cpu[0], next(one for one in reversed(cpu) if producer in one)
    used = {pid: seconds - first.get(pid, 0.0) for pid, seconds in last.items()}
    answering = sum(seconds for pid, seconds in used.items() if pid not in (producer, worker))
    return {
        "producer": last[producer],
        "supervisor": used.get(worker, 0.0),
        "main_and_processes": answering,
    }


def _digest(samples: Samples, idle_mib: float) -> dict[str, Any]:
    busy = [sample for sample in samples.workers if sample[0] > 0]
    last = busy[-1][0]
    late = [sizes for rows, sizes in busy if rows * 4 >= last]
    return {
        "producer_and_collector_peak": round(samples.producer_mib, 1),
        "redis_idle": round(idle_mib, 1),
        "redis_peak": round(max(samples.redis_mib), 1),
        "payloads_in_flight_peak": round(max(samples.in_flight_mib), 1),
        "worker_peaks": {
            name: round(max(sizes.get(name, 0.0) for _, sizes in busy), 1)
            for name in sorted({name for _, sizes in busy for name in sizes})
        },
        "worker_growth_after_25%": round(
            max(late[-1].get(name, 0.0) - size for name, size in late[0].items()), 1
        ),
    }


def _peak_mib(pid: int) -> float:
    """Return a process's highest resident memory so far, 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    peak = next((line for line in lines if line.startswith("VmHWM:")), "VmHWM: 0 kB")
    return int(peak.split()[1]) / 1024


def _resident_mib(supervisor: int) -> dict[str, float]:
    """Return the resident memory of a worker's processes, by role and id."""
    sizes: dict[str, float] = {}
    try:
        top = psutil.Process(supervisor)
        sizes["supervisor"] = top.memory_info().rss / MIB
        for main in top.children():
            sizes["main"] = main.memory_info().rss / MIB
            for child in main.children():
                sizes[f"process {child.pid}"] = child.memory_info().rss / MIB
    except psutil.NoSuchProcess:  # it is being replaced
        return sizes
    return sizes


def judge(report: dict[str, Any]) -> dict[str, bool]:
    """Say which promises were kept."""
    memory = report["memory_mib"]
    return {
        f"producer and collector under {MEMORY_LIMIT_MIB} MiB": (
            memory["producer_and_collector_peak"] < MEMORY_LIMIT_MIB
        ),
        f"worker flat within {FLAT_MIB} MiB": memory["worker_growth_after_25%"] <= FLAT_MIB,
        f"Redis under {REDIS_LIMIT_MIB} MiB": memory["redis_peak"] < REDIS_LIMIT_MIB,
        f"{RATE_TARGET} rows/s": report["rows_per_second"]["all"] >= RATE_TARGET,
    }


def main() -> None:
    """Measure, write the report, and print what it says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--input", type=Path, help="folder to keep the generated input in")
    parser.add_argument("--out", type=Path, default=Path("bench/fleet.json"))
    asked = parser.parse_args()
    conditions = describe_conditions()
    with tempfile.TemporaryDirectory(prefix="spanmill-") as name:
        folder = Path(name)
        made = folder if asked.input is None else asked.input
        made.mkdir(parents=True, exist_ok=True)
        inputs = sorted(made.glob("*.parquet")) or write_input(made, asked.rows)
        server = RedisServer(folder)
        server.start()
        try:
            report = conditions | measure(Site(folder, server), inputs, asked.processes)
        finally:
            server.stop()
    report["kept"] = judge(report)
    write_report(report, asked.out)
    kept = [[promise, str(yes)] for promise, yes in report["kept"].items()]
    print(format_table(["promise", "kept"], kept))
    shown = (
        "seconds", "rows_per_second", "batch_ms", "cpu_ms_per_batch", "redis_kib_per_batch",
        "memory_mib",
    )  # fmt: skip
    print(json.dumps({name: report[name] for name in shown}))
    if not all(report["kept"].values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
