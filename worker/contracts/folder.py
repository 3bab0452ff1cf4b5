"""A job's folder in the store: its manifest, the events that say its state, its shards."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from worker.contracts.errors import JobError
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
        """Return the manifest, or None when the job has none yet."""
        raw = self.store.read(f"{self.job}/{MANIFEST}")
        return None if raw is None else decode_manifest(raw, f"{self.job}/{MANIFEST}")

    def need_manifest(self) -> JobManifest:
        """Return the manifest.

        Raises:
            JobError: there is no such job, or it was never validated.
        """
        manifest = self.read_manifest()
        if manifest is None:
            raise JobError(
                f"there is no job {self.job!r} here: list them with `spanmill jobs`, or name their"
                " folder with --jobs-root"
            )
        return manifest

    def put_manifest(self, manifest: JobManifest) -> bool:
        """Write the manifest once; say whether this call did."""
        return self.store.put_new(f"{self.job}/{MANIFEST}", encode_manifest(manifest))

    def read_events(self) -> list[Event]:
        """Return all events, oldest first."""
        raw = (self.store.read(f"{self.job}/events/{name}") for name in self._event_names())
        return [msgspec.json.decode(one, type=Event) for one in raw if one is not None]

    def read_state(self) -> State | None:
        """Return the state from the last event's name alone, or None for a job without one."""
        names = self._event_names()
        return State(names[-1].removesuffix(".json").split("-", 1)[1]) if names else None

    def put_event(self, state: State, reason: str | None = None) -> None:
        """Append an event, unless the last one says the same."""
        names = self._event_names()
        if names and names[-1].endswith(f"-{state}.json") and reason is None:
            return
        number = int(names[-1].split("-", 1)[0]) + 1 if names else 1
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        raw = msgspec.json.encode(Event(state, at, reason))
        while not self.store.put_new(f"{self.job}/events/{number:04d}-{state}.json", raw):
            number += 1

    def list_done(self, thousand: int) -> frozenset[int]:
        """Return the numbers of a thousand's batches that have a shard."""
        names = self.store.names(f"{self.job}/shards/{thousand:04d}")
        return frozenset(int(name.split(".")[0]) for name in names if name.endswith(".parquet"))

    def iter_done(self) -> Iterator[int]:
        """Yield the numbers of all batches that have a shard, in order."""
        thousands = sorted(int(name) for name in self.store.names(f"{self.job}/shards"))
        for thousand in thousands:
            yield from sorted(self.list_done(thousand))

    def need_shard(self, batch: int) -> bytes:
        """Return a batch's shard.

        Raises:
            JobError: the batch is not done.
        """
        raw = self.store.read(shard_key(self.job, batch))
        if raw is None:
            raise JobError(
                f"the job {self.job} lacks its batch {batch}: run `spanmill resume {self.job}`"
            )
        return raw

    def _event_names(self) -> list[str]:
        return self.store.names(f"{self.job}/events")


def list_jobs(store: Store) -> list[str]:
    """Return the ids of all jobs in a store."""
    return [
        name
        for name in store.names("")
        if name != "bundles"
        and (store.names(f"{name}/events") or store.exists(f"{name}/{MANIFEST}"))
    ]
