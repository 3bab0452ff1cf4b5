"""A job's folder in the store: its manifest, the events that say its state, its shards."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from worker.contracts.errors import JobError, UsageError
from worker.contracts.job import (
    MANIFEST,
    JobManifest,
    State,
    check_job_id,
    decode_manifest,
    encode_manifest,
    shard_key,
)
from worker.contracts.store import Store

# Whatever else lies in the folders (an editor's backup, a newer version's state) is passed over.
_EVENT = re.compile(rf"(\d{{4,}})-({'|'.join(State)})\.json")
_SHARD = re.compile(r"(\d{7,})\.parquet")
_SUBMITTED = "submitted"


@dataclass(frozen=True, slots=True)
class Event:
    """A change of a job's state, its time in ISO 8601, and its reason in words."""

    state: State
    at: str
    reason: str | None = None


class JobFolder:
    """One job in a store."""

    def __init__(self, store: Store, job: str) -> None:
        """Name the job; nothing is read yet.

        Raises:
            UsageError: the id is none.
        """
        self.store = store
        self.job = check_job_id(job)

    def read_manifest(self) -> JobManifest | None:
        """Return the manifest, or None when the job has none yet.

        Raises:
            JobError: it is damaged, too new, or another job's.
        """
        raw = self.store.read(f"{self.job}/{MANIFEST}")
        if raw is None:
            return None
        manifest = decode_manifest(raw, f"{self.job}/{MANIFEST}")
        if manifest.job != self.job:
            raise JobError(
                f"the folder {self.job} holds the job {manifest.job!r}: give it that name back"
            )
        return manifest

    def need_manifest(self) -> JobManifest:
        """Return the manifest.

        Raises:
            JobError: there is no such job, or it was never validated.
        """
        manifest = self.read_manifest()
        if manifest is None and self._events():
            raise JobError(
                f"the job {self.job} ended before its input was checked: give its whole command"
                " again"
            )
        if manifest is None:
            raise JobError(
                f"there is no job {self.job!r} here: list them with `spanmill jobs`, or name their"
                " folder with --jobs-root"
            )
        return manifest

    def put_manifest(self, manifest: JobManifest) -> bool:
        """Write the manifest once; say whether this call did."""
        return self.store.put_new(f"{self.job}/{MANIFEST}", encode_manifest(manifest))

    def put_submitted(self) -> None:
        """Note that the job was given to a fleet."""
        self.store.put_new(f"{self.job}/{_SUBMITTED}", b"")

    def was_submitted(self) -> bool:
        """Say whether the job was ever given to a fleet."""
        return self.store.exists(f"{self.job}/{_SUBMITTED}")

    def read_events(self) -> list[Event]:
        """Return all events, oldest first.

        Raises:
            JobError: one is damaged.
        """
        names = [f"{self.job}/events/{number:04d}-{state}.json" for number, state in self._events()]
        return [_decode_event(name, raw) for name in names if (raw := self.store.read(name))]

    def read_state(self) -> State | None:
        """Return the state from the last event's name alone, or None for a job without one."""
        events = self._events()
        return events[-1][1] if events else None

    def count_events(self, state: State) -> int:
        """Return how often the job came into a state."""
        return sum(1 for _, one in self._events() if one == state)

    def put_event(self, state: State, reason: str | None = None) -> None:
        """Append an event, unless the last one says the same."""
        events = self._events()
        if events and events[-1][1] == state and reason is None:
            return
        number = events[-1][0] + 1 if events else 1
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        raw = msgspec.json.encode(Event(state, at, reason))
        while not self.store.put_new(f"{self.job}/events/{number:04d}-{state}.json", raw):
            number += 1

    def list_done(self, thousand: int) -> frozenset[int]:
        """Return the numbers of a thousand's batches that have a shard."""
        names = self.store.names(f"{self.job}/shards/{thousand:04d}")
        found = (_SHARD.fullmatch(name) for name in names)
        return frozenset(int(one[1]) for one in found if one is not None)

    def iter_done(self) -> Iterator[int]:
        """Yield the numbers of all batches that have a shard, in order."""
        names = self.store.names(f"{self.job}/shards")
        for thousand in sorted(int(name) for name in names if name.isdecimal()):
            yield from sorted(self.list_done(thousand))

    def need_shard(self, batch: int) -> bytes:
        """Return a batch's shard.

        Raises:
            JobError: the batch is not done.
        """
        return self._need(batch, self.store.read(shard_key(self.job, batch)))

    def need_tail(self, batch: int, size_bytes: int) -> bytes:
        """Return the last bytes of a batch's shard.

        Raises:
            JobError: the batch is not done.
        """
        return self._need(batch, self.store.read_tail(shard_key(self.job, batch), size_bytes))

    def _need(self, batch: int, raw: bytes | None) -> bytes:
        if raw is None:
            raise JobError(
                f"the job {self.job} lacks its batch {batch}: resume it, with its folder's"
                " --jobs-root"
            )
        return raw

    def _events(self) -> list[tuple[int, State]]:
        """Return the number and state of every event, from their names."""
        found = (_EVENT.fullmatch(name) for name in self.store.names(f"{self.job}/events"))
        return sorted((int(one[1]), State(one[2])) for one in found if one is not None)


def _decode_event(name: str, raw: bytes) -> Event:
    try:
        return msgspec.json.decode(raw, type=Event)
    except (msgspec.DecodeError, RecursionError) as error:
        raise JobError(f"{name} is not an event ({error}): remove that file") from error


def list_jobs(store: Store) -> list[str]:
    """Return the ids of all jobs in a store."""
    return [name for name in store.names("") if is_job(store, name)]


def is_job(store: Store, name: str) -> bool:
    """Say whether there is a job of this name."""
    return _may_be_job(name) and (
        bool(store.names(f"{name}/events")) or store.exists(f"{name}/{MANIFEST}")
    )


def _may_be_job(name: str) -> bool:
    try:
        return check_job_id(name) == name
    except UsageError:
        return False
