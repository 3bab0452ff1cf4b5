"""Keeps a worker alive, tells the broker that it is there, and sends again what was lost."""

import os
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
from worker.events import Event, Level
from worker.keeper import Duties, Keeper, Wait
from worker.observer import Observer


def supervise(
    settings: WorkerSettings, observer: Observer, wait: Wait, program: str = "worker.app"
) -> None:
    """Run a worker until ``wait``, which sleeps for so many seconds, says that it is to stop.

    ``observer`` hears what all its processes tell. ``program`` is the module that runs as the
    child.
    """
    _Supervisor(settings, observer, program).run(wait)


class _Supervisor:
    def __init__(self, settings: WorkerSettings, observer: Observer, program: str) -> None:
        self._settings = settings
        self._program = program
        self._observer = observer
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
        duties = Duties(
            module=self._program,
            brief=self._brief,
            tick=self._tick,
            lose=self._lose,
            grace_seconds=SOFT_SHUTDOWN_SECONDS + 10,
            # Celery's soft shutdown, which lets batches end for a while, has SIGQUIT for signal.
            environment={"REMAP_SIGTERM": "SIGQUIT"},
        )
        Keeper(duties, self._observer.hear).run(wait)
        with suppress(WorldError):  # it is forgotten when it is silent
            self._ledger.forget_worker(self._card.worker)

    def _brief(self, events: int) -> bytes:
        settings = replace(self._settings, supervisor_pid=os.getpid(), events=events)
        return msgspec.json.encode(settings)

    def _tick(self, main: int) -> None:
        try:
            self._ledger.hear(self._card)
            count = self._resender.resend()
            if count:
                self._observer.hear(Event("resent", facts={"batches": count}))
            self._observer.look(self._ledger, main)
        except WorldError as error:
            if not self._is_away:
                said = f"{error}; the worker goes on by itself"
                self._observer.hear(Event("broker-away", Level.WARNING, said))
            self._observer.miss_broker()
            self._is_away = True
        else:
            if self._is_away:
                self._observer.hear(Event("broker-back"))
            self._is_away = False

    def _lose(self) -> None:
        """Let others have what the child's processes had begun: they died with it."""
        with suppress(WorldError):  # the leases lapse by themselves
            self._ledger.lose(self._settings.name)
