"""Who answers a command's job: the processes of this machine, or the fleet at a broker."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from producer.commands.broker import is_given
from producer.diary import Diary
from producer.embedded import Processes
from producer.options import BROKER, option
from producer.run import Run
from worker.contracts.errors import UsageError
from worker.contracts.flight import DEFAULT_QUEUE, MAX_BATCHES, MAX_BYTES
from worker.contracts.metrics_option import metrics_options
from worker.log import Log
from worker.settings import count_cores

F = TypeVar("F", bound=Callable[..., Any])

WORKERS = option(
    "--workers", type=click.IntRange(1, 512), help="Processes.  [default: the cores granted]"
)
IN_FLIGHT_BATCHES = option(
    "--in-flight-batches",
    default=MAX_BATCHES,
    type=click.IntRange(1),
    help="Batches in flight at the broker, of all jobs together.",
)
IN_FLIGHT_BYTES = option(
    "--in-flight-bytes",
    default=MAX_BYTES,
    type=click.IntRange(1),
    help="Bytes in flight at the broker, of all jobs together.",
)


@dataclass(frozen=True, slots=True)
class Where:
    """Which fleet answers, its bounds, and where its producer's metrics are served."""

    broker_url: str | None
    queue: str
    in_flight_batches: int
    in_flight_bytes: int
    metrics_host: str
    metrics_port: int | None

    def words(self) -> str:
        """Return the options by which `resume` finds the fleet; a URL may hold a password."""
        words = [" --broker URL"] if is_given("broker_url") else []
        if self.queue != DEFAULT_QUEUE:
            words.append(f" --queue {self.queue}")
        if is_given("in_flight_batches"):
            words.append(f" --in-flight-batches {self.in_flight_batches}")
        if is_given("in_flight_bytes"):
            words.append(f" --in-flight-bytes {self.in_flight_bytes}")
        return "".join(words)


def fleet_options(function: F) -> F:
    """Give a command the options of a fleet: with ``queue`` they are the fields of Where."""
    return BROKER(IN_FLIGHT_BATCHES(IN_FLIGHT_BYTES(metrics_options(function))))


def answer_here(workers: int | None) -> Callable[[Run, Diary], None]:
    """Answer on this machine."""
    return Processes(count_cores() if workers is None else workers).answer


def answer_at(
    broker_url: str, where: Where, log: Log, *, wait: bool
) -> Callable[[Run, Diary], None]:
    """Answer through the fleet at a broker, which is checked first."""
    # Celery and Prometheus take their time to load, and `answer` has no use for them.
    from producer.meter import Meter
    from producer.publish import open_fleet

    meter = Meter(log)
    in_flight = (where.in_flight_batches, where.in_flight_bytes)
    fleet = open_fleet(broker_url, where.queue, in_flight, meter, wait=wait)
    if where.metrics_port is not None:
        meter.serve(where.metrics_host, where.metrics_port)
    return fleet.answer


def choose(where: Where, workers: int | None, log: Log) -> Callable[[Run, Diary], None]:
    """Answer through the fleet where there is a broker, else on this machine."""
    if where.broker_url is not None:
        return answer_at(where.broker_url, where, log, wait=True)
    if is_given("metrics_port"):  # one of the environment is for others
        raise UsageError("--metrics-port is for a fleet's jobs: give --broker URL too")
    return answer_here(workers)
