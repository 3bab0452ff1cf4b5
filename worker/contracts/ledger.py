"""The ledger: which batches are in flight, leased, done, and which jobs are cancelled.

A cache: all of it follows from the job's folder and its input, so losing it loses no row.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any
from uuid import uuid4

import msgspec
from redis.exceptions import RedisError

from worker.contracts import scripts
from worker.contracts.broker import CONNECT_SECONDS, Broker, connect, translate
from worker.contracts.flight import (
    About,
    Admission,
    Begun,
    Counts,
    Death,
    Dying,
    Flight,
    Lapsed,
    Mark,
    Room,
    Turn,
    WorkerCard,
)

#: In place of rows: more than can be named; and none that anybody knows of.
_MANY, _UNMARKED = "*", "-"


class Ledger:
    """The ledger of one broker.

    Raises from every method: WorldError when the broker is away, UsageError when it refuses.
    """

    def __init__(self, broker: Broker) -> None:
        """Name the broker; the first call connects."""
        self.broker = broker
        self._redis = connect(broker)
        self._scripts: dict[str, Any] = {}

    def check(self, keys: Sequence[str] = (), channel: str | None = None) -> None:
        """Find out what the broker will not let spanmill do, before any work.

        ``keys`` are names like those of the transport's keys; ``channel`` is one that it hears.
        """
        self._run(scripts.CHECK, f"{scripts.PREFIX}:check", *keys)
        if channel is not None:
            self._listen(channel)
        card = WorkerCard(f"check-{uuid4().hex}", (), 0, 0, "")
        self.hear(card)
        self.forget_worker(card.worker)

    def open_job(self, about: About) -> None:
        """Begin a job, or go on with it: what is counted stays, a cancellation does not."""
        self._run(scripts.OPEN, about.job, about.queue, about.root, about.made, about.batches)

    def admit(self, job: str, batch: int, payload: bytes, room: Room) -> Admission:
        """Put a batch in flight with its payload, if there is room and it is not there yet."""
        reply = self._run(scripts.ADMIT, job, batch, payload, room.max_batches, room.max_bytes)
        return Admission(reply.decode())

    def has_room(self, job: str, size_bytes: int, room: Room) -> bool:
        """Say whether it is worth trying to admit a payload of this size."""
        asked = (job, size_bytes, room.max_batches, room.max_bytes)
        return bool(self._run(scripts.ASK_ROOM, *asked))

    def begin(self, job: str, batch: int, holder: str) -> Begun:
        """Ask for a batch's lease. An earlier one that ended without a word counts as a death."""
        reply = self._run(scripts.BEGIN, job, batch, holder)
        turn = Turn(reply[0].decode())
        if turn != Turn.RUN:
            return Begun(turn)
        deaths = tuple(_read_death(one.decode()) for one in reply[5])
        return Begun(turn, reply[1], reply[2], reply[3].decode(), reply[4].decode(), deaths)

    def renew(self, job: str, batch: int, holder: str) -> bool:
        """Lengthen a lease; False: it is another's by now."""
        return bool(self._run(scripts.RENEW, job, batch, holder))

    def give_back(self, job: str, batch: int, holder: str, why: str, delay_seconds: float) -> bool:
        """End a lease and its attempt as if it had not been; return whether this stops the job.

        It does so once, when complaints have gone on for STUCK_SECONDS, until a batch is done; a
        cancelled job has stopped already.
        """
        return bool(self._run(scripts.GIVE_BACK, job, batch, holder, delay_seconds, why))

    def postpone(
        self,
        job: str,
        batch: int,
        delay_seconds: float,
        queues: Sequence[str],
        held: Sequence[str] = (),
    ) -> bool:
        """Have a batch that waits sent again later; False where no other job would be the sooner.

        Another job is one that waits in one of these queues and is not held here too.
        What does not wait any more needs no delay, and its message is of no use.
        """
        return bool(
            self._run(scripts.POSTPONE, job, batch, delay_seconds, len(queues), *queues, *held)
        )

    def mark(self, job: str, batch: int, holder: str, mark: Mark) -> None:
        """Keep the holder's mark, for the case that nobody is left to tell it."""
        self._run(scripts.MARK, job, batch, holder, _write_rows(mark))

    def bury(self, job: str, batch: int, holder: str, death: Dying) -> bool:
        """Write down that a lease's process died, or as good as died.

        Return whether this stops the job, as `give_back` does: deaths before a row is read complain
        from the second one of a batch on.
        """
        rows = _UNMARKED if death.mark is None else _write_rows(death.mark)
        return bool(
            self._run(
                scripts.DIED,
                job, batch, holder, death.how, death.delay_seconds, death.trouble, rows,
            )
        )  # fmt: skip

    def lose(self, worker: str) -> None:
        """Let all leases of a worker lapse now: its processes ended, by no row's doing."""
        self._run(scripts.LOSE, f"{worker}/")

    def discard(self, job: str, batch: int) -> None:
        """Throw away a payload that cannot be read, and ask for another."""
        self._run(scripts.DISCARD, job, batch)

    def commit(self, job: str, batch: int, rows: int, errors: int) -> bool:
        """Count a batch that has its shard; return whether the job had been stopped until now."""
        return bool(self._run(scripts.COMMIT, job, batch, rows, errors)[1])

    def recount(self, job: str, shards: Iterable[tuple[int, int, int]]) -> None:
        """Count many batches that have their shards: number, rows and errors of each."""
        for some in _chunks(shards):
            self._run(scripts.COMMIT, job, *(number for one in some for number in one))

    def read_done(self, job: str) -> bytes | None:
        """Return the bits of the counted batches, or None for a job that is not known here."""
        reply: bytes | None = self._run(scripts.READ_DONE, job)
        return reply

    def lapsed(self) -> list[Lapsed]:
        """Take the batches whose message is to be sent again; each is told to one caller."""
        reply = self._run(
            scripts.LAPSED, scripts.LAPSED_AT_ONCE, scripts.LOST_SECONDS, scripts.OVERTAKEN_SECONDS
        )
        return [
            Lapsed(job.decode(), int(batch), int(attempt), queue.decode())
            for job, batch, attempt, queue in reply
        ]

    def count(self, job: str) -> Counts | None:
        """Return how a job stands, or None when it is not known here."""
        reply = self._run(scripts.COUNTS, job)
        if reply is None:
            return None
        batches, done, rows, errors, in_flight, busy, wanted = (int(one) for one in reply[:7])
        trouble = reply[9].decode()
        return Counts(
            queue=reply[10].decode(),
            made=reply[11].decode(),
            root=reply[12].decode(),
            batches=batches,
            batches_done=done,
            rows_done=rows,
            errors=errors,
            in_flight=in_flight,
            busy=busy,
            wanted=wanted,
            cancelled=bool(reply[7]),
            stuck=bool(reply[8]),
            trouble=trouble if trouble else None,
        )

    def cancel(self, job: str) -> None:
        """Keep workers from beginning the job's batches."""
        self._run(scripts.CLOSE, job, 0)

    def forget(self, job: str) -> None:
        """Remove all that is known of a job."""
        self._run(scripts.CLOSE, job, 1)

    def hear(self, card: WorkerCard) -> None:
        """Write down that a worker is there; it is forgotten when it is not heard again."""
        self._run(scripts.HEAR, card.worker, msgspec.json.encode(card))

    def forget_worker(self, worker: str) -> None:
        """Strike a worker that leaves."""
        self._run(scripts.FORGET_WORKER, worker)

    def list_workers(self) -> list[WorkerCard]:
        """Return the workers heard lately."""
        return [
            msgspec.json.decode(raw, type=WorkerCard)
            for raw in self._run(scripts.LIST_WORKERS)
            if raw
        ]

    def flight(self) -> Flight:
        """Return what is in flight at the broker."""
        waiting, begun, payload_bytes, oldest_ms = self._run(scripts.READ_FLIGHT)
        return Flight(waiting, begun, payload_bytes, oldest_ms / 1e3)

    def _listen(self, channel: str) -> None:
        try:
            with self._redis.pubsub() as line:  # type: ignore[no-untyped-call]
                line.psubscribe(channel)
                line.get_message(timeout=CONNECT_SECONDS)
        except RedisError as error:
            raise translate(error, self.broker) from error

    def _run(self, body: str, *arguments: bytes | str | float) -> Any:
        script = self._scripts.get(body)
        if script is None:
            script = self._scripts[body] = self._redis.register_script(scripts.fill(body))
        try:
            return script(args=arguments)
        except RedisError as error:
            raise translate(error, self.broker) from error


def _chunks(shards: Iterable[tuple[int, int, int]]) -> Iterator[list[tuple[int, int, int]]]:
    waiting = iter(shards)
    while some := list(islice(waiting, scripts.COUNTED_AT_ONCE)):
        yield some


def _write_rows(mark: Mark) -> str:
    return _MANY if mark.rows is None else ",".join(map(str, mark.rows))


def _read_death(text: str) -> Death:
    """Read ``exit code;rows``: the script wrote it. "?" is a death that nobody saw."""
    how, rows = text.split(";", 1)
    named = None
    if rows != _MANY:
        named = tuple(int(row) for row in rows.strip(_UNMARKED).split(",") if row)
    return Death(
        exit_code=int(how) if how not in ("?", "hung") else None,
        rows=named,
        hung=how == "hung",
        marked=rows != _UNMARKED,
    )
