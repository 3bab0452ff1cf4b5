"""Who is to blame when a batch fails, and how it is tried again."""

import signal

import pytest

from worker.attempts import (
    MAX_NAMELESS_FAILURES,
    Failed,
    OutgoingBatch,
    Sent,
    blame,
    describe_end,
)
from worker.child import OUT_OF_MEMORY
from worker.contracts.errors import JobError
from worker.task import Delivery

CRASH = Failed("a crash (SIGSEGV)", own_doing=True)
KILL = Failed("a kill from outside (signal 9)", own_doing=False)


def sent() -> Sent:
    return Sent(OutgoingBatch(3, range(30, 34), b""), Delivery(1, 0.0, {}))


@pytest.mark.parametrize(
    ("exit_code", "hung", "how", "own_doing"),
    [
        (-signal.SIGSEGV, False, "a crash (SIGSEGV)", True),
        (-signal.SIGABRT, False, "a crash (SIGABRT)", True),
        (-signal.SIGKILL, False, "a kill from outside (signal 9)", False),
        (-signal.SIGTERM, False, "a kill from outside (signal 15)", False),
        (-signal.SIGRTMIN, False, f"a kill from outside (signal {int(signal.SIGRTMIN)})", False),
        (OUT_OF_MEMORY, False, "want of memory", False),
        (0, False, "an exit (code 0)", True),
        (1, False, "an exit (code 1)", True),
        (-signal.SIGKILL, True, "a hang", True),
    ],
)
def test_a_process_ends_by_its_own_doing_or_is_made_to(
    exit_code: int, hung: bool, how: str, own_doing: bool
) -> None:
    assert describe_end(exit_code, hung=hung) == Failed(how, own_doing)


def test_a_crash_names_the_row_that_was_read_at_once() -> None:
    again = blame(sent(), (31,), CRASH)
    said = "reading this row ended in a crash (SIGSEGV): check its text, then retry the errors"
    assert again.delivery.crashes == {31: said}
    assert again.delivery.attempt == 2
    assert not again.delivery.alone


def test_a_kill_names_a_row_only_when_it_meets_it_twice() -> None:
    once = blame(sent(), (31,), KILL)
    assert once.delivery.crashes == {}
    other = blame(once, (32,), KILL)
    assert other.delivery.crashes == {}
    twice = blame(other, (31,), KILL)
    assert list(twice.delivery.crashes) == [31]
    assert "twice" in twice.delivery.crashes[31]
    assert twice.delivery.attempt == 4


@pytest.mark.parametrize("rows", [(30, 31), None], ids=["few rows", "more than can be named"])
@pytest.mark.parametrize("failed", [CRASH, KILL])
def test_a_run_of_several_rows_is_repeated_one_by_one(
    rows: tuple[int, ...] | None, failed: Failed
) -> None:
    again = blame(sent(), rows, failed)
    assert again.delivery.alone
    assert again.delivery.crashes == {}
    assert again.nameless_failures == 0


def test_a_batch_that_always_fails_without_naming_a_row_becomes_error_rows() -> None:
    again = blame(sent(), (31,), CRASH)
    for failures in range(1, MAX_NAMELESS_FAILURES):
        again = blame(again, (), CRASH)
        assert again.nameless_failures == failures
        assert list(again.delivery.crashes) == [31]
    again = blame(again, (), CRASH)
    assert sorted(again.delivery.crashes) == [30, 31, 32, 33]
    assert "reading this row" in again.delivery.crashes[31], "what named a row stands"
    assert f"{MAX_NAMELESS_FAILURES} times" in again.delivery.crashes[30]


def test_a_batch_that_fails_with_all_its_rows_spared_ends_the_job() -> None:
    again = sent()
    for _ in range(2 * MAX_NAMELESS_FAILURES - 1):
        again = blame(again, (), CRASH)
    with pytest.raises(JobError, match="the rows 30 to 33 ended in a crash"):
        blame(again, (), CRASH)


def test_kills_between_rows_use_nothing_up() -> None:
    again = sent()
    for _ in range(50):
        again = blame(again, (), KILL)
    assert again.delivery.crashes == {}
    assert again.nameless_failures == 0
