"""The message of a batch, the queues it travels on, and how Celery is to deliver it.

Celery rings the bell; the ledger says whose turn it is, and sends again what was lost.
"""

import re
import ssl
from dataclasses import dataclass
from typing import Any

import msgspec
from celery import Celery
from kombu.entity import Exchange, Queue

from worker.contracts.broker import Broker
from worker.contracts.errors import UsageError
from worker.contracts.job import check_job_id

TASK = "spanmill.answer"
#: The version of message and payload. It is part of a queue's name: batches wait for a worker that
#: reads them, and no other ever takes them.
WIRE_VERSION = 1
#: After so long without an acknowledgement the transport delivers again. The lease lapses long
#: before; this is for messages whose batch never began.
VISIBILITY_SECONDS = 300
#: How long a worker that is told to stop lets its batches end.
SOFT_SHUTDOWN_SECONDS = 30.0
_QUEUE = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_UNACKED = "spanmill:unacked"
#: Names like those of the keys that sending needs at the broker, and that a worker needs.
SENDER_KEYS = ("spanmill-check",)
WORKER_KEYS = (*SENDER_KEYS, "_kombu.binding.check", "check.celery.pidbox")


@dataclass(frozen=True, slots=True)
class Message:
    """One attempt at a batch. ``published_at`` is in seconds since the epoch."""

    job: str
    batch: int
    attempt: int
    published_at: float
    version: int


#: How Celery delivers; what is not here is Celery's default.
POLICY: dict[str, Any] = {
    # Acknowledged when the batch is over: what a worker had fetched but not begun is not lost.
    "task_acks_late": True,
    # A lost process is acknowledged too: the ledger sends its batch again, after a delay and with
    # the row to blame. Celery's own requeue has neither and would loop.
    "task_reject_on_worker_lost": False,
    # One message a process, and none waiting in the worker while others are idle.
    "worker_prefetch_multiplier": 1,
    "worker_disable_prefetch": True,
    # A broken connection must not kill work that the ledger can still count.
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    # SIGTERM: let batches end, then stop.
    "worker_soft_shutdown_timeout": SOFT_SHUTDOWN_SECONDS,
    # A worker outlives its broker, however long that is away.
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "broker_connection_timeout": 5,
    "broker_pool_acquire_timeout": 10,
    # The shard is the result.
    "task_ignore_result": True,
    "result_backend": None,
    # The default of 4 s would kill processes that start on a busy machine.
    "worker_proc_alive_timeout": 120,
    # Whatever a library leaks ends here.
    "worker_max_tasks_per_child": 2000,
    # The last resort against code that never lets go of the interpreter: everything else that
    # hangs is ended by the process itself, a row at a time.
    "task_time_limit": 6 * 3600,
    # Nothing is ever unpickled.
    "task_serializer": "json",
    "accept_content": ["json"],
    "result_accept_content": ["json"],
    # A queue that nobody declared would be one that no worker reads.
    "task_create_missing_queues": False,
    "worker_send_task_events": True,
    "worker_hijack_root_logger": False,
    "worker_redirect_stdouts": False,
    "enable_utc": True,
}

_TRANSPORT: dict[str, Any] = {
    "socket_timeout": 30,
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
    # How soon what was never acknowledged is looked for: the defaults make it 100 s.
    "unacked_restore_interval": 5,
    "unacked_restore_throttle": 1,
    # One set of keys a Redis database otherwise, swept by the shortest timeout of all its users.
    "unacked_key": _UNACKED,
    "unacked_index_key": f"{_UNACKED}-index",
    "unacked_mutex_key": f"{_UNACKED}-mutex",
    # From the queue that was named first, then from the next: that is what priority means here.
    "queue_order_strategy": "priority",
}


def name_channel(broker: Broker) -> str:
    """Return the channel that workers hear; a user needs a right to just this one, or to all."""
    return f"/{broker.database}.celery.pidbox"


def name_queue(queue: str, wire: int = WIRE_VERSION) -> str:
    """Return the queue's name at the broker.

    Raises:
        UsageError: it holds other characters, or is too long.
    """
    if _QUEUE.fullmatch(queue) is None:
        raise UsageError(
            f"{queue!r} is no queue: use up to 32 lower-case letters, digits and hyphens"
        )
    return f"spanmill-{queue}-v{wire}"


def make_app(
    broker: Broker, queues: tuple[str, ...], visibility_seconds: int = VISIBILITY_SECONDS
) -> Celery:
    """Return a Celery app for queues by their names at the broker; it connects when used."""
    app = Celery("spanmill", broker=broker.kombu_url, set_as_current=False)
    app.conf.update(POLICY)
    app.conf.broker_transport_options = {**_TRANSPORT, "visibility_timeout": visibility_seconds}
    # Direct queues without bindings of their own: those can be lost, and messages with them.
    app.conf.task_queues = [Queue(name, Exchange(""), routing_key=name) for name in queues]
    app.conf.task_default_queue = queues[0]
    if broker.tls is not None:
        needed = broker.tls["ssl_cert_reqs"] == "required"
        verify = ssl.CERT_REQUIRED if needed else ssl.CERT_NONE
        app.conf.broker_use_ssl = {**broker.tls, "ssl_cert_reqs": verify}
    return app


def send(app: Celery, message: Message, queue: str) -> None:
    """Put a message on a queue. One that fails is no loss: the ledger sends the batch again."""
    app.send_task(
        TASK,
        kwargs=msgspec.to_builtins(message),
        queue=queue,
        retry=False,
        ignore_result=True,
        argsrepr="()",
        kwargsrepr=f"{message.job}:{message.batch}",
    )


def read_message(kwargs: Any) -> Message | None:
    """Return the message that a task was called with, or None when it is not one of ours."""
    try:
        message = msgspec.convert(kwargs, Message)
        check_job_id(message.job)
    except (msgspec.ValidationError, UsageError):
        return None
    return message if message.version == WIRE_VERSION and message.batch >= 0 else None
