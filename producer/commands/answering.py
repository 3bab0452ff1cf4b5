"""Who answers a command's job: the processes of this machine, or the fleet at a broker."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from producer.diary import Diary
from producer.embedded import Processes
from producer.options import BROKER, QUEUE, option
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


@dataclass(frozen=True, slots=True)
class Where:
    """Which fleet answers, and where its producer's metrics are served."""

    broker_url: str | None
    queue: str
    metrics_host: str
    metrics_port: int | None

    def words(self) -> str:
        """Return the options by which `resume` finds the fleet; a URL may hold a password."""
        broker = " --broker URL" if is_from("broker_url", ParameterSource.COMMANDLINE) else ""
        return broker + ("" if self.queue == DEFAULT_QUEUE else f" --queue {self.queue}")


def fleet_options(function: F) -> F:
    """Give a command the options of a fleet, which are the fields of Where."""
    return BROKER(QUEUE(metrics_options(function)))


def answer_here(workers: int | None) -> Callable[[Run, Diary], None]:
    """Answer on this machine."""
    return Processes(count_cores() if workers is None else workers).answer


def answer_at(
    broker_url: str, where: Where, in_flight: tuple[int, int], log: Log, *, wait: bool
) -> Callable[[Run, Diary], None]:
    """Answer through the fleet at a broker, which is checked first."""
    # Celery and Prometheus take their time to load, and `answer` has no use for them.
    from producer.meter import Meter
    from producer.publish import open_fleet

    meter = Meter(log)
    fleet = open_fleet(broker_url, where.queue, in_flight, meter, wait=wait)
    if where.metrics_port is not None:
        meter.serve(where.metrics_host, where.metrics_port)
    return fleet.answer


def choose(where: Where, workers: int | None, log: Log) -> Callable[[Run, Diary], None]:
    """Answer through the fleet where a broker is known, else on this machine."""
    if where.broker_url is not None:
        return answer_at(where.broker_url, where, (MAX_BATCHES, MAX_BYTES), log, wait=True)
    if where.metrics_port is not None:
        raise UsageError("--metrics-port is for a fleet's jobs: give --broker URL too")
    return answer_here(workers)


def is_from(parameter: str, source: ParameterSource) -> bool:
    """Say whether a parameter of the command that runs was set by that source."""
    return click.get_current_context().get_parameter_source(parameter) is source
