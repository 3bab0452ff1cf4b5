"""`spanmill training worker`: take the steps of runs, or say whether this host's worker is well."""

import signal
import socket
from pathlib import Path
from threading import Event
from types import FrameType
from uuid import uuid4

import click

from training.app import TrainingSettings
from training.broker import broker_option
from training.doorbell import QUEUE, make_training_app
from training.holds import LEASE_SECONDS
from training.supervisor import Supervisor
from worker.contracts.broker import Broker
from worker.contracts.errors import UsageError, WorldError
from worker.contracts.ledger import Ledger
from worker.log import open_log

PING_SECONDS = 5.0
#: For a step, its checkpoint, and what a scoring in between takes.
GRACE_SECONDS = 90.0


@click.command()
@broker_option(required=True)
@click.option("--runs-root", default="spanmill-runs", show_default=True,
              envvar="SPANMILL_RUNS_ROOT", type=click.Path(path_type=Path),
              help="Folder of the runs, the same as the submitters'.")  # fmt: skip
@click.option("--data-dir", envvar="SPANMILL_DATA", show_envvar=True,
              type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="Where recipes' files are here.  [default: as submitted]")  # fmt: skip
@click.option("--nice", default=10, show_default=True, type=click.IntRange(0, 19),
              envvar="SPANMILL_NICE",
              help="How far a training stands back behind other programs.")  # fmt: skip
@click.option("--grace-seconds", default=GRACE_SECONDS, show_default=True,
              type=click.FloatRange(1), envvar="SPANMILL_TRAINING_GRACE_SECONDS",
              help="How long it may take to a checkpoint when told to stop.")  # fmt: skip
@click.option("--lease-seconds", default=LEASE_SECONDS, show_default=True,
              type=click.FloatRange(1), envvar="SPANMILL_TRAINING_LEASE_SECONDS",
              help="Seconds without a sign of life after which another worker takes"
              " the step.")  # fmt: skip
@click.option("--check", is_flag=True, help="Say whether a worker of this host is well, and stop.")
@click.pass_obj
def worker(
    look: str | None,
    /,
    broker: Broker,
    runs_root: Path,
    data_dir: Path | None,
    nice: int,
    grace_seconds: float,
    lease_seconds: float,
    check: bool,
) -> int:
    """Take the steps of submitted runs, one at a time, until told to stop (SIGTERM)."""
    host = socket.gethostname()
    if check:
        return _check(broker, runs_root, host)
    try:
        runs_root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"the runs' folder {runs_root} cannot be made ({error.strerror}): give another one by"
            " --runs-root"
        ) from error
    settings = TrainingSettings(
        name=f"{host}-{uuid4().hex[:6]}",
        broker=broker,
        runs_root=str(runs_root.absolute()),
        data=None if data_dir is None else str(data_dir.absolute()),
        nice=nice,
        lease_seconds=lease_seconds,
    )
    log = open_log(look, {"host": host, "worker": settings.name})
    stop = Event()

    def ask(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        stop.set()

    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, ask)
    Supervisor(settings, log).run(stop.wait, grace_seconds)
    return 0


def _check(broker: Broker, runs_root: Path, host: str) -> int:
    cards = [card for card in Ledger(broker).list_workers() if QUEUE in card.queues]
    here = [card.worker for card in cards if card.worker.rsplit("-", 1)[0] == host]
    if not here:
        raise WorldError(
            f"no training worker of {host} is heard at {broker.name}: start `spanmill training"
            " worker`"
        )
    if not runs_root.is_dir():
        raise WorldError(f"the runs' folder {runs_root} is not there: mount it")
    nodes = [f"training@{name}" for name in here]
    inspect = make_training_app(broker).control.inspect(destination=nodes, timeout=PING_SECONDS)
    if not inspect.ping():
        raise WorldError(
            f"the training worker of {host} does not answer: stop it and start it again"
        )
    click.echo(f"{', '.join(here)}: well")
    return 0
