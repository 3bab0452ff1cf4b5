"""An object as a file to read: ranges of it, never the whole, and always of the same version."""

import io
from collections.abc import Callable
from typing import Any, TypeVar

from worker.contracts.bucket import Bucket, Stat
from worker.contracts.errors import InputError, WorldError

T = TypeVar("T")

BUFFER_BYTES = 1024 * 1024

#: Hears that the store failed, and how often in a row; returns when it may be asked again.
Wait = Callable[[WorldError, int], None]


def give_up(error: WorldError, failures: int) -> None:  # noqa: ARG001  a Wait has it
    """Do not wait: the store's own tries were enough."""
    raise error


def open_object(
    bucket: Bucket, stat: Stat, wait: Wait = give_up, buffer_bytes: int = BUFFER_BYTES
) -> io.BufferedReader:
    """Return an object as a stream that can seek."""
    return io.BufferedReader(_ObjectFile(bucket, stat, wait), buffer_bytes)


class _ObjectFile(io.RawIOBase):
    def __init__(self, bucket: Bucket, stat: Stat, wait: Wait) -> None:
        self._bucket = bucket
        self._stat = stat
        self._wait = wait
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._stat.size_bytes}
        self._place = max(0, base[whence] + offset)
        return self._place

    def readinto(self, buffer: Any) -> int:
        start = self._place
        end = min(start + len(buffer), self._stat.size_bytes)
        if start >= end:
            return 0
        raw = insist(lambda: self._bucket.read_range(self._stat, start, end), self._wait)
        if raw is None:
            raise InputError(
                f"{self._bucket.name_object(self._stat.key)} has changed while it was read: put the"
                " old one back, or begin anew with --overwrite"
            )
        buffer[: len(raw)] = raw
        self._place += len(raw)
        return len(raw)


def insist(ask: Callable[[], T], wait: Wait) -> T:
    """Ask a store until it answers, or until waiting gives up."""
    failures = 0
    while True:
        try:
            return ask()
        except WorldError as error:
            failures += 1
            wait(error, failures)
