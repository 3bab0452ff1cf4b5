"""Show a fleet on this machine: a broker, two workers and a producer, all real programs.

Usage: python examples/fleet_demo.py FOLDER. Then the same questions are answered without a fleet,
and both answers are compared. Nothing that this starts outlives it.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import pyarrow.parquet as pq
from redis_program import NAMED, find_redis_server

HERE = Path(__file__).parent
QUESTIONS = HERE / "questions.parquet"
WORKERS = 2
#: A worker that is told to stop lets its batches end for half a minute.
STOP_SECONDS = 60.0
START_SECONDS = 20.0
POLL_SECONDS = 0.2
#: What may differ: how long a row took.
TIMES = ["latency_ms"]


def main(folder: Path) -> int:
    """Run both, show the fleet's answers, and return 0 if they are the same."""
    sys.stdout.reconfigure(line_buffering=True)  # other programs print between our lines
    signal.signal(signal.SIGTERM, _interrupt)
    folder.mkdir(parents=True, exist_ok=True)
    fleet, alone = folder / "answers.parquet", folder / "alone.parquet"
    jobs = ["--jobs-root", folder / "spanmill-jobs"]
    usual = [QUESTIONS, "--keep", "title", "--overwrite", *jobs]
    with _start_broker() as broker, _start_workers(folder, broker) as workers:
        print(f"fleet    a broker and {WORKERS} workers; their logs are {folder}/*.log")
        _run(["submit", *usual, "--out", fleet, "--broker", broker], workers)
    print("alone    the same without a fleet")
    _run(["answer", *usual, "--out", alone])
    show = [sys.executable, HERE / "show_answers.py", fleet]
    subprocess.run([*map(str, show)], check=True)  # noqa: S603  our own program
    return _compare(fleet, alone)


@contextlib.contextmanager
def _start_broker() -> Iterator[str]:
    """Start a redis-server that nobody else can reach, and give its URL."""
    program = find_redis_server()
    if program is None:
        sys.exit(f"there is no redis-server: install Redis, or name the program in {NAMED}")
    with tempfile.TemporaryDirectory(prefix="spanmill-") as place:  # a socket's path must be short
        socket, log = Path(place) / "redis.sock", Path(place) / "redis.log"
        words = [program, "--port", 0, "--unixsocket", socket, "--dir", place, "--save", ""]
        with _running(words, log) as process:
            _wait_for(socket, process, log)
            yield f"unix://{socket}"


@contextlib.contextmanager
def _start_workers(folder: Path, broker: str) -> Iterator[list["subprocess.Popen[bytes]"]]:
    words = ["worker", "--broker", broker, "--jobs-root", folder / "spanmill-jobs"]
    with contextlib.ExitStack() as stack:
        logs = [folder / f"worker-{number + 1}.log" for number in range(WORKERS)]
        command = _spanmill([*words, "--processes", "1"])
        yield [stack.enter_context(_running(command, log)) for log in logs]
        print("fleet    done; its workers are told to stop")


@contextlib.contextmanager
def _running(words: Sequence[object], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Keep a program running, out of the terminal's reach: who stops it, and when, is us."""
    with log.open("wb") as told:
        process = subprocess.Popen(  # noqa: S603  our own programs
            [*map(str, words)], stdin=subprocess.DEVNULL, stdout=told, stderr=told,
            env=_environment(), process_group=0,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        finally:  # after a second Ctrl-C too
            process.kill()  # what it had started dies with it
            process.wait()


def _run(words: list[object], workers: Sequence["subprocess.Popen[bytes]"] = ()) -> None:
    """Run a command with its progress on this terminal, as long as the workers live."""
    with subprocess.Popen(_spanmill(words), env=_environment()) as command:  # noqa: S603  our own program
        try:
            while command.poll() is None:
                if any(worker.poll() is not None for worker in workers):
                    sys.exit("a worker ended: see its log")
                time.sleep(POLL_SECONDS)
        except BaseException:
            command.terminate()
            raise
    if command.returncode != 0:
        sys.exit(command.returncode)


def _environment() -> dict[str, str]:
    """Leave out settings for other fleets: a port of metrics is free for one program alone."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SPANMILL_")}


def _spanmill(words: list[object]) -> list[str]:
    return [*map(str, [Path(sys.executable).parent / "spanmill", *words])]


def _wait_for(socket: Path, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not socket.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"the redis-server does not start: {log.read_text()}")
        time.sleep(POLL_SECONDS)


def _compare(fleet: Path, alone: Path) -> int:
    """Compare all that a row holds, and say in how many rows it is the same."""
    one, other = (pq.read_table(path).drop_columns(TIMES).to_pylist() for path in (fleet, alone))
    same = sum(mine == yours for mine, yours in zip(one, other, strict=False))
    print(f"proof    the same answers in {same} of {max(len(one), len(other))} rows")
    return 0 if same == len(one) == len(other) else 1


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1])))
    except KeyboardInterrupt:
        sys.exit(130)
