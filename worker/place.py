"""Where a worker works, as all its processes know it."""

from dataclasses import dataclass

from worker.contracts.broker import Broker
from worker.contracts.flight import DEFAULT_QUEUE
from worker.contracts.queue import name_queue


@dataclass(frozen=True, slots=True)
class Place:
    """Where a worker works: its name, its broker, its jobs' folder, the queues that it reads."""

    worker: str
    broker: Broker
    jobs_root: str
    hang_seconds: float = 300.0
    queues: tuple[str, ...] = (name_queue(DEFAULT_QUEUE),)
