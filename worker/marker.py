"""Marks the rows that are read next at the broker, so that a crash can name its row.

A mark waits for no answer: it costs a system call, not a way there and back. What was sent before
the process died still arrives. Where a user may not silence the broker, answers are waited for.
"""

import time
from collections.abc import Sequence
from typing import Any

from redis.exceptions import RedisError, ResponseError

from worker.contracts.broker import Broker, connect
from worker.contracts.options import NAMED_ROWS
from worker.contracts.scripts import mark_key

SEND_SECONDS = 2.0
#: Marks are left out for so long after one could not be sent.
DEAF_SECONDS = 5.0
_KEPT_SECONDS = 3600
#: SET key value EX seconds, as Redis reads it. Packed here: there are three marks a row, and the
#: client takes several times as long.
_COMMAND = b"*5\r\n$3\r\nSET\r\n$%%d\r\n%%b\r\n$%%d\r\n%%b\r\n$2\r\nEX\r\n$%d\r\n%d\r\n" % (
    len(str(_KEPT_SECONDS)),
    _KEPT_SECONDS,
)


class Marker:
    """One process's line to the broker for marks. A mark that cannot be sent is left out."""

    def __init__(self, broker: Broker) -> None:
        """Name the broker; the first mark connects."""
        self._pool = connect(broker, SEND_SECONDS).connection_pool
        self._line: Any = None
        self._is_silent = False
        self._silent_until = 0.0
        #: Moves with every mark: a sign of life.
        self.count = 0
        #: The last mark as the ledger has it, whether it was sent or not.
        self.last = ""

    def mark(self, job: str, batch: int, attempt: int, rows: Sequence[int]) -> None:
        """Say that this attempt reads these rows next."""
        named = ",".join(map(str, rows)) if len(rows) <= NAMED_ROWS else "*"
        self.count += 1
        self.last = f"{attempt};{named}"
        if time.monotonic() < self._silent_until:
            return
        try:
            if self._line is None:
                self._open()
            key, value = mark_key(job, batch).encode(), self.last.encode()
            command = _COMMAND % (len(key), key, len(value), value)
            self._line.send_packed_command([command], check_health=False)
            if not self._is_silent:
                self._line.read_response()
        except (RedisError, OSError):
            self._silent_until = time.monotonic() + DEAF_SECONDS
            if self._line is not None:
                self._line.disconnect()
                self._pool.release(self._line)
                self._line = None

    def _open(self) -> None:
        self._line = self._pool.get_connection()
        self._line.send_command("CLIENT", "REPLY", "ON")  # the one of the three that is answered
        try:
            self._line.read_response()
        except ResponseError:
            self._is_silent = False
        else:
            self._line.send_command("CLIENT", "REPLY", "OFF")
            self._is_silent = True
