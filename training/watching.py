"""Follows a run to its end: a line now and then, and a ring for whoever waits unheard."""

import time
from collections.abc import Callable
from pathlib import Path

from training.doorbell import QUEUE, Bell
from training.run_state import OVER, RunFolder, RunState
from training.run_status import RunStatus, describe, read_status
from worker.contracts.broker import Broker
from worker.contracts.errors import WorldError
from worker.contracts.ledger import Ledger

LOOK_SECONDS = 1.0
SECONDS_BETWEEN = 10.0
#: How often whoever follows a run looks for its being unheard.
RING_SECONDS = 5.0

Say = Callable[[str], None]


def watch(run: RunFolder, broker: Broker | None, say: Say) -> RunStatus:
    """Follow a run until it is over; with a broker, ring again for it when it waits."""
    ringing = None if broker is None else _Ringing(run, broker, say)
    said_at, said, at = 0.0, "", ""
    while True:
        status = read_status(run)
        line, place = describe(status), f"{status.state} {status.step} {status.reason}"
        if place != at or (line != said and time.monotonic() - said_at >= SECONDS_BETWEEN):
            say(line)
            said_at, said, at = time.monotonic(), line, place
        if RunState(status.state) in OVER:
            return status
        if ringing is not None:
            ringing.look()
        time.sleep(LOOK_SECONDS)


class _Ringing:
    """Rings again for one run; a broker that is away is told of once, and waited for."""

    def __init__(self, run: RunFolder, broker: Broker, say: Say) -> None:
        self._run, self._say = run, say
        self._bell = Bell(broker, run.folder.parent)
        self._ledger = Ledger(broker)
        self._looked_at = 0.0
        self._told: str | None = None

    def look(self) -> None:
        if time.monotonic() - self._looked_at < RING_SECONDS:
            return
        self._looked_at = time.monotonic()
        try:
            self._bell.ring_again([self._run])
            told = say_lonely(self._run, self._ledger)
        except WorldError as error:
            told = f"{error}; this goes on by itself"
        if told is not None and told != self._told:
            self._say(told)
        self._told = told


def say_lonely(run: RunFolder, ledger: Ledger) -> str | None:
    """Say that a run waits and no worker is heard, with the command that would help."""
    if run.read().state is not RunState.WAITING:
        return None
    if any(QUEUE in card.queues for card in ledger.list_workers()):
        return None
    root = Path(run.folder.parent)
    return f"no worker is heard: start `spanmill training worker --runs-root {root}`"
