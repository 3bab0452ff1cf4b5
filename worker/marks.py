"""Marks the rows that are read next, in memory that outlives the process that reads them.

Whoever starts the process makes the memory first, and finds in it which row the process died of.
"""

import ctypes
import os
from collections.abc import Sequence
from multiprocessing import get_context
from typing import Any

from worker.contracts.flight import Mark
from worker.contracts.options import NAMED_ROWS

#: How long a process may take until its first mark: it may have a bundle to fetch and to load.
START_SECONDS = 1200.0
#: What is said when nothing was marked for too long behind the last row.
STORING = "storing a batch takes too long: check the disk of the jobs' folder"
#: A holder's name is told apart by so much of it.
_HOLDER_BYTES = 160


class Marks:
    """A process's last mark: number, count, rows."""

    def __init__(self, context: Any) -> None:
        """Make the memory, to be handed to one child of this multiprocessing context."""
        self._memory = context.RawArray(ctypes.c_int64, 2 + NAMED_ROWS)

    def write(self, rows: Sequence[int]) -> None:
        """Say that these rows are read next."""
        memory = self._memory
        named = len(rows) <= NAMED_ROWS
        if named:
            memory[2 : 2 + len(rows)] = rows
        memory[1] = len(rows) if named else -1
        memory[0] += 1

    def read(self) -> Mark:
        """Return the last mark."""
        number, count = self._memory[:2]
        rows = None if count < 0 else tuple(self._memory[2 : 2 + count])
        return Mark(number, rows)


class Slate:
    """One place for processes that follow each other, with the name of the lease they work under.

    It is made before the fork.
    """

    def __init__(self) -> None:
        """Make the memory."""
        context = get_context("fork")
        self._marks = Marks(context)
        self._holder = context.RawArray(ctypes.c_char, _HOLDER_BYTES)
        self._pid = context.RawValue(ctypes.c_int64, 0)

    def write(self, holder: str, rows: Sequence[int]) -> None:
        """Say that these rows are read next, under this holder's lease."""
        self._marks.write(rows)
        name = _encode(holder)
        if self._holder.value != name:
            self._holder.value = name
        self._pid.value = os.getpid()

    def read(self, holder: str) -> Mark | None:
        """Return the holder's last mark, or None if it has none here."""
        return self._marks.read() if self._holder.value == _encode(holder) else None

    def read_dead(self, holder: str) -> Mark | None:
        """Return the holder's last mark if who wrote it lives no more.

        A message that was delivered twice has one holder in two processes.
        """
        try:
            os.kill(self._pid.value, 0)
        except ProcessLookupError:
            return self.read(holder)
        return None

    def count(self) -> int:
        """Return a number that moves with every mark: a sign of life."""
        return self._marks.read().number


def _encode(holder: str) -> bytes:
    return holder.encode()[:_HOLDER_BYTES]
