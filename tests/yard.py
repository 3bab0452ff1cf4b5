"""A training yard: a recipe of seconds with its data, a broker, and training workers as programs.

A pytest plugin: its fixture ``yard`` gives one to each test, without workers at first.
"""

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import psutil
import pytest

from producer.cli import main
from tests.desk import HOME, Ran, wait_for
from tests.redis_server import RedisServer
from tests.tiny import Tiny
from training.run_state import OVER, RunFolder, RunState
from training.run_status import RunStatus, read_status
from worker.contracts.broker import Broker, parse_broker

RECIPE = """
name = "towns"
encoder = { name = "nobody/no-such-encoder", licence = "CC0-1.0" }

[held_out]
files = ["towns"]
share = 0.3
seed = 1

[data]
towns = { licence = "CC0-1.0" }

[steps.first]
kind = "finetune"
stages = [{ rows = ["towns"], epochs = 24 }]

[steps.first.schedule]
batch_windows = 8
learning_rate = 1e-3
precision = "no"
dropout = 0.1
checkpoint_every_steps = 20

[card]
licence = "CC0-1.0"
summary = "Nonsense, for tests."
limits = ["It knows nothing."]
"""
#: For the recipe that ends in a bundle.
BUNDLE = """
[steps.bundle]
kind = "bundle"
start = "step:first"

"""
#: Generous: a process that trains takes seconds to begin, and the machine may be busy.
SECONDS = 240.0
#: So short that a test can wait for its end, so long that a busy machine renews it.
LEASE_SECONDS = 12


class Yard:
    """What a test needs of trainings in a fleet."""

    def __init__(self, folder: Path, server: RedisServer, encoder: Path) -> None:
        """Lay recipe and data out."""
        self.folder, self.server, self.encoder = folder, server, encoder
        self.data = folder / "data"
        self.runs = folder / "runs"
        self.url = f"{server.url}?db=1"
        lay_out(folder)
        self._workers: list[subprocess.Popen[bytes]] = []

    @property
    def broker(self) -> Broker:
        return parse_broker(self.url)

    def run(self, name: str = "towns") -> RunFolder:
        return RunFolder(self.runs / name)

    def status(self, name: str = "towns") -> RunStatus:
        return read_status(self.run(name))

    def weights(self, name: str = "towns", step: str = "first") -> bytes:
        """Return a step's best weights."""
        return (self.runs / name / step / "best" / "model.safetensors").read_bytes()

    def kept(self) -> tuple[int, int]:
        """Return at which step the newest checkpoint is, and the newest metrics."""
        folder = self.runs / "towns" / "first"
        progress = json.loads((folder / "latest" / "progress.json").read_text())
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        return progress["step"], json.loads(lines[-1])["step"]

    def count_holders(self) -> int:
        return len(list((self.runs / "towns" / "fences").iterdir()))

    def snapshot(self) -> dict[str, tuple[int, int]]:
        """Return all that a run keeps, each with its inode and time of change."""
        files = [one for one in (self.runs / "towns").rglob("*") if one.is_file()]
        seen = {str(one): (one.stat().st_ino, one.stat().st_mtime_ns) for one in files}
        return {name: seen[name] for name in seen if "/fences/" not in name and "/." not in name}

    def start_worker(self, *words: object) -> int:
        """Start a worker, and return its pid."""
        log = self._log(len(self._workers)).open("wb")
        usual = ["--broker", self.url, "--runs-root", str(self.runs), "--nice", "0"]
        lease = ["--lease-seconds", str(LEASE_SECONDS)]
        process = subprocess.Popen(
            [sys.executable, "-m", "producer.cli", "training", "worker", *usual, *lease,
             *map(str, words)],
            cwd=self.folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )  # fmt: skip
        log.close()
        self._workers.append(process)
        return process.pid

    def command(self, *words: object) -> Ran:
        """Run a command of `spanmill training` to its end, in this process: torch loads slowly."""
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
            main(["training", *map(str, words)])
        return Ran(int(str(ended.value.code)), out.getvalue(), err.getvalue())

    def submit(self, *more: object, recipe: str = "towns") -> Ran:
        """Submit the recipe of one step, or ``whole``, that ends in a bundle."""
        return self.command(
            "submit", self.folder / f"{recipe}.toml", "--runs-root", self.runs,
            "--data-dir", self.data, "--encoder", self.encoder, "--broker", self.url, *more,
        )  # fmt: skip

    def begin(self, *more: object) -> int:
        """Submit the recipe of one step, start a worker, and return its pid once it has learned."""
        ran = self.submit(*more)
        assert ran.status == 0, ran.err
        worker = self.start_worker()
        self.wait_for_step(25)
        return worker

    def wait_for_step(self, number: int) -> None:
        """Wait until so many steps were learned, while the run goes on."""

        def is_there() -> bool:
            status = self.status()
            assert status.state not in OVER, (status, self.log())
            return status.position is not None and status.position >= number

        wait_long(is_there, f"it is at {number}")

    def wait_until(self, state: RunState, name: str = "towns") -> RunStatus:
        """Wait until a run is in a state."""
        wait_long(lambda: self.status(name).state == state, f"the run is {state}")
        return self.status(name)

    def wait_for_log(self, words: str) -> None:
        wait_long(lambda: words in self.log(), f"a worker says: {words}")

    def trainers(self, supervisor: int) -> list[int]:
        """Return the processes of a worker that take steps."""
        return [child.pid for main in _children(supervisor) for child in _children(main.pid)]

    def kill(self, supervisor: int) -> None:
        """Kill a worker with all its processes, as a power cut does."""
        mains = [child.pid for child in _children(supervisor)]
        for pid in [*self.trainers(supervisor), *mains, supervisor]:
            os.kill(pid, signal.SIGKILL)
        self.end(supervisor)

    def stop(self, supervisor: int) -> None:
        """Tell a worker to stop, and see that it does so well."""
        os.kill(supervisor, signal.SIGTERM)
        assert self.end(supervisor) == 0

    def end(self, pid: int) -> int:
        """Wait for a worker's end, and return its exit status."""
        (process,) = [one for one in self._workers if one.pid == pid]
        return process.wait(SECONDS)

    def log(self) -> str:
        """Return what all workers wrote."""
        return "".join(self._log(number).read_text() for number in range(len(self._workers)))

    def close(self) -> None:
        for worker in self._workers:
            if worker.poll() is None:
                self.kill(worker.pid)

    def _log(self, number: int) -> Path:
        return self.folder / f"trainer-{number}.log"


def lay_out(folder: Path) -> None:
    """Write the recipe and its data into a folder."""
    (folder / "towns.toml").write_text(RECIPE)
    (folder / "whole.toml").write_text(RECIPE.replace('"towns"', '"whole"', 1) + BUNDLE)
    (folder / "data").mkdir()
    lines = []
    for number in range(40):
        text = f"Was the mill of town {number} built by Joan in {1700 + number}? "
        start = text.index("Joan")
        found: tuple[dict[str, Any], ...] = (
            {"text": ["Joan"], "answer_start": [start]},
            {"text": [], "answer_start": []},
        )
        for part, answers in enumerate(found):
            asked = f"Who is it that built the mill of {number}, {part}?"
            line = {"id": f"{number}-{part}", "question": asked, "context": text}
            lines.append(json.dumps(line | {"answers": answers}))
    (folder / "data" / "towns.jsonl").write_text("\n".join(lines))


def environment() -> dict[str, str]:
    """Return the environment of all that trains: one thread, for sums in a fixed order."""
    foreign = {name: value for name, value in os.environ.items() if not name.startswith("SPANMILL")}
    return foreign | {"PYTHONPATH": str(HOME), "OMP_NUM_THREADS": "1"}


def wait_long(condition: Any, what: str) -> None:
    wait_for(condition, what, SECONDS, 0.05)


@pytest.fixture
def yard(tmp_path: Path, redis_server: RedisServer, tiny: Tiny) -> Iterator[Yard]:
    made = Yard(tmp_path, redis_server, tiny.checkpoint("bert"))
    yield made
    made.close()


def _children(pid: int) -> list[Any]:
    try:
        return psutil.Process(pid).children()
    except psutil.NoSuchProcess:
        return []
