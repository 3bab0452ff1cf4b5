"""Answer a job's batches through the fleet: publish what is missing, then follow until all is done.

What is published is bounded by the ledger; what gets lost on the way is sent or published again.
"""

import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from producer.diary import Diary
from producer.follow import Follower
from producer.meter import Meter
from producer.run import Interrupted, Published, Run, is_answered, missing_batches
from worker.contracts.broker import parse_broker
from worker.contracts.errors import JobError, UsageError, WorldError
from worker.contracts.flight import About, Admission, Room
from worker.contracts.ledger import Ledger
from worker.contracts.queue import SENDER_KEYS, name_queue
from worker.contracts.resend import Resender
from worker.contracts.root import name_root
from worker.contracts.shard import encode_payload, read_footer

#: Waits while there is no room, and while others answer.
FULL_SECONDS = 0.05
FOLLOW_SECONDS = 0.2
#: Before everything that is still missing is looked at again.
AGAIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Fleet:
    """The workers of a queue, by its name at the broker. ``wait``: until all is answered."""

    ledger: Ledger
    resender: Resender
    queue: str
    room: Room
    meter: Meter
    wait: bool = True

    def answer(self, run: Run, diary: Diary) -> None:
        """See to it that every batch has its shard.

        Raises:
            Interrupted: the user stopped it; what is at the broker is still answered.
            Published: all is at the broker, and nobody waits.
            JobError: it was cancelled, has too many errors, or cannot go on.
        """
        if is_answered(run.folder, run.manifest):
            return
        self.meter.begin(run.manifest, self.queue)
        follower = Follower(run, diary, self.ledger, self.resender, self.meter)
        with run.listening(), run.progress:
            try:
                _Publisher(self, run, follower).run()
            except (WorldError, UsageError) as error:  # a password that was changed meanwhile
                raise JobError(f"{error}, then run `{run.name_resume()}`") from error


def open_fleet(
    broker_url: str, queue: str, in_flight: tuple[int, int], meter: Meter, *, wait: bool
) -> Fleet:
    """Return the fleet at a broker, which is checked. ``in_flight``: batches and bytes.

    Raises:
        UsageError: the URL or the queue's name is none, or the broker refuses.
        WorldError: the broker is away.
    """
    broker = parse_broker(broker_url)
    ledger = Ledger(broker)
    ledger.check(SENDER_KEYS)
    return Fleet(ledger, Resender(broker, ledger), name_queue(queue), Room(*in_flight), meter, wait)


class _Publisher:
    def __init__(self, fleet: Fleet, run: Run, follower: Follower) -> None:
        self._fleet = fleet
        self._run = run
        self._follower = follower
        self._job = run.manifest.job

    def run(self) -> None:
        """Publish what is missing, again and again until nothing is."""
        while True:
            self._follower.insist(self._open)
            missing = missing_batches(
                self._run, self._stopping, lambda _: None, self._follower.suffer
            )
            for number, table in missing:
                self._put(number, encode_payload(self._job, number, table))
            if not self._fleet.wait:
                self._follower.leave()
                raise Published
            if self._follow() and self._follower.insist(self._is_answered):
                with suppress(WorldError):  # its keys expire
                    self._fleet.ledger.forget(self._job)
                return
            self._pass_time(AGAIN_SECONDS)

    def _is_answered(self) -> bool:
        return is_answered(self._run.folder, self._run.manifest)

    def _open(self) -> None:
        """Tell the ledger of the job, and of the shards that it does not know."""
        ledger, folder = self._fleet.ledger, self._run.folder
        manifest = self._run.manifest
        folder.put_submitted()
        token = name_root(folder.store)
        about = About(self._job, self._fleet.queue, token, manifest.created_at, manifest.batches)
        self._clear(about)
        counted = self._read_counted()  # first: a batch that is counted has its shard by then
        done = np.zeros_like(counted)
        for number in folder.iter_done():
            done[number : number + 1] = True  # none, of a number that the job has not
        if (counted & ~done).any():  # a shard was deleted: it is missing again
            ledger.forget(self._job)
            counted[:] = False
        ledger.open_job(about)
        fresh = map(int, np.flatnonzero(done & ~counted))
        stats = (read_footer(partial(folder.need_tail, number)).stats for number in fresh)
        ledger.recount(self._job, ((one.batch, one.rows, one.errors) for one in stats))
        self._follower.begin()

    def _clear(self, about: About) -> None:
        """Wait for the end of a job of the same name that this one replaces, and forget it."""
        ledger = self._fleet.ledger
        counts = ledger.count(self._job)
        if counts is None or counts.made == about.made:
            return
        if counts.root != about.root:
            raise JobError(
                f"another jobs' folder has a job {self._job} at this broker: give this one another"
                " name by --job-id"
            )
        ledger.cancel(self._job)
        was_busy = counts.busy > 0
        while counts is not None and counts.busy:
            if self._run.interrupted():
                raise Interrupted
            time.sleep(FOLLOW_SECONDS)
            counts = ledger.count(self._job)
        if was_busy:  # shards may be of the job that is replaced
            self._run.folder.store.remove(f"{self._job}/shards")
        ledger.forget(self._job)

    def _read_counted(self) -> NDArray[np.bool_]:
        """Return which batches the ledger has counted. Shape: ``(batches,)``."""
        bits = self._fleet.ledger.read_done(self._job)
        raw = np.frombuffer(b"" if bits is None else bits, dtype=np.uint8)
        counted = np.zeros(self._run.manifest.batches, np.bool_)
        known = np.unpackbits(raw)[: len(counted)]
        counted[: len(known)] = known
        return counted

    def _put(self, number: int, payload: bytes) -> None:
        """Put one batch in flight as soon as there is room."""
        began = time.monotonic()
        while True:
            self._look()
            admission = self._follower.insist(
                lambda: self._fleet.ledger.admit(self._job, number, payload, self._fleet.room)
            )
            if admission == Admission.FULL:
                self._wait_for_room(len(payload), began)
            elif admission == Admission.UNKNOWN:
                self._follower.insist(self._open)
            elif admission == Admission.CANCELLED:
                raise JobError(self._follower.say_cancelled())
            elif admission == Admission.ADMITTED:
                self._fleet.meter.publish(len(payload))
                self._send(number)
                return
            else:
                return

    def _wait_for_room(self, size_bytes: int, since: float) -> None:
        """Wait until a payload is worth sending: while workers are slow, most would come back."""
        fleet, has_room = self._fleet, False
        while not has_room:
            self._look()
            fleet.meter.wait(FULL_SECONDS)
            self._follower.wait_for_room(since)
            time.sleep(FULL_SECONDS)
            has_room = self._follower.insist(
                lambda: fleet.ledger.has_room(self._job, size_bytes, fleet.room)
            )

    def _send(self, number: int) -> None:
        try:
            self._fleet.resender.send(self._job, number, 1, self._fleet.queue)
        except WorldError as error:
            self._follower.suffer(str(error))  # the batch is in flight: its message is sent again

    def _follow(self) -> bool:
        """Wait until all batches are counted, or until something has to be published again."""
        while True:
            self._pass_time(FOLLOW_SECONDS)
            counts = self._follower.counts
            if counts is None:
                return False
            if counts.batches_done >= counts.batches:
                return True
            if counts.wanted or not counts.in_flight:
                return False

    def _pass_time(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._look()
            time.sleep(FULL_SECONDS)

    def _stopping(self) -> bool:
        self._look()
        return False

    def _look(self) -> None:
        self._follower.look()
        if self._run.interrupted():
            raise Interrupted
