"""A million rows past an instant reader: memory of every process, and rows per second around it.

    python -m tests.benchmarks.memory --rows 1000000 --out bench/memory.json

Everything but the model is the real thing: scan, manifest, payloads, pipes, task, shards, collect.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import psutil  # type: ignore[import-untyped]

from producer.embedded import Processes
from producer.plan import Request, make_manifest, name_job, publish_bundle
from producer.progress import Progress
from producer.run import Run, run_job
from producer.scan import scan
from producer.source import find_files, open_source
from tests.benchmarks.instant import open_instant_tools
from tests.benchmarks.report import describe_conditions, format_table, write_report
from worker.contracts.bundle import Bundle, BundleManifest, digest_bytes, write_manifest
from worker.contracts.family import WindowSizes
from worker.contracts.folder import JobFolder
from worker.contracts.job import Columns
from worker.contracts.options import ReadingOptions
from worker.contracts.store import LocalStore
from worker.contracts.verdict import Calibration, Logistic
from worker.events import Level
from worker.settings import count_cores
from worker.telemetry import list_versions

MIB = 1024 * 1024
SAMPLE_SECONDS = 0.1
#: What the project promises (issue of the main job, point 6).
MEMORY_LIMIT_MIB = 400
RATE_TARGET = 10_000
#: Growth of an answering process from a quarter of the rows on that is still called flat.
FLAT_MIB = 16


@dataclass
class Meter:
    """Stands in for the progress bar, and knows how many rows are done."""

    rows_done: int = 0

    def __enter__(self) -> "Meter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        return

    def skip(self, rows: int) -> None:
        self.rows_done += rows

    def advance(self, rows: int, errors: int) -> None:
        self.rows_done += rows

    def say(self, line: str, event: str = "", level: Level = Level.INFO) -> None:
        print(line, file=sys.stderr)


@dataclass
class Sampler:
    """A thread that notes the resident memory of this process and of the answering ones."""

    meter: Meter
    #: (rows done, MiB of this process, MiB of each answering process by its id)
    samples: list[tuple[int, float, dict[int, float]]] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        me = psutil.Process()
        while not self._stop.wait(SAMPLE_SECONDS):
            children = {
                child.pid: _resident_mib(child) for child in me.children() if _answers(child)
            }
            self.samples.append((self.meter.rows_done, _resident_mib(me), children))

    def stop(self) -> None:
        self._stop.set()


def _resident_mib(process: psutil.Process) -> float:
    try:
        return float(process.memory_info().rss) / MIB
    except psutil.NoSuchProcess:
        return 0.0


def _answers(process: psutil.Process) -> bool:
    try:
        return any("spawn_main" in part for part in process.cmdline())
    except psutil.NoSuchProcess:
        return False


def write_input(folder: Path, rows: int) -> list[Path]:
    """Write 70 % of the rows in ordinary row groups, and the rest in a single huge one."""
    from tests.benchmarks.rows import GROUP_ROWS

    many = rows * 7 // 10
    files = [folder / "a-many-groups.parquet", folder / "b-one-group.parquet"]
    for path, *numbers in (
        (files[0], 0, many, GROUP_ROWS),
        (files[1], many, rows - many, rows),
    ):
        command = [sys.executable, "-m", "tests.benchmarks.rows", str(path), *map(str, numbers)]
        subprocess.run(command, check=True)
    return files


def make_bundle(folder: Path) -> Bundle:
    """Write a manifest without files: no reader will open it."""
    folder.mkdir()
    even = Logistic(0.0, 0.0)
    manifest = BundleManifest(
        format=1, name="instant", family="bert", language="en", sizes=WindowSizes(),
        null_threshold=0.0, calibration=Calibration(even, even), quantization="none",
        licence="Apache-2.0", files={},
    )  # fmt: skip
    write_manifest(folder, manifest)
    return Bundle(folder, manifest, digest_bytes((folder / "bundle.json").read_bytes()))


def measure(folder: Path, inputs: list[Path], workers: int) -> dict[str, Any]:
    """Run the job as `spanmill answer` does, and return what it took."""
    request = Request(
        inputs=tuple(map(str, inputs)),
        output=str(folder / "answers.parquet"),
        columns=Columns(keep=("year",)),
        reading=ReadingOptions(0.0, top_k=1),
        bundle=make_bundle(folder / "bundle"),
        provider="cpu",
        versions=list_versions(),
    )
    root = folder / "jobs"
    job = JobFolder(LocalStore(root), name_job(request))
    meter = Meter()
    sampler = Sampler(meter)
    thread = threading.Thread(target=sampler.run, daemon=True)
    thread.start()
    began = time.perf_counter()
    source = open_source(find_files(request.inputs), request.columns)
    found = scan(source, None)
    scanned = time.perf_counter()
    publish_bundle(job.store, request.bundle)
    manifest = make_manifest(request, source, found)
    job.put_manifest(manifest)
    summary = run_job(
        Run(
            folder=job,
            manifest=manifest,
            answer=Processes(workers, open_instant_tools).answer,
            max_pause_seconds=0.0,
            progress=cast(Progress, meter),
            interrupted=lambda: False,
        )
    )
    ended = time.perf_counter()
    sampler.stop()
    thread.join()
    if summary.rows != found.rows or meter.rows_done != found.rows:
        raise SystemExit(f"{found.rows} rows went in, {summary.rows} came out")
    return {
        "rows": summary.rows,
        "batches": manifest.batches,
        "workers": workers,
        "seconds": {
            "scan": round(scanned - began, 2),
            "answer": round(summary.seconds, 2),
            "all": round(ended - began, 2),
        },
        "rows_per_second": {
            "answer": round(summary.rows_per_second),
            "all": round(summary.rows / (ended - began)),
        },
        "memory_mib": _digest(sampler.samples, found.rows),
    }


def _digest(samples: list[tuple[int, float, dict[int, float]]], rows: int) -> dict[str, Any]:
    """Return the peak of this process, and each answering process at quarters of the rows."""
    answering = [sample for sample in samples if sample[2] and sample[0] > 0]
    quarters = {}
    for percent in (25, 50, 75, 100):
        reached = [sample for sample in answering if sample[0] * 100 >= rows * percent]
        chosen = reached[0] if reached else answering[-1]
        quarters[f"{percent}%"] = {
            "producer": round(chosen[1], 1),
            "answering": [round(size, 1) for _, size in sorted(chosen[2].items())],
        }
    peaks: dict[int, float] = {}
    for _, _, children in answering:
        for pid, size in children.items():
            peaks[pid] = max(peaks.get(pid, 0.0), size)
    late = [sample for sample in answering if sample[0] * 4 >= rows]
    growth = max(
        (late[-1][2].get(pid, 0.0) - size for pid, size in late[0][2].items()), default=0.0
    )
    return {
        "producer_and_collector_peak": round(_peak_mib(), 1),
        "answering_peaks": [round(size, 1) for _, size in sorted(peaks.items())],
        "answering_growth_after_25%": round(growth, 1),
        "at": quarters,
    }


def _peak_mib() -> float:
    """Return the most that this process ever held, as the kernel counted it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(line for line in lines if line.startswith("VmHWM:"))
    return int(peak.split()[1]) / 1024


def main() -> None:
    """Measure, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=count_cores())
    parser.add_argument("--input", type=Path, help="folder to keep the generated input in")
    parser.add_argument("--out", type=Path, default=Path("bench/memory.json"))
    given = parser.parse_args()
    conditions = describe_conditions()
    with tempfile.TemporaryDirectory(prefix="spanmill-memory-") as name:
        folder = Path(name)
        kept = folder if given.input is None else given.input
        kept.mkdir(parents=True, exist_ok=True)
        inputs = sorted(kept.glob("*.parquet")) or write_input(kept, given.rows)
        result = measure(folder, inputs, given.workers)
    memory = result["memory_mib"]
    result["holds"] = {
        f"producer below {MEMORY_LIMIT_MIB} MiB": (
            memory["producer_and_collector_peak"] < MEMORY_LIMIT_MIB
        ),
        "answering processes flat": memory["answering_growth_after_25%"] < FLAT_MIB,
        f"{RATE_TARGET} rows/s": result["rows_per_second"]["all"] >= RATE_TARGET,
    }
    write_report({"benchmark": "memory", **conditions, **result}, given.out)
    rows = [
        [name, str(at["producer"]), " ".join(map(str, at["answering"]))]
        for name, at in memory["at"].items()
    ]
    print(format_table(["rows done", "producer, MiB", "answering processes, MiB"], rows))
    print(json.dumps({key: result[key] for key in ("seconds", "rows_per_second", "holds")}))
    if not all(result["holds"].values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
