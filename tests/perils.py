"""The `spanmill` program with a reader that some texts break for real: `python -m tests.perils`.

A context that holds ``<<segv@score>>`` ends the process that scores it with a segmentation fault.
What: segv, abort, exit, memory, kill (from outside, by the same process), worker (kills a fleet's
whole worker, supervisor first), raise, hang, or gate.
``<<gate@score:/a/path>>`` makes ``/a/path.reached``, and waits until ``/a/path`` exists. Where:
encode, score, decode, or start, which is the batch's: no row is being read. ``once`` behind a path,
as in ``<<kill@score:/a/path:once>>``, lets it happen only until that file exists, and makes it.

Before the command's words stands for how many seconds a process may give no sign of life.
"""

import ctypes
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import psutil  # type: ignore[import-untyped]

from worker.contracts.errors import RowError
from worker.contracts.records import Answer, Example
from worker.reading.reader import BeforeRows, Reader, Scored
from worker.reading.windows import Encoded
from worker.task import Tools
from worker.tools import JobTools, open_tools

_PERIL = re.compile(r"<<(\w+)@(\w+)(?::([^>:]+))?(:once)?>>")
_POLL_SECONDS = 0.01


class PerilousReader:
    """A real reader, but for the texts that say otherwise."""

    def __init__(self, reader: Reader) -> None:
        """Wrap the real one."""
        self._reader = reader
        self._examples: Sequence[Example] = ()

    def encode(self, examples: Sequence[Example], before: BeforeRows) -> list[Encoded | RowError]:
        """Meet what lies at the batch's start, then what lies at encoding."""
        self._examples = examples
        for example in examples:
            meet(example, "start")
        return self._reader.encode(examples, self._then(before, "encode"))

    def score(
        self, encoded: Sequence[Encoded | RowError], before: BeforeRows, *, alone: bool = False
    ) -> list[Scored | RowError]:
        """Meet what lies at scoring."""
        return self._reader.score(encoded, self._then(before, "score"), alone=alone)

    def decode(
        self, example: Example, encoded: Encoded | RowError, scored: Scored | RowError
    ) -> Answer:
        """Meet what lies at decoding."""
        meet(example, "decode")
        return self._reader.decode(example, encoded, scored)

    def _then(self, before: BeforeRows, where: str) -> BeforeRows:
        def mark(indices: Sequence[int]) -> None:
            before(indices)
            for index in indices:
                meet(self._examples[index], where)

        return mark


def meet(example: Example, where: str) -> None:
    """Let happen what an example's context says should happen here."""
    for what, place, path, once in _PERIL.findall(example.context):
        if place == where and not (once and Path(path).exists()):
            if once:
                Path(path).touch()
            _PERILS[what](path)


def _wait_for(path: str) -> None:
    Path(f"{path}.reached").touch()
    while not Path(path).exists():
        time.sleep(_POLL_SECONDS)


def _kill_worker(_: str) -> None:
    main = psutil.Process().parents()[0]
    main.parents()[0].kill()  # all others die with it
    time.sleep(1e6)


def _raise(_: str) -> None:
    raise TypeError("a text that must not be quoted")


def _abort(_: str) -> None:
    os.write(2, b"panicked at a text that must not be quoted\n")
    os.abort()


def _run_out_of_memory(_: str) -> None:
    raise MemoryError


_PERILS: dict[str, Callable[[str], object]] = {
    "segv": lambda _: ctypes.string_at(0),
    "abort": _abort,
    "exit": lambda _: os._exit(3),
    "kill": lambda _: os.kill(os.getpid(), signal.SIGKILL),
    "worker": _kill_worker,
    "hang": lambda _: time.sleep(1e6),
    "raise": _raise,
    "memory": _run_out_of_memory,
    "gate": _wait_for,
}


def open_perilous_tools(recipe: JobTools) -> Tools:
    """Open the real tools, and wrap the reader."""
    tools = open_tools(recipe)
    return replace(tools, reader=cast(Reader, PerilousReader(tools.reader)))


def main() -> None:
    """Run the command line, with perils in its answering processes."""
    import producer.commands.answering as command
    from producer.cli import main as run
    from producer.embedded import Processes

    command.Processes = partial(  # type: ignore[assignment, misc]
        Processes, make_tools=open_perilous_tools, hang_seconds=float(sys.argv[1])
    )
    run(sys.argv[2:])


if __name__ == "__main__":
    main()
