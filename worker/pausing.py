"""Writes into a job's folder that the world stopped it."""

from contextlib import suppress

from worker.contracts.errors import SpanmillError
from worker.contracts.folder import JobFolder
from worker.contracts.job import State
from worker.contracts.ledger import Ledger
from worker.contracts.root import read_root
from worker.contracts.store import Store


def note_pause(ledger: Ledger, store: Store, job: str, reason: str) -> None:
    """Write that a job is paused, if the folder is the job's.

    The ledger is asked again behind it: others may have written meanwhile that the job goes on or
    was cancelled, and that must stand last. The disk may be what is broken; the ledger says it too.
    """
    with suppress(SpanmillError):
        counts = ledger.count(job)
        if counts is None or not counts.stuck or read_root(store) != counts.root:
            return
        folder = JobFolder(store, job)
        folder.put_event(State.PAUSED, reason)
        counts = ledger.count(job)
        if counts is not None and counts.cancelled:
            folder.put_event(State.CANCELLED)
        elif counts is None or not counts.stuck:
            folder.put_event(State.RUNNING)
