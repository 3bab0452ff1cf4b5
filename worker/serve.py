"""`spanmill worker`: join the fleet at a broker, or say whether this host's worker is well."""

import signal
import socket
from importlib import metadata
from threading import Event as Signal
from types import FrameType
from uuid import uuid4

import click

from worker.app import WorkerSettings
from worker.contracts.broker import parse_broker
from worker.contracts.broker_url import broker_option
from worker.contracts.errors import WorldError
from worker.contracts.flight import DEFAULT_QUEUE
from worker.contracts.ledger import Ledger
from worker.contracts.metrics_option import metrics_options
from worker.contracts.object_store import open_store
from worker.contracts.queue import (
    VISIBILITY_SECONDS,
    WORKER_KEYS,
    make_app,
    name_channel,
    name_queue,
)
from worker.contracts.store import LocalStore
from worker.events import Event, Level
from worker.log import open_log
from worker.metrics import WorkerMetrics
from worker.observer import Observer
from worker.settings import count_cores
from worker.supervisor import supervise

PING_SECONDS = 5.0


@click.command()
@broker_option(required=True)
@click.option(
    "--jobs-root",
    required=True,
    envvar="SPANMILL_JOBS_ROOT",
    show_envvar=True,
    help="Folder of the jobs, the same as the producers': a path, or s3://, gs://, az://.",
)
@click.option(
    "--queue",
    "queues",
    multiple=True,
    default=(DEFAULT_QUEUE,),
    envvar="SPANMILL_QUEUE",
    show_envvar=True,
    show_default=True,
    help="Queue to take batches from; of several the first is served first.",
)
@click.option(
    "--processes",
    type=click.IntRange(1, 512),
    envvar="SPANMILL_PROCESSES",
    show_envvar=True,
    help="Answering processes.  [default: the cores granted]",
)
@click.option(
    "--hang-seconds",
    default=300.0,
    show_default=True,
    type=click.FloatRange(1),
    envvar="SPANMILL_HANG_SECONDS",
    show_envvar=True,
    help="Give up a row that takes so long.",
)
@click.option(
    "--visibility-seconds",
    default=VISIBILITY_SECONDS,
    show_default=True,
    type=click.IntRange(1),
    envvar="SPANMILL_VISIBILITY_SECONDS",
    show_envvar=True,
    help="Seconds after which Redis redelivers an unacknowledged message (a last resort; leases act"
    " first).",
)
@metrics_options
@click.option("--check", is_flag=True, help="Say whether a worker of this host is well, and stop.")
@click.pass_obj
def worker(
    look: str | None,
    /,
    broker_url: str,
    jobs_root: str,
    queues: tuple[str, ...],
    processes: int | None,
    hang_seconds: float,
    visibility_seconds: int,
    metrics_port: int | None,
    metrics_host: str,
    check: bool,
) -> int:
    """Answer batches from the queues of a broker until told to stop (SIGTERM)."""
    host = socket.gethostname()
    if check:
        return _check(broker_url, jobs_root, host)
    settings = WorkerSettings(
        name=f"{host}-{uuid4().hex[:6]}",
        broker_url=broker_url,
        jobs_root=open_store(jobs_root).name,
        queues=tuple(dict.fromkeys(queues)),
        processes=count_cores() if processes is None else processes,
        hang_seconds=hang_seconds,
        visibility_seconds=visibility_seconds,
    )
    for queue in settings.queues:
        name_queue(queue)
    log = open_log(look, {"host": host, "worker": settings.name})
    metrics = None
    if metrics_port is not None:
        metrics = WorkerMetrics(settings.processes)
        metrics_port = metrics.serve(metrics_host, metrics_port)
    observer = Observer(log, metrics)
    _greet(settings, observer)
    if metrics_port is not None:
        observer.hear(Event("metrics-served", facts={"port": metrics_port}))
    stop = Signal()

    def ask(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        stop.set()

    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, ask)
    supervise(settings, observer, stop.wait)
    observer.hear(Event("worker-stopped"))
    return 0


def _greet(settings: WorkerSettings, observer: Observer) -> None:
    """Check the broker. One that is away is waited for; one that refuses ends the worker."""
    broker = parse_broker(settings.broker_url)
    try:
        Ledger(broker).check(WORKER_KEYS, name_channel(broker))
    except WorldError as error:
        observer.hear(Event("broker-away", Level.WARNING, f"{error}; the worker waits for it"))
    facts: dict[str, str | int | float] = {
        "worker": settings.name,
        "release": metadata.version("spanmill"),
        "processes": settings.processes,
        "queues": ",".join(settings.queues),
        "broker": broker.name,
        "jobs_root": settings.jobs_root,
    }
    observer.hear(Event("worker-started", facts=facts))


def _check(broker_url: str, jobs_root: str, host: str) -> int:
    broker = parse_broker(broker_url)
    names = [card.worker for card in Ledger(broker).list_workers()]
    here = [name for name in names if name.rsplit("-", 1)[0] == host]
    if not here:
        raise WorldError(f"no worker of {host} is heard at {broker.name}: start `spanmill worker`")
    store = open_store(jobs_root)
    if isinstance(store, LocalStore) and not store.root.is_dir():
        raise WorldError(f"the jobs' folder {jobs_root} is not there: mount it")
    app = make_app(broker, (name_queue(DEFAULT_QUEUE),))
    nodes = [f"spanmill@{name}" for name in here]
    replies = app.control.inspect(destination=nodes, timeout=PING_SECONDS).ping()
    if not replies:
        raise WorldError(f"the worker of {host} does not answer: stop it and start it again")
    click.echo(f"{', '.join(here)}: well")
    return 0
