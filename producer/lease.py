"""A job's lock in an object store: an object that its holder writes anew, else it lapses.

Every write is conditional on the object seen before, so of two who take it one gets it. A holder
that died on this machine is known to be dead; of any other only the age of its lease is known, by
the store's clock against ours. Two clocks that differ by most of a lease can let a second command
in: it repeats work, and loses nothing, since the first shard of a batch wins.
"""

import os
import time
from dataclasses import dataclass
from threading import Event, Thread
from uuid import uuid4

import msgspec

from worker.contracts.bucket import Stat
from worker.contracts.errors import WorldError
from worker.contracts.object_store import ObjectStore
from worker.contracts.process import ProcessName, is_known_dead, name_process

LEASE_SECONDS = 60.0
RENEW_SECONDS = 10.0
_TRIES = 3


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a job; the process as ``worker.contracts.process`` names it."""

    token: str
    host: str
    pid: int
    kernel: str
    born: str


class Lease:
    """A wish to hold a job, and its hold."""

    def __init__(self, store: ObjectStore, key: str, seconds: float = LEASE_SECONDS) -> None:
        """Take the lock's key; nothing is written yet."""
        self._store = store
        self._key = key
        self._seconds = seconds
        me = name_process(os.getpid())
        self._me = Holder(uuid4().hex, me.host, me.pid, me.kernel, me.born)
        self._seen: Stat | None = None
        self._over = Event()
        self._lost = Event()
        self._thread = Thread(target=self._renew, daemon=True)

    def take(self) -> Holder | None:
        """Take the job; return who holds it instead, or None for success."""
        holder: Holder | None = None
        for _ in range(_TRIES):
            seen, holder = self._look()
            if holder is not None and holder.token == self._me.token:
                self._seen = seen
                self._thread.start()
                return None
            if seen is None:
                self._store.put_new(self._key, msgspec.json.encode(self._me))
            elif holder is None or self._has_lapsed(seen, holder):
                self._store.replace(seen, msgspec.json.encode(self._me))
            else:
                return holder
        return self._look()[1]

    def is_lost(self) -> bool:
        """Say whether somebody else has taken it, after a time without the store."""
        return self._lost.is_set()

    def release(self) -> None:
        """Leave the job to whoever comes next.

        Raises:
            WorldError: the store is away; the lease lapses.
        """
        self._over.set()
        self._thread.join()
        if self._seen is not None and not self._lost.is_set():
            self._store.replace(self._seen, b"{}")

    def find_holder(self) -> Holder | None:
        """Return who holds the job right now; nothing is written."""
        seen, holder = self._look()
        return None if seen is None or holder is None or self._has_lapsed(seen, holder) else holder

    def _look(self) -> tuple[Stat | None, Holder | None]:
        found = self._store.look(self._key)
        if found is None:
            return None, None
        try:
            return found[1], msgspec.json.decode(found[0], type=Holder)
        except msgspec.DecodeError:  # released, or none of ours
            return found[1], None

    def _has_lapsed(self, seen: Stat, holder: Holder) -> bool:
        if is_known_dead(ProcessName(holder.host, holder.pid, holder.kernel, holder.born)):
            return True
        return time.time() - seen.changed_at > self._seconds

    def _renew(self) -> None:
        while not self._over.wait(min(RENEW_SECONDS, self._seconds / 6)):
            try:
                if self._seen is not None:
                    self._store.replace(self._seen, msgspec.json.encode(self._me))
                seen, holder = self._look()
            except WorldError:  # it lapses, or is renewed later
                continue
            if holder is None or holder.token != self._me.token:
                self._lost.set()
                return
            self._seen = seen
