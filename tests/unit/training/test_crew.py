"""A plan's shares: every batch once, every step together."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.cli import main
from training.crew import Share
from training.schedule import Plan


@given(batches=st.integers(1, 40), processes=st.integers(1, 4), own=st.integers(1, 3))
def test_shares_are_equally_long_and_hold_every_step(
    batches: int, processes: int, own: int
) -> None:
    plan = Plan([], [[[number] for number in range(batches)]], 1)
    shares = [Share(plan, own * processes, processes, index) for index in range(processes)]
    lists = [[batch[0] for batch in share] for share in shares]
    assert {len(one) for one in lists} == {len(share) for share in shares}
    assert len({len(one) for one in lists}) == 1
    for step, first in enumerate(range(0, batches, own * processes)):
        learned = {at for one in lists for at in one[step * own : (step + 1) * own]}
        assert learned == set(range(first, min(batches, first + own * processes)))


@pytest.mark.parametrize("command", ["run", "worker", "submit", "compare"])
def test_what_one_process_does_is_refused_to_several(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")  # as torchrun and accelerate launch tell
    with pytest.raises(SystemExit) as exited:
        main(["training", command, "default"])
    assert exited.value.code == 2
    assert "several can finetune or distill" in capsys.readouterr().err
