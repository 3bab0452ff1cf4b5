"""The ledger's promises, against a real redis-server."""

import threading
import time

import pytest
from redis import Redis

from tests.redis_server import RedisServer
from worker.contracts import scripts
from worker.contracts.errors import WorldError
from worker.contracts.flight import About, Admission, Death, Dying, Mark, Room, Turn, WorkerCard
from worker.contracts.ledger import Ledger

JOB = "mill-1"
ROOM = Room(max_batches=4, max_bytes=1000)


@pytest.fixture
def job(ledger: Ledger) -> str:
    ledger.open_job(About(JOB, "spanmill-test", "token", "now", 10))
    return JOB


def lapse(client: Redis, job: str, batch: int) -> None:
    """Let a lease, or the time until a batch is sent again, be over."""
    client.zadd(scripts.LEASES, {f"{job}:{batch}": 1.0}, xx=True)


def let_complaints_last(client: Redis, job: str) -> None:
    """Let the first complaint of a job be of some time ago."""
    first = time.time() - scripts.STUCK_SECONDS - 1
    assert client.hset(f"spanmill:{{{job}}}:about", "troubled", str(first)) == 0


def test_a_batch_goes_its_way_and_leaves_nothing_but_its_count(
    ledger: Ledger, redis_server: RedisServer, job: str
) -> None:
    assert ledger.admit(job, 3, b"rows", ROOM) == Admission.ADMITTED
    assert ledger.flight().payload_bytes == 4
    begun = ledger.begin(job, 3, "a")
    assert (begun.turn, begun.attempt, begun.payload, begun.root) == (Turn.RUN, 1, b"rows", "token")
    assert not ledger.commit(job, 3, 8, 1)
    counts = ledger.count(job)
    assert counts is not None
    assert (counts.batches_done, counts.rows_done, counts.errors) == (1, 8, 1)
    assert (counts.in_flight, counts.busy, counts.trouble) == (0, 0, None)
    assert ledger.flight().payload_bytes == 0
    ledger.forget(job)
    assert set(redis_server.client.keys()) <= {
        b"spanmill:begun",
        b"spanmill:busy",
        b"spanmill:in-flight-bytes",
        b"spanmill:tended",
    }


def test_a_batch_is_counted_once_however_often_it_is_committed(ledger: Ledger, job: str) -> None:
    for _ in range(3):
        ledger.commit(job, 5, 8, 1)
    ledger.recount(job, [(5, 8, 1), (6, 2, 0)])
    counts = ledger.count(job)
    assert counts is not None
    assert (counts.batches_done, counts.rows_done, counts.errors) == (2, 10, 1)
    bits = ledger.read_done(job)
    assert bits is not None
    assert bits == bytes([0b00000110])


def test_a_batch_is_admitted_once(ledger: Ledger, job: str) -> None:
    assert ledger.admit(job, 0, b"x", ROOM) == Admission.ADMITTED
    assert ledger.admit(job, 0, b"x", ROOM) == Admission.IN_FLIGHT
    ledger.commit(job, 0, 1, 0)
    assert ledger.admit(job, 0, b"x", ROOM) == Admission.DONE
    assert ledger.admit("unheard-of", 0, b"x", ROOM) == Admission.UNKNOWN


def test_the_room_is_bounded_in_batches_and_in_bytes(ledger: Ledger, job: str) -> None:
    assert [ledger.admit(job, n, b"x", ROOM) for n in range(5)] == ["admitted"] * 4 + ["full"]
    ledger.commit(job, 0, 1, 0)
    assert ledger.admit(job, 4, b"x" * 998, ROOM) == Admission.FULL
    assert ledger.admit(job, 4, b"x" * 997, ROOM) == Admission.ADMITTED
    assert ledger.flight().payload_bytes == ROOM.max_bytes


def test_room_can_be_asked_for_without_the_payload(
    ledger: Ledger, redis_server: RedisServer, job: str
) -> None:
    assert ledger.has_room(job, 5000, ROOM)  # alone, it would be let in
    for number in range(3):
        ledger.admit(job, number, b"x", ROOM)
    assert ledger.has_room(job, 997, ROOM)
    assert not ledger.has_room(job, 998, ROOM)
    ledger.admit(job, 3, b"x", ROOM)
    assert not ledger.has_room(job, 1, ROOM)
    ledger.commit(job, 0, 1, 0)
    assert ledger.has_room(job, 1, ROOM)
    ledger.cancel(job)
    assert ledger.has_room(job, 998, ROOM)  # it is not for want of room that it is not let in
    redis_server.client.flushall()
    assert ledger.has_room(job, 998, ROOM)


def test_a_batch_larger_than_the_room_travels_alone(ledger: Ledger, job: str) -> None:
    assert ledger.admit(job, 0, b"x" * 5000, ROOM) == Admission.ADMITTED
    assert ledger.admit(job, 1, b"x", ROOM) == Admission.FULL


def test_producers_at_once_have_the_same_share_of_the_room(ledger: Ledger, job: str) -> None:
    ledger.open_job(About("mill-2", "spanmill-test", "token", "now", 10))
    for number in range(4):
        ledger.admit(job, number, b"x", ROOM)
    assert ledger.admit("mill-2", 0, b"x", ROOM) == Admission.ADMITTED
    assert ledger.admit("mill-2", 1, b"x", ROOM) == Admission.FULL
    for number in range(2):
        ledger.commit(job, number, 1, 0)
    assert ledger.admit(job, 4, b"x", ROOM) == Admission.FULL  # it has its half
    assert ledger.admit("mill-2", 1, b"x", ROOM) == Admission.ADMITTED


def test_a_job_whose_batches_nobody_takes_leaves_the_others_some_room(
    ledger: Ledger, redis_server: RedisServer, job: str
) -> None:
    ledger.open_job(About("mill-2", "spanmill-other", "token", "now", 10))
    for number in range(4):
        ledger.admit(job, number, b"x" * 250, ROOM)
    redis_server.client.lpush("spanmill-test", "a message")
    for number in range(10):
        assert ledger.admit("mill-2", number, b"x", ROOM) == Admission.ADMITTED
        assert ledger.admit("mill-2", number + 1, b"x", ROOM) != Admission.ADMITTED
        ledger.commit("mill-2", number, 1, 0)


def test_a_batch_whose_payload_expired_in_a_queue_gives_its_room_back(
    ledger: Ledger, redis_server: RedisServer, job: str
) -> None:
    client = redis_server.client
    for number in range(2):
        ledger.admit(job, number, b"x", ROOM)
        client.zadd(scripts.WAITING, {f"{job}:{number}": 1.0})
    client.lpush("spanmill-test", "a message", "another")
    client.delete(f"spanmill:{{{job}}}:payload:0")
    assert ledger.lapsed() == []
    counts = ledger.count(job)
    assert counts is not None
    assert (counts.in_flight, counts.wanted, ledger.flight().payload_bytes) == (1, 1, 1)


def test_one_of_many_workers_gets_the_lease(ledger: Ledger, job: str) -> None:
    ledger.admit(job, 0, b"x", ROOM)
    turns: list[Turn] = []
    threads = [
        threading.Thread(
            target=lambda name: turns.append(ledger.begin(job, 0, name).turn), args=[n]
        )
        for n in "abcde"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(turns) == ["leased"] * 4 + ["run"]


def test_a_done_batch_is_not_run_again(ledger: Ledger, job: str) -> None:
    ledger.commit(job, 0, 1, 0)
    assert ledger.begin(job, 0, "a").turn == Turn.DONE


def test_a_cancelled_job_is_not_begun_and_takes_no_room(ledger: Ledger, job: str) -> None:
    ledger.admit(job, 0, b"x", ROOM)
    ledger.admit(job, 1, b"x", ROOM)
    ledger.begin(job, 1, "a")
    ledger.cancel(job)
    assert ledger.begin(job, 0, "b").turn == Turn.CANCELLED
    assert ledger.admit(job, 2, b"x", ROOM) == Admission.CANCELLED
    ledger.commit(job, 1, 1, 0)  # what was begun still counts
    counts = ledger.count(job)
    assert counts is not None
    assert (counts.cancelled, counts.batches_done, counts.in_flight) == (True, 1, 0)
    ledger.open_job(About(JOB, "spanmill-test", "token", "now", 10))
    assert ledger.admit(job, 0, b"x", ROOM) == Admission.ADMITTED


def test_put_off_batches_of_a_cancelled_job_are_not_sent_again_and_hold_no_room(
    ledger: Ledger, redis_server: RedisServer, job: str
) -> None:
    for batch in range(3):
        ledger.admit(job, batch, b"x", ROOM)
        ledger.begin(job, batch, "a")
    ledger.give_back(job, 0, "a", "the disk is full", 5.0)
    ledger.cancel(job)
    assert ledger.flight().payload_bytes == 2  # somebody is at the others
    ledger.give_back(job, 1, "a", "the disk is full", 5.0)
    for batch in (1, 2):
        lapse(redis_server.client, job, batch)
    assert ledger.lapsed() == []
    assert ledger.flight().payload_bytes == 0


def test_nothing_is_said_of_a_job_after_it_was_cancelled(
    ledger: Ledger, redis_server: RedisServer, job: str
) -> None:
    for batch in range(3):
        ledger.admit(job, batch, b"x", ROOM)
        ledger.begin(job, batch, "a")
    assert not ledger.give_back(job, 0, "a", "the disk is full", 5.0)
    let_complaints_last(redis_server.client, job)
    assert ledger.give_back(job, 1, "a", "the disk is full", 5.0)
    ledger.cancel(job)
    assert not ledger.commit(job, 2, 1, 0)
    ledger.open_job(About(JOB, "spanmill-test", "token", "now", 10))
    for batch in range(3, 5):
        ledger.admit(job, batch, b"x", Room())
        ledger.begin(job, batch, "a")
    assert not ledger.give_back(job, 3, "a", "the disk is full", 5.0)
    let_complaints_last(redis_server.client, job)
    ledger.cancel(job)
    assert not ledger.give_back(job, 4, "a", "the disk is full", 5.0)


def test_a_payload_that_is_gone_is_asked_for(
    ledger: Ledger, redis_server: RedisServer, job: str
) -> None:
    ledger.admit(job, 0, b"x", ROOM)
    redis_server.client.delete(f"spanmill:{{{job}}}:payload:0")
    assert ledger.begin(job, 0, "a").turn == Turn.GONE
    counts = ledger.count(job)
    assert counts is not None
    assert (counts.wanted, counts.in_flight) == (1, 0)
    assert ledger.admit(job, 0, b"x", ROOM) == Admission.ADMITTED
    counts = ledger.count(job)
    assert counts is not None
    assert counts.wanted == 0
    assert ledger.begin(job, 0, "a").turn == Turn.RUN


def test_a_message_of_an_unknown_job_leaves_no_trace(
    ledger: Ledger, redis_server: RedisServer
) -> None:
    assert ledger.begin("unheard-of", 0, "a").turn == Turn.GONE
    assert redis_server.client.keys() == []


def test_a_lapsed_lease_is_sent_again_to_one_caller(
    ledger: Ledger, redis_server: RedisServer, job: str
) -> None:
    ledger.admit(job, 0, b"x", ROOM)
    ledger.begin(job, 0, "a")
    assert ledger.lapsed() == []
    lapse(redis_server.client, job, 0)
    (lapsed,) = ledger.lapsed()
    assert (lapsed.job, lapsed.batch, lapsed.queue) == (job, 0, "spanmill-test")
    assert ledger.lapsed() == []
    assert not ledger.renew(job, 0, "a")  # it is no longer a's
    begun = ledger.begin(job, 0, "b")
    assert (begun.attempt, len(begun.deaths)) == (2, 1)
    assert begun.deaths[0] == Death(exit_code=None, rows=(), hung=False, marked=False)


def test_a_renewed_lease_does_not_lapse(
    ledger: Ledger, redis_server: RedisServer, job: str
) -> None:
    ledger.admit(job, 0, b"x", ROOM)
    ledger.begin(job, 0, "a")
    lapse(redis_server.client, job, 0)
    assert ledger.renew(job, 0, "a")
    assert not ledger.renew(job, 0, "b")
    assert ledger.lapsed() == []


def test_a_message_lost_on_its_way_is_sent_again(
    ledger: Ledger, redis_server: RedisServer, job: str
) -> None:
    ledger.admit(job, 0, b"x", ROOM)
    redis_server.client.zadd(scripts.WAITING, {f"{job}:0": 1.0})
    redis_server.client.lpush("spanmill-test", "a message")
    assert ledger.lapsed() == []  # it may still wait in the queue
    redis_server.client.delete("spanmill-test")
    assert [one.batch for one in ledger.lapsed()] == [0]


def test_a_message_overtaken_by_later_ones_is_sent_again(
    ledger: Ledger, redis_server: RedisServer, job: str
) -> None:
    client = redis_server.client
    client.lpush("spanmill-test", "a message")
    ledger.admit(job, 0, b"x", ROOM)
    ledger.admit(job, 1, b"x", ROOM)
    client.zadd(scripts.WAITING, {f"{job}:0": time.time() - 60})
    assert ledger.lapsed() == []
    ledger.begin(job, 1, "a")
    assert [one.batch for one in ledger.lapsed()] == [0]


def test_what_nobody_can_send_again_gives_its_room_back(
    ledger: Ledger, redis_server: RedisServer, job: str
) -> None:
    ledger.admit(job, 0, b"x", ROOM)
    client = redis_server.client
    client.zadd(scripts.WAITING, {f"{job}:0": 1.0})
    client.delete(f"spanmill:{{{job}}}:payload:0")
    assert ledger.lapsed() == []
    counts = ledger.count(job)
    assert counts is not None
    assert (counts.in_flight, counts.wanted, ledger.flight().payload_bytes) == (0, 1, 0)


def test_giving_a_lease_back_uses_no_attempt_and_says_why(
    ledger: Ledger, redis_server: RedisServer, job: str
) -> None:
    ledger.admit(job, 0, b"x", ROOM)
    ledger.begin(job, 0, "a")
    ledger.give_back(job, 0, "a", "the disk is full", 5.0)
    assert not ledger.give_back(job, 0, "a", "it is another's", 5.0)  # no longer a's
    assert ledger.begin(job, 0, "b").turn == Turn.LEASED  # too early
    counts = ledger.count(job)
    assert counts is not None
    assert (counts.trouble, counts.busy) == ("the disk is full", 0)
    lapse(redis_server.client, job, 0)
    assert [one.batch for one in ledger.lapsed()] == [0]
    begun = ledger.begin(job, 0, "b")
    assert (begun.attempt, begun.deaths) == (1, ())


def test_a_batch_is_put_off_for_the_sake_of_other_jobs_alone(
    ledger: Ledger, redis_server: RedisServer, job: str
) -> None:
    ledger.admit(job, 0, b"x", ROOM)
    queues = ["spanmill-test"]
    assert not ledger.postpone(job, 0, 5.0, queues)
    assert ledger.begin(job, 0, "a").turn == Turn.RUN
    ledger.admit(job, 1, b"x", ROOM)
    ledger.open_job(About("mill-2", "spanmill-test", "token", "now", 10))
    ledger.admit("mill-2", 0, b"x", ROOM)
    assert not ledger.postpone(job, 1, 5.0, ["spanmill-other"])  # nobody here could take it
    assert not ledger.postpone(job, 1, 5.0, queues, ["mill-2"])  # it is held, too
    assert [ledger.postpone(job, batch, 5.0, queues) for batch in (0, 1)] == [True, True]
    assert ledger.renew(job, 0, "a")  # what is begun is not put off
    assert ledger.begin(job, 1, "a").turn == Turn.LEASED
    assert ledger.lapsed() == []
    lapse(redis_server.client, job, 1)
    assert [one.batch for one in ledger.lapsed()] == [1]
    begun = ledger.begin(job, 1, "a")
    assert (begun.attempt, begun.deaths) == (1, ())
    ledger.admit(job, 2, b"x", ROOM)
    ledger.begin("mill-2", 0, "b")
    assert not ledger.postpone(job, 2, 5.0, queues)  # somebody is at it


def test_a_job_is_stuck_when_complaints_go_on_and_until_a_batch_is_done(
    ledger: Ledger, redis_server: RedisServer, job: str
) -> None:
    def complain() -> tuple[bool, bool]:
        """Return whether a complaint stops the job, and whether it is stuck then."""
        ledger.admit(job, 0, b"x", ROOM)
        lapse(redis_server.client, job, 0)
        ledger.begin(job, 0, "a")
        stops = ledger.give_back(job, 0, "a", "the disk is full", 5.0)
        counts = ledger.count(job)
        assert counts is not None
        assert counts.trouble == "the disk is full"
        return stops, counts.stuck

    assert [complain(), complain()] == [(False, False)] * 2  # a young job, too
    let_complaints_last(redis_server.client, job)
    assert [complain(), complain()] == [(True, True), (False, True)]
    lapse(redis_server.client, job, 0)
    assert [one.batch for one in ledger.lapsed()] == [0]  # a try is no cure
    counts = ledger.count(job)
    assert counts is not None
    assert counts.stuck
    ledger.admit(job, 1, b"x", ROOM)
    ledger.begin(job, 1, "b")
    assert ledger.commit(job, 1, 1, 0)  # it had come to a stop until now
    counts = ledger.count(job)
    assert counts is not None
    assert (counts.trouble, counts.stuck) == (None, False)
    assert complain() == (False, False)  # one worker's trouble, while others get on


def test_processes_that_die_before_they_read_a_row_stop_the_job_when_that_goes_on(
    ledger: Ledger, redis_server: RedisServer, job: str
) -> None:
    ledger.admit(job, 0, b"x", ROOM)
    stuck, stops = [], []
    for number in range(5):
        lapse(redis_server.client, job, 0)
        ledger.begin(job, 0, "a")
        stops.append(ledger.bury(job, 0, "a", Dying("-9", trouble="a process ended")))
        counts = ledger.count(job)
        assert counts is not None
        stuck.append((counts.trouble, counts.stuck))
        if number == 2:
            let_complaints_last(redis_server.client, job)
    assert stops == [False, False, False, True, False]
    assert [trouble for trouble, _ in stuck] == [None, *["a process ended"] * 4]
    assert [is_stuck for _, is_stuck in stuck] == [False, False, False, True, True]


def test_a_stuck_job_keeps_its_reason_however_rare_complaints_are(
    ledger: Ledger, redis_server: RedisServer, job: str
) -> None:
    for batch, why in enumerate(("the disk is full", "the disk is gone")):
        ledger.admit(job, batch, b"x", ROOM)
        ledger.begin(job, batch, "a")
        ledger.give_back(job, batch, "a", why, 5.0)
        let_complaints_last(redis_server.client, job)
    redis_server.client.delete(f"spanmill:{{{job}}}:trouble")  # it expired
    counts = ledger.count(job)
    assert counts is not None
    assert (counts.trouble, counts.stuck) == ("the disk is gone", True)
    ledger.admit(job, 2, b"x", ROOM)
    ledger.begin(job, 2, "a")
    ledger.bury(job, 2, "a", Dying("1"))
    lapse(redis_server.client, job, 2)
    ledger.begin(job, 2, "a")
    ledger.bury(job, 2, "a", Dying("1"))  # a death without words takes none away
    counts = ledger.count(job)
    assert counts is not None
    assert counts.trouble == "the disk is gone"
    assert ledger.commit(job, 2, 1, 0)
    counts = ledger.count(job)
    assert counts is not None
    assert (counts.trouble, counts.stuck) == (None, False)


def test_complaints_that_lie_far_apart_stop_no_job(
    ledger: Ledger, redis_server: RedisServer, job: str
) -> None:
    for batch in range(2):
        ledger.admit(job, batch, b"x", ROOM)
        ledger.begin(job, batch, "a")
    long_ago = str(time.time() - scripts.CALM_SECONDS - 1)
    assert not ledger.give_back(job, 0, "a", "the disk is full", 5.0)
    about = f"spanmill:{{{job}}}:about"
    redis_server.client.hset(about, mapping={"troubled": long_ago, "complained": long_ago})
    assert not ledger.give_back(job, 1, "a", "the disk is full", 5.0)


def test_leases_of_a_worker_that_ended_lapse_at_once_and_blame_no_row(
    ledger: Ledger, redis_server: RedisServer, job: str
) -> None:
    for batch, holder in enumerate(("host-1/a", "host-1/b", "host-11/c")):
        ledger.admit(job, batch, b"x", ROOM)
        ledger.begin(job, batch, holder)
    ledger.lose("host-1")
    assert sorted(one.batch for one in ledger.lapsed()) == [0, 1]
    assert ledger.begin(job, 0, "host-2/a").deaths == ()


def test_an_outage_of_the_broker_lapses_no_lease_that_can_be_renewed(
    ledger: Ledger, redis_server: RedisServer, job: str
) -> None:
    client = redis_server.client
    for batch in range(2):
        ledger.admit(job, batch, b"x", ROOM)
        ledger.begin(job, batch, "a")
        lapse(client, job, batch)
    client.set(scripts.TENDED, time.time() - 60)
    assert ledger.lapsed() == []
    assert ledger.renew(job, 0, "a")
    client.zadd(scripts.LEASES, {f"{job}:1": 1.0}, xx=True)
    assert [one.batch for one in ledger.lapsed()] == [1]


def test_a_clock_that_is_set_back_delays_nothing_for_long(
    ledger: Ledger, redis_server: RedisServer, job: str
) -> None:
    client, hour = redis_server.client, time.time() + 3600
    for batch in range(2):
        ledger.admit(job, batch, b"x", ROOM)
    ledger.begin(job, 0, "a")
    client.zadd(scripts.LEASES, {f"{job}:0": hour})
    client.zadd(scripts.WAITING, {f"{job}:1": hour})
    for key in (scripts.BEGUN, scripts.BUSY):
        client.hset(key, "spanmill-test", hour)
    assert ledger.lapsed() == []
    assert client.zscore(scripts.LEASES, f"{job}:0") < time.time() + scripts.LEASE_SECONDS + 1
    assert client.zscore(scripts.WAITING, f"{job}:1") < time.time() + 1
    client.zadd(scripts.WAITING, {f"{job}:1": time.time() - 60})
    client.lpush("spanmill-test", "a message")
    assert ledger.lapsed() == []  # what was begun in the future has overtaken nothing
    client.delete("spanmill-test")
    assert [one.batch for one in ledger.lapsed()] == [1]


def test_a_message_of_a_batch_that_the_job_has_not_is_asked_of_nobody(
    ledger: Ledger, job: str
) -> None:
    for batch in (10, 2**62):
        assert ledger.begin(job, batch, "a").turn == Turn.GONE
    assert ledger.begin("unheard-of", 2**62, "a").turn == Turn.GONE
    counts = ledger.count(job)
    assert counts is not None
    assert counts.wanted == 0


def test_what_was_begun_can_be_ended_at_a_full_broker(
    ledger: Ledger, redis_server: RedisServer, job: str
) -> None:
    for batch in range(4):
        ledger.admit(job, batch, b"x", ROOM)
        ledger.begin(job, batch, "a")
    ledger.give_back(job, 2, "a", "the disk is full", 5.0)
    let_complaints_last(redis_server.client, job)
    ledger.mark(job, 3, "a", Mark(1, (7,)))
    redis_server.client.config_set("maxmemory", "1")
    ledger.mark(job, 3, "a", Mark(2, (8,)))
    ledger.bury(job, 3, "a", Dying("-11"))
    assert [one.batch for one in ledger.lapsed()] == [3]
    assert redis_server.client.lrange(f"spanmill:{{{job}}}:deaths:3", 0, -1) == [b"-11;8"]
    assert ledger.renew(job, 0, "a")
    assert ledger.give_back(job, 1, "a", "the disk is full", 0.0)
    assert [one.batch for one in ledger.lapsed()] == [1]
    assert ledger.commit(job, 0, 1, 0)
    assert ledger.commit(job, 2, 1, 0) is False
    counts = ledger.count(job)
    assert counts is not None
    assert (counts.batches_done, counts.in_flight) == (2, 2)


def test_a_batch_that_lapses_when_its_job_is_forgotten_leaves_nothing(
    ledger: Ledger, redis_server: RedisServer, job: str
) -> None:
    ledger.admit(job, 0, b"x", ROOM)
    ledger.admit(job, 1, b"x", ROOM)
    ledger.begin(job, 0, "a")
    redis_server.client.delete(f"spanmill:{{{job}}}:about")  # it expired
    lapse(redis_server.client, job, 0)
    redis_server.client.zadd(scripts.WAITING, {f"{job}:1": 1.0})
    assert ledger.lapsed() == []
    assert ledger.flight().payload_bytes == 0
    assert not [key for key in redis_server.client.scan_iter() if b"payload" in key]


@pytest.mark.parametrize("told", [True, False])
def test_a_crash_names_the_rows_that_were_marked(ledger: Ledger, job: str, told: bool) -> None:
    deaths: list[tuple[str, tuple[int, ...] | None]]
    deaths = [("-11", (7,)), ("-9", ()), ("hung", None), ("1", (3, 4))]
    ledger.admit(job, 0, b"x", ROOM)
    for attempt, (how, rows) in enumerate(deaths, 1):
        assert ledger.begin(job, 0, "a").attempt == attempt
        mark = Mark(attempt, rows)
        if not told:  # by who is left, but by who died, at the broker
            ledger.mark(job, 0, "a", mark)
        dying = Dying(how, mark=mark if told else None)
        ledger.bury(job, 0, "a", dying)
        ledger.bury(job, 0, "a", dying)  # it is no longer a's
        assert [one.batch for one in ledger.lapsed()] == [0]
    assert ledger.begin(job, 0, "a").deaths == (
        Death(-11, (7,), hung=False, marked=True),
        Death(-9, (), hung=False, marked=True),
        Death(None, None, hung=True, marked=True),
        Death(1, (3, 4), hung=False, marked=True),
    )


def test_a_death_that_nobody_saw_is_blamed_on_the_mark_at_the_broker(
    ledger: Ledger, redis_server: RedisServer, job: str
) -> None:
    ledger.admit(job, 0, b"x", ROOM)
    ledger.begin(job, 0, "a")
    ledger.mark(job, 0, "a", Mark(1, (6,)))
    ledger.mark(job, 0, "a", Mark(2, (7,)))
    lapse(redis_server.client, job, 0)
    assert len(ledger.lapsed()) == 1
    assert ledger.begin(job, 0, "b").deaths == (Death(None, (7,), hung=False, marked=True),)


def test_a_mark_of_an_earlier_attempt_blames_nobody(ledger: Ledger, job: str) -> None:
    ledger.admit(job, 0, b"x", ROOM)
    ledger.begin(job, 0, "a")
    ledger.bury(job, 0, "a", Dying("-9"))
    ledger.lapsed()
    ledger.begin(job, 0, "b")
    ledger.mark(job, 0, "a", Mark(1, (7,)))  # a's, late
    ledger.bury(job, 0, "b", Dying("-9"))
    ledger.lapsed()
    assert [death.marked for death in ledger.begin(job, 0, "c").deaths] == [False, False]


def test_a_worker_is_listed_until_it_is_silent(ledger: Ledger, redis_server: RedisServer) -> None:
    card = WorkerCard("host-1", ("spanmill",), 1, 2, "0.1.0")
    ledger.hear(card)
    assert ledger.list_workers() == [card]
    redis_server.client.zadd(scripts.HEARD, {"host-1": 1.0})
    assert ledger.list_workers() == []
    ledger.hear(WorkerCard("host-2", (), 1, 2, "0.1.0"))
    assert redis_server.client.hkeys(scripts.WORKERS) == [b"host-2"]


def test_a_flushed_ledger_knows_the_job_no_more(
    ledger: Ledger, redis_server: RedisServer, job: str
) -> None:
    ledger.admit(job, 0, b"x", ROOM)
    ledger.begin(job, 0, "a")
    redis_server.client.flushall()
    assert not ledger.commit(job, 0, 1, 0)
    assert ledger.count(job) is None
    assert ledger.read_done(job) is None
    assert redis_server.client.keys() == []


def test_a_broker_that_is_away_is_the_worlds_fault(
    ledger: Ledger, redis_server: RedisServer
) -> None:
    ledger.check()
    redis_server.stop()
    with pytest.raises(WorldError, match="cannot be reached"):
        ledger.check()
    redis_server.start()
    ledger.check()


def test_a_full_broker_is_the_worlds_fault(
    redis_server: RedisServer, ledger: Ledger, job: str
) -> None:
    redis_server.client.config_set("maxmemory", "1")
    with pytest.raises(WorldError, match="takes no more data"):
        ledger.admit(job, 0, b"x", ROOM)
