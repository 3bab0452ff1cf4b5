"""What a fleet's ledger adds to a job's status."""

from dataclasses import replace

import pytest

from producer.fleet_status import add_counts, say_lonely
from producer.status import JobStatus
from worker.contracts.flight import Counts, WorkerCard
from worker.contracts.job import State

QUEUE = "spanmill-default-v1"
COUNTS = Counts(
    queue=QUEUE, root="token", made="now", batches=3, batches_done=1, rows_done=8, errors=0,
    in_flight=2, busy=0, wanted=0, cancelled=False, stuck=False, trouble=None,
)  # fmt: skip
STATUS = JobStatus(
    job="mill", state="running", reason="no command runs it", rows=24, rows_done=8, errors=0,
    batches=3, batches_done=1, in_flight=None, workers=0, rows_per_second=0.0, seconds_left=None,
    output="/out.parquet",
)  # fmt: skip


def card(*queues: str) -> WorkerCard:
    return WorkerCard("host-1", queues, 1, 2, "0.1.0")


def test_nobody_is_missed_as_long_as_batches_are_taken_or_none_wait() -> None:
    assert say_lonely(None, []) is None
    assert say_lonely(replace(COUNTS, in_flight=0), []) is None
    assert say_lonely(replace(COUNTS, busy=1), []) is None
    assert say_lonely(COUNTS, [card("spanmill-other-v1"), card(QUEUE)]) is None


@pytest.mark.parametrize("version", [0, 2])
def test_workers_of_another_version_are_named(version: int) -> None:
    said = say_lonely(COUNTS, [card(f"spanmill-default-v{version}")])
    assert said is not None
    assert f"read version {version} of its messages, and these have 1" in said
    assert said.endswith("run `spanmill worker --queue default")


def test_a_queue_without_workers_is_named_with_the_command_that_helps() -> None:
    waiting = replace(COUNTS, queue="spanmill-urgent-v1")
    said = say_lonely(waiting, [card(QUEUE)])
    assert said is not None
    assert said.startswith("2 batches wait, and no worker reads the queue urgent: ")
    assert said.endswith("run `spanmill worker --queue urgent")


def test_a_job_that_nobody_waits_for_runs_as_long_as_it_is_in_flight() -> None:
    found = add_counts(STATUS, replace(COUNTS, busy=2), [card(QUEUE)])
    assert (found.state, found.reason, found.in_flight, found.workers) == ("running", None, 2, 2)
    found = add_counts(STATUS, replace(COUNTS, in_flight=0), [])
    assert found.reason == "no command runs it"


def test_trouble_pauses_a_job_only_when_nobody_gets_on() -> None:
    troubled = replace(COUNTS, trouble="worker a: its disk is full")
    found = add_counts(STATUS, troubled, [card(QUEUE)])
    assert (found.state, found.reason) == ("running", "worker a: its disk is full")
    found = add_counts(STATUS, replace(troubled, stuck=True), [card(QUEUE)])
    assert found.state == "paused"


@pytest.mark.parametrize("state", [State.COMPLETED, State.CANCELLED, State.CANCELLING])
def test_an_ended_job_stays_ended(state: State) -> None:
    ended = replace(STATUS, state=str(state), reason=None)
    found = add_counts(ended, replace(COUNTS, trouble="old", stuck=True), [])
    assert (found.state, found.reason) == (str(state), None)
