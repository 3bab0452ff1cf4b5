"""Keeps a training worker alive, heard at the broker, and rings for runs that wait."""

import os
import time
from contextlib import suppress
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import msgspec

from training.app import TrainingSettings
from training.doorbell import QUEUE, WIRE_VERSION, Bell
from worker.contracts.errors import WorldError
from worker.contracts.flight import WorkerCard
from worker.contracts.ledger import Ledger
from worker.contracts.queue import WORKER_KEYS, name_channel
from worker.events import Event, Level
from worker.keeper import Duties, Keeper, Wait
from worker.log import Log

#: How often a worker looks for runs that wait and were not rung for.
LOOK_SECONDS = 5.0


class Supervisor:
    """Keeps the worker running, says that it is there, and rings for runs that wait."""

    def __init__(self, settings: TrainingSettings, log: Log) -> None:
        """Connect to nothing yet."""
        self._settings, self._log = settings, log
        self._ledger = Ledger(settings.broker)
        self._bell = Bell(settings.broker, Path(settings.runs_root))
        release = metadata.version("spanmill")
        self._card = WorkerCard(settings.name, (QUEUE,), WIRE_VERSION, 1, release)
        self._looked_at = 0.0
        self._is_away = False

    def run(self, wait: Wait, grace_seconds: float) -> None:
        """Run until ``wait`` says that it is to stop; that may take so long.

        Raises:
            UsageError: the broker refuses.
        """
        self._greet()
        duties = Duties(
            module="training.app",
            brief=self._brief,
            tick=self._tick,
            grace_seconds=grace_seconds,
        )
        Keeper(duties, self._log.write).run(wait)
        with suppress(WorldError):  # it is forgotten when it is silent
            self._ledger.forget_worker(self._card.worker)
        self._log.write(Event("worker-stopped"))

    def _greet(self) -> None:
        """Check the broker. One that is away is waited for; one that refuses ends the worker."""
        broker = self._settings.broker
        try:
            self._ledger.check(WORKER_KEYS, name_channel(broker))
        except WorldError as error:
            told = f"{error}; the worker waits for it"
            self._log.write(Event("broker-away", Level.WARNING, told))
        facts: dict[str, str | int | float] = {
            "worker": self._settings.name,
            "release": self._card.release,
            "queue": QUEUE,
            "broker": broker.name,
            "runs_root": self._settings.runs_root,
        }
        self._log.write(Event("worker-started", facts=facts))

    def _brief(self, events: int) -> bytes:
        settings = replace(self._settings, supervisor_pid=os.getpid(), events=events)
        return msgspec.json.encode(settings)

    def _tick(self, main: int) -> None:  # noqa: ARG002
        try:
            self._ledger.hear(self._card)
            if time.monotonic() - self._looked_at > LOOK_SECONDS:
                self._looked_at = time.monotonic()
                for run in self._bell.ring_again():
                    self._log.write(Event("resent", facts={"run": run}))
        except WorldError as error:
            if not self._is_away:
                said = f"{error}; the worker goes on by itself"
                self._log.write(Event("broker-away", Level.WARNING, said))
            self._is_away = True
        else:
            if self._is_away:
                self._log.write(Event("broker-back"))
            self._is_away = False
