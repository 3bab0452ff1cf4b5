"""How long a process leaves a job alone."""

from worker.contracts.scripts import LEASE_SECONDS
from worker.holds import FIRST_SECONDS, KEPT_JOBS, LONGEST_SECONDS, Holds, spread


def test_a_job_is_held_longer_from_time_to_time_until_it_gets_on() -> None:
    holds = Holds()
    assert holds.left("a") == 0
    lengths = [holds.begin("a") for _ in range(6)]
    assert lengths == [FIRST_SECONDS, 1.0, 2.0, 4.0, LONGEST_SECONDS, LONGEST_SECONDS]
    assert LONGEST_SECONDS - 1 < holds.left("a") <= LONGEST_SECONDS
    holds.end("a")
    assert holds.left("a") == 0
    assert holds.begin("a") == FIRST_SECONDS


def test_holds_of_jobs_that_came_and_went_take_no_room() -> None:
    holds = Holds()
    for number in range(3 * KEPT_JOBS):
        holds.begin(str(number))
    assert sum(holds.left(str(number)) > 0 for number in range(3 * KEPT_JOBS)) <= KEPT_JOBS


def test_batches_that_are_put_off_come_back_one_after_the_other() -> None:
    delays = [spread(batch, LONGEST_SECONDS) for batch in range(50)]
    assert delays == sorted(set(delays))
    assert all(FIRST_SECONDS <= delay <= 3 * LEASE_SECONDS - 5 for delay in delays)
    assert delays[49] > 5 * spread(49, FIRST_SECONDS)
