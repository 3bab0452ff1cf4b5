"""What an answering process does: take batches from a pipe, answer them, say how that went.

Whatever happens to it, its parent learns which row it was reading, from marks in shared memory.
"""

import contextlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from multiprocessing.connection import Connection
from typing import Any

from worker.contracts.errors import JobError, SpanmillError, WorldError
from worker.marks import Marks
from worker.orphan import die_with
from worker.task import Delivery, Done, Tools, run_batch

#: The exit code of a process that had no memory left, which the row may or may not be guilty of.
OUT_OF_MEMORY = 77


class Fault(StrEnum):
    """Whose fault it is that a batch was not run; it decides what is done about it."""

    BATCH = "batch"  # try again, a few times
    WORLD = "world"  # pause, then try again
    JOB = "job"  # nothing will help


@dataclass(frozen=True, slots=True)
class Failure:
    """What a process says when it could not run a batch, and the rows that it was reading."""

    message: str
    fault: Fault
    rows: tuple[int, ...] | None = ()


def serve(
    pipe: Connection, marks: Marks, stop: Any, open_tools: Callable[[], Tools], parent: int
) -> None:
    """Run in a child: answer each batch with one message, until the pipe ends or ``stop`` is set.

    The tools are opened for the first batch, so that a failure has a batch to be told about.
    """
    die_with(parent)
    tools: Tools | None = None
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            payload, delivery = pipe.recv()
            if tools is not None:
                marks.write([])  # the last one may be of the batch before
            if stop.value:
                return
            try:
                if tools is None:
                    tools = _open(open_tools)
                    _be_silent()
                    marks.write([])
                message = _run(payload, delivery, tools, marks)
            except SpanmillError as error:
                fault = Fault.WORLD if isinstance(error, WorldError) else Fault.JOB
                message = Failure(str(error), fault)
            pipe.send(message)


def _open(open_tools: Callable[[], Tools]) -> Tools:
    try:
        return open_tools()
    except SpanmillError:
        raise
    except Exception as error:
        raise JobError(
            f"an answering process cannot begin ({type(error).__name__}: {error}): install spanmill"
            " again, or report it"
        ) from error


def _run(payload: bytes, delivery: Delivery, tools: Tools, marks: Marks) -> Done | Failure:
    try:
        return run_batch(payload, delivery, tools, marks.write)
    except SpanmillError:
        raise
    except MemoryError:
        os._exit(OUT_OF_MEMORY)  # a new process has it back, whatever leaked
    except Exception as error:  # noqa: BLE001  a message could quote a passage: the name must do
        return Failure(type(error).__name__, Fault.BATCH, marks.read().rows)


def _be_silent() -> None:
    """Send to nowhere what libraries print when a row breaks them: it may quote the row."""
    if sys.stderr is not None:
        sys.stderr.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
