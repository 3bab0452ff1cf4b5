"""A user's desk: a folder, the `spanmill` command as a real program, and what it left there.

A pytest plugin: its fixture ``desk`` gives a fresh one to each test. Nothing is replaced: commands
are processes, and answers come from a tiny real bundle.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.tiny import PASSAGES, QUESTIONS, Tiny

HOME = Path(__file__).resolve().parent.parent
ROWS = 48
#: Between the null odds of the rows below: some are answered, some are not.
THRESHOLD = "-3.3"
PATIENCE_SECONDS = 120.0
POLL_SECONDS = 0.005

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended, and what it printed."""

    status: int
    out: str
    err: str

    def json(self) -> Any:
        """Return what it printed for programs."""
        return json.loads(self.out)

    def complaint(self) -> str:
        """Return its one sentence of complaint, and check that it is one."""
        lines = [line for line in self.err.splitlines() if not line.startswith("spanmill: warning")]
        assert len(lines) == 1, self.err
        assert lines[0].startswith("spanmill: error: "), self.err
        sentence = lines[0].removeprefix("spanmill: error: ")
        assert ": " in sentence, f"it does not say what to do: {sentence}"
        assert "unexpected" not in sentence, sentence
        return sentence


@dataclass(frozen=True, slots=True)
class Started:
    """A running command, and the files that it prints to."""

    process: "subprocess.Popen[bytes]"
    out: Path
    err: Path

    def finish(self) -> Ran:
        """Wait for its end, and check that it printed no traceback."""
        try:
            status = self.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        err = self.err.read_text()
        assert "Traceback" not in err, err
        return Ran(status, self.out.read_text(), err)

    def kill(self) -> None:
        """End it with SIGKILL: it alone, not its children."""
        self.process.kill()
        self.process.wait()

    def interrupt(self, number: signal.Signals = signal.SIGINT) -> None:
        """Send a signal to it and its children, as a terminal does."""
        os.killpg(self.process.pid, number)

    def answering(self) -> list[psutil.Process]:
        """Return its answering processes."""
        children = psutil.Process(self.process.pid).children()
        return [one for one in children if any("spawn_main" in word for word in one.cmdline())]


class Desk:
    """A folder to work in. Paths are relative to it unless they are absolute."""

    def __init__(self, folder: Path, bundle: Path) -> None:
        """Lay an input on the desk."""
        self.folder = folder
        self.bundle = bundle
        self.jobs = folder / "spanmill-jobs"
        self._started: list[Started] = []
        self._said = folder.parent / f"{folder.name}-said"
        self._said.mkdir()
        self.write(make_rows(ROWS))

    def write(self, rows: Sequence[Row], name: str = "in.parquet") -> Path:
        """Write rows as Parquet."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
        return path

    def start(
        self,
        *words: object,
        program: Sequence[str] = ("-m", "producer.cli"),
        before: Sequence[str] = (),
        env: dict[str, str] | None = None,
    ) -> Started:
        """Start a command in a process group of its own. ``before`` wraps the program's line."""
        number = len(self._started)
        out, err = self._said / f"{number}.out", self._said / f"{number}.err"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            process = subprocess.Popen(
                [*before, sys.executable, *program, *map(str, words)],
                cwd=self.folder,
                env=_environment() | ({} if env is None else env),
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
                preexec_fn=_hear_interrupts,  # noqa: PLW1509  no threads here
            )
        self._started.append(Started(process, out, err))
        return self._started[-1]

    def clear(self) -> None:
        """End what a failed test left running."""
        for one in self._started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(one.process.pid, signal.SIGKILL)
            one.process.wait()

    def run(self, *words: object, **how: Any) -> Ran:
        """Run a command to its end."""
        return self.start(*words, **how).finish()

    def words(self, *more: object, source: object = "in.parquet") -> list[object]:
        """Return the usual `answer` command's words, and more."""
        usual = ["answer", source, "--out", "out.parquet", "--bundle", self.bundle]
        return [*usual, "--null-threshold", THRESHOLD, "--batch-rows", "4", "--workers", "1", *more]

    def answer(self, *more: object, source: object = "in.parquet", **how: Any) -> Ran:
        """Run the usual `answer` command, with more words."""
        return self.run(*self.words(*more, source=source), **how)

    def table(self, name: str = "out.parquet") -> pa.Table:
        """Return an answers file."""
        return pq.read_table(self.folder / name)

    def answers(self, name: str = "out.parquet") -> list[Row]:
        """Return an answers file's rows, without what differs from run to run."""
        return self.table(name).drop_columns(["latency_ms"]).to_pylist()

    def job(self) -> str:
        """Return the only job's id."""
        found = [path.parent.name for path in self.jobs.glob("*/events")]
        assert len(found) == 1, found
        return found[0]

    def states(self, job: str | None = None) -> list[str]:
        """Return a job's states, oldest first."""
        folder = self.jobs / (self.job() if job is None else job) / "events"
        return [path.stem.split("-", 1)[1] for path in sorted(folder.glob("*.json"))]

    def shards(self) -> dict[str, tuple[int, int]]:
        """Return all shards' names, each with its inode and time of change."""
        found = self.jobs.glob("*/shards/*/*.parquet")
        return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}

    def files(self) -> set[str]:
        """Return all names on the desk."""
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*")}


@pytest.fixture
def desk(tmp_path: Path, tiny: Tiny) -> Iterator[Desk]:
    """Give a desk with an input of some dozen rows."""
    given = Desk(tmp_path, tiny.bundle())
    yield given
    given.clear()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> list[Row]:
    """Give the answers to a desk's input, as one undisturbed run wrote them."""
    quiet = Desk(tmp_path_factory.mktemp("undisturbed"), tiny.bundle())
    ran = quiet.answer()
    assert ran.status == 0, ran.err
    return quiet.answers()


def make_rows(count: int) -> list[Row]:
    """Return rows with ids, questions, contexts and a number to keep."""
    return [
        {
            "id": f"q{number}",
            "question": QUESTIONS[number % len(QUESTIONS)],
            "context": f"{PASSAGES[number // 3 % len(PASSAGES)]} Note {number}.",
            "number": number,
        }
        for number in range(count)
    ]


def wait_for(
    condition: Callable[[], Any],
    what: str,
    seconds: float = PATIENCE_SECONDS,
    poll_seconds: float = POLL_SECONDS,
) -> Any:
    """Poll until a condition holds, and return what it gave."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(poll_seconds)
    raise AssertionError(f"in vain: {what}")


def _hear_interrupts() -> None:
    """Undo what a shell does to what it starts in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _environment() -> dict[str, str]:
    """Return this process's environment without what would change a command, or slow it down."""
    foreign = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("SPANMILL") and name != "PYTHONDONTWRITEBYTECODE"
    }
    return foreign | {"PYTHONPATH": str(HOME)}
