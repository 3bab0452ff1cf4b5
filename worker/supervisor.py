"""Keeps a worker alive, tells the broker that it is there, and sends again what was lost.

Celery 5.7's main process ends when Redis restarts while its processes are busy, and on a message
that is no JSON; so it runs as a child here, and is started again.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib import metadata

import msgspec

from worker.app import WorkerSettings
from worker.contracts.broker import parse_broker
from worker.contracts.errors import WorldError
from worker.contracts.flight import WorkerCard
from worker.contracts.ledger import Ledger
from worker.contracts.queue import SOFT_SHUTDOWN_SECONDS, WIRE_VERSION, name_queue
from worker.contracts.resend import Resender

TICK_SECONDS = 1.0
FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 15.0
#: A worker that lived so long was well: the next end of it is a new one.
WELL_SECONDS = 30.0

Say = Callable[[str], None]
Wait = Callable[[float], bool]


def supervise(settings: WorkerSettings, say: Say, wait: Wait, program: str = "worker.app") -> None:
    """Run a worker until ``wait``, which sleeps for so many seconds, says that it is to stop.

    ``program`` is the module that runs as the child.
    """
    _Supervisor(settings, say, program).run(wait)


class _Supervisor:
    def __init__(self, settings: WorkerSettings, say: Say, program: str) -> None:
        self._settings = settings
        self._program = program
        self._say = say
        broker = parse_broker(settings.broker_url)
        self._ledger = Ledger(broker)
        self._resender = Resender(broker, self._ledger)
        self._card = WorkerCard(
            settings.name,
            tuple(name_queue(queue) for queue in settings.queues),
            WIRE_VERSION,
            settings.processes,
            metadata.version("spanmill"),
        )
        self._is_away = False

    def run(self, wait: Wait) -> None:
        child, started_at, backoff = self._start(), time.monotonic(), FIRST_BACKOFF_SECONDS
        while not wait(TICK_SECONDS):
            self._tick()
            if child.poll() is None:
                continue
            if time.monotonic() - started_at > WELL_SECONDS:
                backoff = FIRST_BACKOFF_SECONDS
            self._say(f"the worker ended (exit code {child.returncode}): starting it again")
            self._lose()
            if wait(backoff):
                break
            backoff = min(2 * backoff, LONGEST_BACKOFF_SECONDS)
            child, started_at = self._start(), time.monotonic()
        self._stop(child)

    def _start(self) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(  # noqa: S603  a module of this distribution
            [sys.executable, "-m", self._program],
            stdin=subprocess.PIPE,
            # Celery's soft shutdown, which lets batches end for a while, has SIGQUIT for signal.
            env={**os.environ, "REMAP_SIGTERM": "SIGQUIT"},
            process_group=0,  # Ctrl-C reaches the whole terminal; who stops is decided here
        )
        settings = replace(self._settings, supervisor_pid=os.getpid())
        if child.stdin is not None:
            with suppress(BrokenPipeError), child.stdin:  # it has died already: that is seen later
                child.stdin.write(msgspec.json.encode(settings))
        return child

    def _tick(self) -> None:
        try:
            self._ledger.hear(self._card)
            self._resender.resend()
        except WorldError as error:
            if not self._is_away:
                self._say(f"{error}; the worker goes on by itself")
            self._is_away = True
        else:
            self._is_away = False

    def _lose(self) -> None:
        """Let others have what the child's processes had begun: they died with it."""
        with suppress(WorldError):  # the leases lapse by themselves
            self._ledger.lose(self._settings.name)

    def _stop(self, child: subprocess.Popen[bytes]) -> None:
        child.terminate()
        try:
            child.wait(SOFT_SHUTDOWN_SECONDS + 10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        self._lose()
        with suppress(WorldError):  # it is forgotten when it is silent
            self._ledger.forget_worker(self._card.worker)
