"""The compose file's services as processes of this machine, each with its line and environment.

A pytest plugin: its fixture ``stack`` gives a broker that runs, and the rest to start. Places in a
container become places here; nothing else is changed.
"""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from examples.redis_program import find_redis_server
from tests.deploy.composed import HOME, fill_places, read_services
from tests.desk import PATIENCE_SECONDS, Desk, Ran, wait_for

#: What passwords may hold, and what a shell, a URL or a line of settings would trip over.
PASSWORD = "p@ss:w/rd #>%41 'é\" $HOME"
#: A user for tests alone: reads what the broker has refused to the fleet.
WARDEN = "warden"


class Stack:
    """What a test needs of the services."""

    def __init__(self, desk: Desk, folder: Path) -> None:
        """Lay the secret out; ``folder`` is the broker's."""
        self.desk = desk
        self.secret = folder / "secret"
        self.secret.write_text(f"{PASSWORD}\n")
        desk.jobs.mkdir()  # a volume is there before its first job
        self.port = find_port()
        self._folder = folder
        self._services = read_services()
        self._running: list[subprocess.Popen[bytes]] = []
        self.places = {
            "/run/secrets/broker_password": str(self.secret),
            "/etc/spanmill": str(HOME / "deploy" / "redis"),
            "redis://redis:6379": f"redis://127.0.0.1:{self.port}",
            "/jobs": str(desk.jobs),
            "/runs": str(desk.folder / "runs"),
            "/data": str(desk.folder),
            "9108": "0",  # all of them are one host here: any free port
        }

    @property
    def client(self) -> Redis:
        return Redis(port=self.port, password=PASSWORD, decode_responses=True)

    def list_refused(self) -> set[str]:
        """Return the commands that the broker has refused since it was asked last."""
        warden = Redis(port=self.port, username=WARDEN, password=WARDEN, decode_responses=True)
        refused = {entry["object"] for entry in warden.acl_log()}
        warden.acl_log_reset()
        return refused

    def start(self, name: str) -> "subprocess.Popen[bytes]":
        """Start a service's command; its log lies on the desk."""
        words = self._words(self._services[name].words())
        if name == "redis":
            words += ["--port", str(self.port), "--bind", "127.0.0.1"]
            words += f"--user {WARDEN} on >{WARDEN} +acl".split()
        with self.log(name).open("ab") as log:
            process = subprocess.Popen(
                words,
                cwd=self._folder,
                env=self.environment(name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._running.append(process)
        return process

    def check(self, name: str) -> bool:
        """Run a service's health check as it is; whether it says that all is well."""
        words = self._words(self._services[name].check_words())
        if name == "redis":
            words += ["-p", str(self.port)]
        return self._finish(words, name).status == 0

    def run(self, name: str, *instead: object) -> Ran:
        """Run a service to its end, as `docker compose run` does, with other words."""
        words = self._services[name].words(*map(str, instead))
        return self._finish(self._words(words), name)

    def environment(self, name: str) -> dict[str, str]:
        """Return a service's environment, with the programs of Redis on its PATH."""
        found = self._services[name].environment(self.places)
        program = find_redis_server()
        assert program is not None
        return found | {"PATH": f"{Path(program).parent}{os.pathsep}{found['PATH']}"}

    def log(self, name: str) -> Path:
        return self.desk.folder / f"{name}.log"

    def close(self) -> None:
        for process in reversed(self._running):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _words(self, words: list[str]) -> list[str]:
        return [fill_places(word, self.places) for word in words]

    def _finish(self, words: list[str], name: str) -> Ran:
        done = subprocess.run(
            words,
            cwd=self.desk.folder,
            env=self.environment(name),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Ran(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def stack(desk: Desk, redis_folder: Path) -> Iterator[Stack]:
    made = Stack(desk, redis_folder)
    made.start("redis")
    wait_for(lambda: made.check("redis"), "the broker lets the fleet in")
    yield made
    made.close()


def find_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
