"""Keeps a program running as a child: hears it, starts it again, tells it to stop.

Celery 5.7's main process ends when Redis restarts while its processes are busy, and on a message
that is no JSON; so it runs as a child, and is started again.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Thread
from typing import IO

from worker.contracts.errors import SpanmillError
from worker.events import MESSAGE_CHARS, Event, Hear, Level, receive

TICK_SECONDS = 1.0
FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 15.0
#: A child that lived so long was well: the next end of it is a new one.
WELL_SECONDS = 30.0
#: For what an ended child's processes have sent and nobody has read.
DRAIN_SECONDS = 5.0

Wait = Callable[[float], bool]


def do_nothing() -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Duties:
    """What a keeper does for its child: ``tick`` each second, ``lose`` when the child has ended.

    ``brief`` makes its standard input, from the descriptor of the pipe for its events.
    """

    module: str
    brief: Callable[[int], bytes]
    tick: Callable[[int], None]
    lose: Callable[[], None] = do_nothing
    grace_seconds: float
    environment: Mapping[str, str] = field(default_factory=dict)


class Keeper:
    """Runs a module of this distribution as a child until it is told to stop."""

    def __init__(self, duties: Duties, hear: Hear) -> None:
        """Take what is to be done, and who hears what the child's processes tell."""
        self._duties = duties
        self._hear = hear
        self._ears: list[Thread] = []

    def run(self, wait: Wait) -> None:
        """Run until ``wait``, which sleeps for so many seconds, says that it is to stop."""
        child, started_at, backoff = self._start(), time.monotonic(), FIRST_BACKOFF_SECONDS
        try:
            while not wait(TICK_SECONDS):
                self._duties.tick(child.pid)
                if child.poll() is None:
                    continue
                if time.monotonic() - started_at > WELL_SECONDS:
                    backoff = FIRST_BACKOFF_SECONDS
                said = f"the worker ended (exit code {child.returncode}): starting it again"
                self._hear(Event("worker-ended", Level.ERROR, said))
                self._duties.lose()
                if wait(backoff):
                    break
                backoff = min(2 * backoff, LONGEST_BACKOFF_SECONDS)
                child, started_at = self._start(), time.monotonic()
        finally:  # whatever ends this, the child has its time to end
            self._stop(child)

    def _start(self) -> subprocess.Popen[bytes]:
        ear, mouth = os.pipe()
        child = subprocess.Popen(  # noqa: S603  a module of this distribution
            [sys.executable, "-m", self._duties.module],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,  # a banner
            stderr=subprocess.PIPE,
            pass_fds=(mouth,),
            env={**os.environ, **self._duties.environment},
            process_group=0,  # Ctrl-C reaches the whole terminal; who stops is decided here
        )
        os.close(mouth)
        self._ears = [Thread(target=self._listen, args=(ear,), daemon=True)]
        if child.stderr is not None:
            self._ears.append(Thread(target=self._overhear, args=(child.stderr,), daemon=True))
        for ears in self._ears:
            ears.start()
        if child.stdin is not None:
            with suppress(BrokenPipeError), child.stdin:  # it has died already: that is seen later
                child.stdin.write(self._duties.brief(mouth))
        return child

    def _listen(self, ear: int) -> None:
        for event in receive(ear):
            self._hear(event)

    def _overhear(self, stderr: IO[bytes]) -> None:
        """Hear what Celery says past its own log: that it stops, or why it cannot begin."""
        with stderr:
            for line in stderr:
                said = line.decode(errors="replace").strip()
                if said:
                    facts = {"logger": "stderr"}
                    self._hear(Event("celery", message=said[:MESSAGE_CHARS], facts=facts))

    def _stop(self, child: subprocess.Popen[bytes]) -> None:
        child.terminate()
        try:
            child.wait(self._duties.grace_seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        for ears in self._ears:
            ears.join(DRAIN_SECONDS)
        with suppress(SpanmillError):  # the broker may refuse by now: leases lapse by themselves
            self._duties.lose()
