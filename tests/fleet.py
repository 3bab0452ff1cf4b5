"""A fleet on this machine: a redis-server, a desk, and workers as real programs.

A pytest plugin: its fixture ``fleet`` gives one to each test, without workers at first.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.desk import PATIENCE_SECONDS, THRESHOLD, Desk, Ran, Started, wait_for
from tests.redis_server import RedisServer
from worker.contracts.broker import parse_broker
from worker.contracts.flight import Counts, WorkerCard
from worker.contracts.ledger import Ledger

#: A worker with a reader that some texts break: see tests.perils.
PERILOUS = ("-m", "tests.perilous_worker")


class FleetDesk:
    """What a test needs of a fleet."""

    def __init__(self, desk: Desk, server: RedisServer) -> None:
        """Take the desk and the server."""
        self.desk = desk
        self.server = server
        self.ledger = Ledger(server.broker)
        self._workers: list[subprocess.Popen[bytes]] = []

    def reopen(self, url: str) -> None:
        """Read the ledger of another database, or as another user."""
        self.ledger = Ledger(parse_broker(url))

    def start_worker(
        self,
        *words: object,
        program: tuple[str, ...] = ("-m", "producer.cli"),
        before: Sequence[str] = (),
    ) -> int:
        """Start a worker of one process, wait until it reads its queue, and return its pid."""
        known = self._names()
        pid = self.launch_worker(*words, program=program, before=before)
        wait_for(lambda: self._names() - known, "the worker is heard")
        self.wait_until_ready()
        return pid

    def launch_worker(
        self,
        *words: object,
        program: tuple[str, ...] = ("-m", "producer.cli"),
        before: Sequence[str] = (),
    ) -> int:
        """Start a worker of one process, and return its pid. ``before`` wraps its line."""
        log = self._last_log(new=True).open("wb")
        usual = ["worker", "--broker", self.server.url, "--jobs-root", str(self.desk.jobs)]
        process = subprocess.Popen(
            [*before, sys.executable, *program, *usual, "--processes", "1", *map(str, words)],
            cwd=self.desk.folder,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()
        self._workers.append(process)
        return process.pid

    def wait_until_ready(self) -> None:
        """Wait until the worker that was started last has processes."""
        path = self._last_log()
        wait_for(lambda: b" ready." in path.read_bytes(), "the worker has processes")

    def end_worker(self, pid: int) -> int:
        """Wait for a worker's end, and return its exit status."""
        (process,) = [one for one in self._workers if one.pid == pid]
        return process.wait(PATIENCE_SECONDS)

    def count_alive(self) -> int:
        """Return how many workers have not ended."""
        return sum(worker.poll() is None for worker in self._workers)

    def _last_log(self, *, new: bool = False) -> Path:
        return self.desk.folder / f"worker-{len(self._workers) - (not new)}.log"

    def words(self, *more: object, command: str = "submit") -> list[object]:
        """Return the usual `submit` command's words, and more."""
        usual = [command, "in.parquet", "--out", "out.parquet", "--bundle", self.desk.bundle]
        reading = ["--null-threshold", THRESHOLD, "--batch-rows", "4"]
        return [*usual, *reading, "--broker", self.server.url, *more]

    def start(self, *more: object) -> Started:
        return self.desk.start(*self.words(*more))

    def submit(self, *more: object) -> Ran:
        return self.desk.run(*self.words(*more))

    def run(self, command: str, *more: object) -> Ran:
        """Run a command about the only job, with the broker."""
        where = ["--jobs-root", self.desk.jobs, "--broker", self.server.url]
        return self.desk.run(command, self.desk.job(), *where, *more)

    def counts(self) -> Counts | None:
        jobs = [path.parent.name for path in self.desk.jobs.glob("*/events")]
        return self.ledger.count(jobs[0]) if jobs else None

    def workers(self) -> list[WorkerCard]:
        return self.ledger.list_workers()

    def _names(self) -> set[str]:
        return {card.worker for card in self.workers()}

    def children(self, supervisor: int) -> list[int]:
        """Return the answering processes of a worker."""
        return [child.pid for main in self.mains(supervisor) for child in _children(main)]

    def mains(self, supervisor: int) -> list[int]:
        """Return the Celery main process of a worker."""
        return [child.pid for child in _children(supervisor)]

    def wait_until_busy(self) -> Counts:
        """Wait until a batch is being answered."""
        return wait_for(lambda: (one := self.counts()) and one.busy and one, "a batch is begun")

    def log(self) -> str:
        """Return what all workers wrote."""
        return "".join(path.read_text() for path in sorted(self.desk.folder.glob("worker-*.log")))

    def kill(self, supervisor: int) -> None:
        """Kill a worker with all its processes, as a power cut does."""
        for pid in [*self.children(supervisor), *self.mains(supervisor), supervisor]:
            os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        for worker in self._workers:
            if worker.poll() is None:
                worker.kill()
            worker.wait()


@pytest.fixture
def fleet(desk: Desk, redis_server: RedisServer) -> Iterator[FleetDesk]:
    made = FleetDesk(desk, redis_server)
    yield made
    made.close()


def _children(pid: int) -> list[Any]:
    try:
        return psutil.Process(pid).children()
    except psutil.NoSuchProcess:
        return []


def _environment() -> dict[str, str]:
    foreign = {name: value for name, value in os.environ.items() if not name.startswith("SPANMILL")}
    return foreign | {"PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
