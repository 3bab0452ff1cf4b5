"""Training workers killed, stopped and cut off: the weights are those of an undisturbed run."""

import os
import resource
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.tiny import Tiny
from tests.yard import LEASE_SECONDS, Yard, lay_out, wait_long
from training.follow import follow
from training.recipe_file import read_recipe
from training.run_state import RunState
from training.workspace import Place

pytestmark = pytest.mark.timeout(1500)
#: More than the metrics of some dozen steps, less than a checkpoint.
FULL_BYTES = 20_000


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> bytes:
    """Give the weights of a run that nobody disturbs, by `training run`."""
    folder = tmp_path_factory.mktemp("undisturbed")
    lay_out(folder)
    encoder = str(tiny.checkpoint("bert"))
    place = Place(out=folder / "run", data=folder / "data", encoder=encoder)
    made: Path = follow(read_recipe(str(folder / "towns.toml")), place, lambda _: None)
    return (made / "best" / "model.safetensors").read_bytes()


def test_a_run_whose_workers_are_killed_or_stopped_goes_on_to_the_same_weights(
    yard: Yard, weights: bytes
) -> None:
    first = yard.begin()
    (trainer,) = yard.trainers(first)
    os.kill(trainer, signal.SIGKILL)
    yard.wait_for_log("the process that trained ended")
    yard.wait_for_step(50)
    yard.kill(first)
    at, _ = yard.kept()
    assert at % 20 == 0
    second = yard.start_worker()
    yard.wait_for_step(at + 25)
    yard.stop(second)
    assert yard.status().state == RunState.WAITING
    at, learned = yard.kept()
    assert at == learned  # it stopped where it was, not at the checkpoint that came next
    yard.start_worker()
    yard.wait_until(RunState.FINISHED)
    assert yard.weights() == weights


def test_a_run_goes_on_while_its_broker_is_away_and_when_that_has_lost_all(yard: Yard) -> None:
    yard.begin("--set", "steps.first.stages.0.epochs=240")
    yard.start_worker()
    yard.server.stop()
    before = yard.status().position
    time.sleep(LEASE_SECONDS + 1)
    now = yard.status()
    assert now.state == RunState.RUNNING
    assert before is not None
    assert now.position is not None
    assert now.position > before
    yard.server.start()
    yard.server.client.flushall()
    yard.wait_until(RunState.FINISHED)
    assert yard.count_holders() == 2  # who submitted it, and the one worker


def test_a_worker_that_sleeps_past_its_lease_writes_nothing_after_another_took_over(
    yard: Yard, weights: bytes
) -> None:
    first = yard.begin()
    (trainer,) = yard.trainers(first)
    os.kill(trainer, signal.SIGSTOP)
    yard.start_worker()
    yard.wait_until(RunState.FINISHED)
    wait_long(lambda: yard.status().holder is None, "the other one has left it")
    before = yard.snapshot()
    os.kill(trainer, signal.SIGCONT)
    yard.wait_for_log("the run towns was taken over by another process")
    assert yard.snapshot() == before
    assert yard.weights() == weights


def test_a_run_that_paused_for_a_full_disk_and_was_cancelled_goes_on_to_the_same_weights(
    yard: Yard, weights: bytes
) -> None:
    (trainer,) = yard.trainers(yard.begin())
    everything = resource.prlimit(trainer, resource.RLIMIT_FSIZE, (FULL_BYTES, -1))
    paused = yard.wait_until(RunState.PAUSED)
    assert paused.reason is not None
    assert "make room" in paused.reason
    resource.prlimit(trainer, resource.RLIMIT_FSIZE, everything)
    yard.wait_until(RunState.RUNNING)
    ran = yard.command("cancel", "towns", "--runs-root", yard.runs)
    assert ran.status == 0
    assert "the run towns is cancel" in ran.out
    yard.wait_until(RunState.CANCELLED)
    at, learned = yard.kept()
    assert at == learned
    assert yard.submit("--wait").status == 0
    assert yard.weights() == weights


def test_a_loss_that_is_no_number_fails_the_run_and_is_not_tried_again(yard: Yard) -> None:
    ran = yard.submit("--set", "steps.first.schedule.learning_rate=1e30")
    assert ran.status == 0, ran.err
    yard.start_worker()
    failed = yard.wait_until(RunState.FAILED)
    assert failed.reason is not None
    assert "train again in another folder, at a lower learning rate" in failed.reason
    assert yard.command("watch", yard.runs / "towns").status == 1
    assert yard.count_holders() == 2
