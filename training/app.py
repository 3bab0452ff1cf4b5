"""The Celery worker of trainings: one process that takes a step, and one that waits for messages.

Started by ``serve`` as a program; what it is to do comes as JSON on standard input.
"""

import mmap
import multiprocessing.process
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from celery import Celery
from celery.exceptions import WorkerLostError
from celery.signals import (
    setup_logging,
    task_failure,
    worker_process_init,
    worker_shutting_down,
)

from training.doorbell import TASK, make_training_app, read_message
from training.holds import LEASE_SECONDS
from training.progress import LOGGER
from training.tasks import Clerk, Outcome, Post
from worker.celery_log import log_to
from worker.contracts.broker import Broker
from worker.contracts.errors import SpanmillError
from worker.events import Event, Hear, Level, send_to
from worker.orphan import die_with

_STDERR = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """How a worker is run; ``data`` is where recipes' files are here, if they are elsewhere.

    ``nice`` is added to its processes' niceness. ``events`` is the descriptor of the pipe to the
    supervisor.
    """

    name: str
    broker: Broker
    runs_root: str
    data: str | None = None
    nice: int = 10
    lease_seconds: float = LEASE_SECONDS
    supervisor_pid: int | None = None
    events: int | None = None

    @property
    def node(self) -> str:
        """The worker as Celery calls it."""
        return f"training@{self.name}"

    @property
    def post(self) -> Post:
        """The place where its process works."""
        data = None if self.data is None else Path(self.data)
        return Post(self.name, self.broker, Path(self.runs_root), data, self.lease_seconds)


class Training:
    """The task's body, and what the main process hears of its child's death."""

    def __init__(self, settings: TrainingSettings, hear: Hear) -> None:
        """Open nothing that a fork would share, but the flag that says that the worker ends."""
        self._hear = hear
        self._leaving = mmap.mmap(-1, 1)
        self._clerk = Clerk(settings.post, hear, self._is_leaving)

    def take_step(self, kwargs: Any) -> str:
        """Take a message; nothing that it holds can end this process."""
        message = read_message(kwargs)
        if message is None:
            self._hear(Event("step", Level.WARNING, outcome=Outcome.FOREIGN))
            return Outcome.FOREIGN
        try:
            return self._clerk.take(message)
        except SpanmillError as error:  # the folder is away: it is rung again
            facts = {"run": message.run, "step": message.step}
            self._hear(Event("step", Level.WARNING, str(error), outcome=Outcome.LEFT, facts=facts))
            return Outcome.LEFT

    def leave(self, **_: Any) -> None:
        """Tell the process that trains to stop at the next step; it runs in the main process."""
        self._leaving[0] = 1

    def bury(self, exception: BaseException, kwargs: Any, **_: Any) -> None:
        """Say that a process died; it runs in the main process."""
        if isinstance(exception, WorkerLostError):
            message = read_message(kwargs)
            facts = {} if message is None else {"run": message.run, "step": message.step}
            told = "the process that trained ended: it is gone on with from the last checkpoint"
            self._hear(Event("process-lost", Level.ERROR, told, facts=facts))

    def _is_leaving(self) -> bool:
        return self._leaving[0] == 1


def make_worker_app(settings: TrainingSettings, hear: Hear) -> Celery:
    """Return the app with its one task; what it logs becomes events, too."""
    app = make_training_app(settings.broker)
    log_to(hear)
    LOGGER.propagate = False  # a line a step is for the metrics' file
    training = Training(settings, hear)
    main = os.getpid()
    processes: Any = multiprocessing.process
    myself = processes.current_process()

    def begin_process(**_: Any) -> None:
        die_with(main)
        # Billiard put a daemon of its own kind there, which may not start others: and those read
        # for a bundle.
        processes._current_process = myself
        nowhere = os.open(os.devnull, os.O_WRONLY)  # what libraries print may quote a row
        os.dup2(nowhere, _STDERR)
        os.close(nowhere)

    def take_step(*args: Any, **kwargs: Any) -> str:  # noqa: ARG001  garbage has them
        return training.take_step(kwargs)

    app.task(name=TASK)(take_step)
    task_failure.connect(training.bury, weak=False)
    worker_shutting_down.connect(training.leave, weak=False)
    worker_process_init.connect(begin_process, weak=False)
    setup_logging.connect(lambda **_: None, weak=False)  # somebody did it: Celery leaves it
    return app


def main() -> None:
    """Run the worker until it is told to stop."""
    settings = msgspec.json.decode(sys.stdin.buffer.read(), type=TrainingSettings)
    die_with(settings.supervisor_pid)
    os.nice(settings.nice)
    make_worker_app(settings, send_to(settings.events)).worker_main(
        [
            "worker",
            f"--hostname={settings.node}",
            "--concurrency=1",
            "--pool=prefork",
            "--without-gossip",
            "--without-mingle",
            "--loglevel=INFO",
        ]
    )


if __name__ == "__main__":
    main()
