"""The Celery worker: processes that take messages, each with a model of its own.

Started by the supervisor as a program; what it is to do comes as JSON on standard input.
"""

import os
import re
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
from celery import Celery
from celery.exceptions import WorkerLostError
from celery.signals import setup_logging, task_failure, worker_process_init
from celery.utils.log import current_process_index

from worker.celery_log import log_to
from worker.contracts.broker import parse_broker
from worker.contracts.errors import SpanmillError
from worker.contracts.flight import Dying
from worker.contracts.ledger import Ledger
from worker.contracts.object_store import open_store
from worker.contracts.queue import TASK, VISIBILITY_SECONDS, make_app, name_queue, read_message
from worker.events import Event, Hear, Level, Outcome, send_to
from worker.marks import Slate
from worker.orphan import die_with
from worker.pausing import note_pause
from worker.place import Place
from worker.tools import open_tools
from worker.turn import Clerk, OpenTools

#: A lost process's batch is sent again after so long: whatever killed it may still be about.
LOST_DELAY_SECONDS = 1.0
_STDERR = 2
_EXIT = re.compile(r"(signal|exitcode) (\d+)")


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """How a worker is run; ``queues`` are the users' names of them, served in this order.

    ``events`` is the descriptor of the pipe to the supervisor.
    """

    name: str
    broker_url: str
    jobs_root: str
    queues: tuple[str, ...]
    processes: int
    hang_seconds: float = 300.0
    visibility_seconds: int = VISIBILITY_SECONDS
    supervisor_pid: int | None = None
    events: int | None = None

    @property
    def node(self) -> str:
        """The worker as Celery calls it."""
        return f"spanmill@{self.name}"


class Answering:
    """The task's body, and what the worker's main process hears of its processes' deaths."""

    def __init__(self, settings: WorkerSettings, opening: OpenTools, hear: Hear) -> None:
        """Open nothing: this is made before the fork."""
        broker = parse_broker(settings.broker_url)
        self._name = settings.name
        queues = tuple(name_queue(queue) for queue in settings.queues)
        self._place = Place(
            settings.name, broker, settings.jobs_root, settings.hang_seconds, queues
        )
        self._opening = opening
        self._hear = hear
        self._ledger = Ledger(broker)
        self._slates = [Slate() for _ in range(settings.processes)]
        self._clerk: tuple[int, Clerk] | None = None

    def answer(self, task_id: str, kwargs: Any) -> str:
        """Take a message; nothing that it holds can end this process."""
        message = read_message(kwargs)
        if message is None:
            self._hear(Event("batch", Level.WARNING, outcome=Outcome.FOREIGN))
            return Outcome.FOREIGN
        try:
            return self._open_clerk().take(message, self._name_holder(task_id))
        except SpanmillError as error:  # the broker went away: the lease lapses
            self._hear(
                Event(
                    "batch",
                    Level.WARNING,
                    message=str(error),
                    job=message.job,
                    batch=message.batch,
                    outcome=Outcome.LEFT,
                )
            )
            return Outcome.LEFT

    def bury(self, task_id: str, exception: BaseException, kwargs: Any, **_: Any) -> None:
        """Tell the ledger what a process died of; it runs in the main process."""
        message = read_message(kwargs)
        if message is None or not isinstance(exception, WorkerLostError):
            return
        found = _EXIT.search(str(exception))
        if found is None:
            return
        code = int(found[2]) * (-1 if found[1] == "signal" else 1)
        self._hear(
            Event(
                "process-lost",
                Level.ERROR,
                job=message.job,
                batch=message.batch,
                facts={"how": _name_end(code)},
            )
        )
        holder = self._name_holder(task_id)
        marks = (slate.read_dead(holder) for slate in self._slates)
        dying = Dying(
            str(code),
            LOST_DELAY_SECONDS,
            f"worker {self._name}: a process ended ({found[0]}) before it read a row: look"
            " at the worker's memory and at the job's bundle",
            next((mark for mark in marks if mark is not None), None),
        )
        with suppress(SpanmillError):  # the lease lapses
            if self._ledger.bury(message.job, message.batch, holder, dying):
                store = open_store(self._place.jobs_root)
                note_pause(self._ledger, store, message.job, dying.trouble)

    def _open_clerk(self) -> Clerk:
        if self._clerk is None or self._clerk[0] != os.getpid():
            # Processes are numbered, and who follows one that ended takes its number.
            slate = self._slates[current_process_index(0) % len(self._slates)]
            self._clerk = (os.getpid(), Clerk(self._place, self._opening, self._hear, slate))
        return self._clerk[1]

    def _name_holder(self, task_id: str) -> str:
        return f"{self._name}/{task_id}"


def make_worker_app(settings: WorkerSettings, opening: OpenTools, hear: Hear) -> Celery:
    """Return the app with its one task; what it logs becomes events, too."""
    queues = tuple(name_queue(queue) for queue in settings.queues)
    app = make_app(parse_broker(settings.broker_url), queues, settings.visibility_seconds)
    log_to(hear)
    answering = Answering(settings, opening, hear)

    def answer(task: Any, *args: Any, **kwargs: Any) -> str:  # noqa: ARG001  garbage has them
        return answering.answer(task.request.id, kwargs)

    app.task(name=TASK, bind=True)(answer)
    task_failure.connect(answering.bury, weak=False)
    worker_process_init.connect(partial(_begin_process, os.getpid()), weak=False)
    setup_logging.connect(lambda **_: None, weak=False)  # somebody did it: Celery leaves it
    return app


def main(opening: OpenTools = open_tools) -> None:
    """Run the worker until it is told to stop; ``opening`` opens what a process needs for a job."""
    settings = msgspec.json.decode(sys.stdin.buffer.read(), type=WorkerSettings)
    die_with(settings.supervisor_pid)
    make_worker_app(settings, opening, send_to(settings.events)).worker_main(
        [
            "worker",
            f"--hostname={settings.node}",
            f"--concurrency={settings.processes}",
            "--pool=prefork",
            "--without-gossip",
            "--without-mingle",
            "--loglevel=INFO",
        ]
    )


def _begin_process(main: int, **_: Any) -> None:
    """Set a new process up: it dies with its parent, and only its events are heard.

    What libraries print when a row breaks them may quote the row.
    """
    die_with(main)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, _STDERR)
    os.close(nowhere)


def _name_end(code: int) -> str:
    """Return what a process ended in, as a word."""
    if code >= 0:
        return f"exit {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


if __name__ == "__main__":
    main()
