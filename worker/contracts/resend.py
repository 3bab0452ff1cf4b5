"""Sends again what the ledger says was lost; every worker and every producer does it.

It needs no input: the payload lies at the broker.
"""

import time

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from worker.contracts.broker import Broker
from worker.contracts.errors import WorldError
from worker.contracts.ledger import Ledger
from worker.contracts.queue import WIRE_VERSION, Message, make_app, name_queue, send

#: How long messages are sent on although some fail.
FAILING_SECONDS = 5.0


class Resender:
    """A line to a broker's queues."""

    def __init__(self, broker: Broker, ledger: Ledger) -> None:
        """Name the broker; the first message connects."""
        self._ledger = ledger
        self._app = make_app(broker, (name_queue("none"),))
        self._app.conf.task_create_missing_queues = True
        self._name = broker.name

    def send(self, job: str, batch: int, attempt: int, queue: str) -> None:
        """Send a batch's message.

        Raises:
            WorldError: it could not be sent; the batch is sent again some time.
        """
        message = Message(job, batch, attempt, time.time(), WIRE_VERSION)
        try:
            send(self._app, message, queue)
        except (OperationalError, RedisError, OSError) as error:
            raise WorldError(
                f"the broker {self._name} takes no message ({type(error).__name__}): check it"
            ) from error

    def resend(self) -> int:
        """Send all messages again that were lost; return how many.

        Raises:
            WorldError: some could not be sent; the others were, for the ledger tells of each once.
        """
        lapsed = self._ledger.lapsed()
        failed: WorldError | None = None
        until = time.monotonic() + FAILING_SECONDS
        for one in lapsed:
            try:
                self.send(one.job, one.batch, one.attempt + 1, one.queue)
            except WorldError as error:
                failed = error
                if time.monotonic() > until:  # the rest is found to be lost some seconds later
                    break
        if failed is not None:
            raise failed
        return len(lapsed)
