"""Ends a process with its parent: nobody would hear what an orphan does."""

import contextlib
import ctypes
import os
import signal

_PARENT_DEATH_SIGNAL = 1


def die_with(parent: int | None) -> None:
    """End when the parent does, in the middle of work too, or at once if it has.

    Otherwise what an orphan writes could fall into work that was begun anew meanwhile.
    """
    with contextlib.suppress(OSError, AttributeError):  # not Linux: a pipe's end must do
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os._exit(1)
