"""The message that a step of a run waits, the queue it travels on, and who rings again.

A message says nothing that the run's folder does not say; whichever is lost is sent again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from training.run_state import RunFolder, RunState, check_name, list_runs
from worker.contracts.broker import Broker, connect, translate
from worker.contracts.errors import SpanmillError, WorldError
from worker.contracts.queue import make_app
from worker.contracts.root import name_root, read_root
from worker.contracts.store import LocalStore

TASK = "spanmill.training.take_step"
#: The version of the message, which the queue's name holds as well.
WIRE_VERSION = 1
QUEUE = f"spanmill.training.v{WIRE_VERSION}"
#: What waits unheard for so long is rung for again, unless enough messages wait in the queue.
AGAIN_SECONDS = 15
_SENT = "spanmill.training:sent"
_UNACKED = "spanmill.training:unacked"

#: How Celery delivers, where that differs from how it delivers batches.
POLICY: dict[str, Any] = {
    # Acknowledged when it is taken: no timeout of the transport may deliver hours of work twice.
    # Who holds the run is in its folder, and so is what is left to do.
    "task_acks_late": False,
    # Nothing is too long.
    "task_time_limit": None,
    # A worker that is told to stop waits for its step, which ends at a checkpoint of its own.
    "worker_soft_shutdown_timeout": 0.0,
    # Each step in a fresh process, with nothing of the one before in its memory.
    "worker_max_tasks_per_child": 1,
}


@dataclass(frozen=True, slots=True)
class Message:
    """A step of a run. ``root`` is the token of the runs' folder; no path travels."""

    run: str
    step: str
    root: str
    version: int


class Bell:
    """A line to the queue."""

    def __init__(self, broker: Broker, runs_root: Path) -> None:
        """Name the broker, and the folder that its workers share; the first message connects."""
        self._broker, self._runs_root = broker, runs_root
        self._app = make_training_app(broker)
        self._redis = connect(broker)

    def ring(self, run: str, step: str) -> None:
        """Say that a step waits.

        Raises:
            WorldError: the broker is away; it is rung again some time.
        """
        root = name_root(LocalStore(self._runs_root))
        message = Message(run, step, root, WIRE_VERSION)
        try:
            self._redis.set(f"{_SENT}:{root}:{run}", step, ex=AGAIN_SECONDS)
            self._app.send_task(
                TASK,
                kwargs=msgspec.to_builtins(message),
                queue=QUEUE,
                retry=False,
                ignore_result=True,
                argsrepr="()",
                kwargsrepr=f"{run}:{step}",
            )
        except RedisError as error:
            raise translate(error, self._broker) from error
        except (OperationalError, OSError) as error:
            raise WorldError(
                f"the broker {self._broker.name} takes no message ({type(error).__name__}): check"
                " it"
            ) from error

    def ring_again(self, runs: Sequence[RunFolder] | None = None) -> list[str]:
        """Ring for the runs that wait and were not rung for lately; return their names.

        Raises:
            WorldError: the broker or the runs' folder is away.
        """
        given = list_runs(self._runs_root) if runs is None else runs
        due = [found for one in given if (found := find_due(one)) is not None]
        try:
            if int(self._redis.llen(QUEUE)) >= len(due):
                return []  # a message for each waits there, as far as anybody can tell
            root = read_root(LocalStore(self._runs_root))
            names = [one for one in due if not self._redis.exists(f"{_SENT}:{root}:{one[0]}")]
        except RedisError as error:
            raise translate(error, self._broker) from error
        for run, step in names:
            self.ring(run, step)
        return [run for run, _ in names]


def find_due(run: RunFolder) -> tuple[str, str] | None:
    """Return the name and the next step of a run that waits for a worker, else None."""
    try:
        standing = run.read()
    except SpanmillError:  # whoever looks at it is told
        return None
    if standing.state is not RunState.WAITING or standing.next_step is None:
        return None
    return run.name, standing.next_step


def make_training_app(broker: Broker) -> Celery:
    """Return the Celery app of trainings; it connects when used."""
    app = make_app(broker, (QUEUE,))
    app.conf.update(POLICY)
    app.conf.broker_transport_options |= {
        "unacked_key": _UNACKED,
        "unacked_index_key": f"{_UNACKED}-index",
        "unacked_mutex_key": f"{_UNACKED}-mutex",
    }
    return app


def read_message(kwargs: Any) -> Message | None:
    """Return the message that a task was called with, or None when it is not one of ours."""
    try:
        message = msgspec.convert(kwargs, Message)
        check_name(message.run)
    except (msgspec.ValidationError, SpanmillError):
        return None
    return message if message.version == WIRE_VERSION else None
