"""A recipe through training workers: real processes, a real broker, a tiny random model."""

import pytest

from tests.desk import Row
from tests.fleet import FleetDesk
from tests.yard import Yard, wait_long
from training.run_state import RunState
from worker.contracts.bundle import load_bundle

pytestmark = pytest.mark.timeout(900)


def test_a_submitted_recipe_is_followed_to_its_end_beside_a_fleet_that_answers(
    yard: Yard, fleet: FleetDesk, undisturbed: list[Row]
) -> None:
    short = ("--set", "steps.first.stages.0.epochs=150")
    ran = yard.submit(*short, "--tensorboard", recipe="whole")
    assert ran.status == 0, ran.err
    assert "no worker is heard: start `spanmill training worker" in ran.err
    assert yard.status("whole").state == RunState.WAITING
    # Nothing of it lies where the fleet's batches are.
    assert yard.server.client.dbsize() == 0
    fleet.start_worker()
    worker = yard.start_worker()
    wait_long(lambda: yard.status("whole").position is not None, "it learns")
    answered = fleet.submit()
    assert answered.status == 0, answered.err
    assert fleet.desk.answers() == undisturbed
    assert yard.status("whole").state == RunState.RUNNING, yard.log()
    watched = yard.command("watch", yard.runs / "whole", "--broker", yard.url, "--json")
    assert watched.status == 0, watched.err
    assert watched.json()["state"] == "finished"
    assert watched.json()["steps"] == {"first": True, "bundle": True}
    assert "whole: running, step" in watched.err
    assert "held-out F1" in yard.log()
    well = yard.command("worker", "--check", "--broker", yard.url, "--runs-root", yard.runs)
    assert well.out.endswith(": well\n"), well.err
    again = yard.submit(*short, "--wait", recipe="whole")
    assert (again.status, again.out) == (0, f"{yard.runs / 'whole' / 'bundle'}\n")
    assert "whole: finished" in again.err
    assert load_bundle(yard.runs / "whole" / "bundle").manifest.name == "whole"
    assert list((yard.runs / "whole" / "first" / "tensorboard").iterdir())
    other = yard.submit(recipe="whole")
    assert other.status == 2
    assert "in which recipe.steps.first.stages was another" in other.complaint()
    yard.stop(worker)
