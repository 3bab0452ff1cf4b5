"""What a run does when: rates, epochs, stages."""

from dataclasses import replace

import pytest

from tests.tiny import PASSAGES, SIZES, Tiny
from training.checkpoint import open_encoder, read_family
from training.data import Gold, Labelled
from training.schedule import Schedule, Stage, count_steps, plan_run, rate_at
from worker.contracts.errors import InputError
from worker.reading.windows import Encoder


@pytest.fixture(scope="module")
def encoder(tiny: Tiny) -> Encoder:
    folder = tiny.checkpoint("bert")
    return open_encoder(folder, read_family(folder), SIZES)


def _rows(count: int, name: str) -> tuple[Labelled, ...]:
    return tuple(
        Labelled(f"{name}{number}", f"{name} {number}?", PASSAGES[0], (Gold("The mill", 0),))
        for number in range(count)
    )


def test_the_rate_rises_to_its_peak_and_falls_to_nothing() -> None:
    schedule = Schedule(learning_rate=1.0, warmup_share=0.1)
    rates = [rate_at(step, 100, schedule) for step in range(101)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == 0.0


def test_a_warmup_can_be_told_in_steps() -> None:
    schedule = Schedule(learning_rate=1.0, warmup_share=0.5, warmup_steps=4)
    assert [rate_at(step, 24, schedule) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rate_at(14, 24, schedule) == pytest.approx(0.5)
    assert rate_at(1, 3, schedule) == 0.5  # a run that is over before it is warm


def test_a_polynomial_decay_bends_the_rate() -> None:
    schedule = Schedule(learning_rate=1.0, warmup_share=0.0, decay_power=2.0)
    assert rate_at(50, 100, schedule) == pytest.approx(0.25)
    assert rate_at(0, 100, schedule) == 1.0


def test_stages_follow_each_other_and_epochs_differ(encoder: Encoder) -> None:
    schedule = Schedule(batch_windows=4, accumulation=2)
    plan = plan_run([Stage(_rows(8, "far")), Stage(_rows(6, "near"), 2)], schedule, encoder)
    assert len(plan) == 2 + 2 + 2
    assert sorted(at for batch in plan.batches[:2] for at in batch) == list(range(8))
    for epoch in (plan.batches[2:4], plan.batches[4:]):
        assert sorted(at for batch in epoch for at in batch) == list(range(8, 14))
    assert plan.batches[2:4] != plan.batches[4:]
    assert [plan.epoch_at(batch) for batch in range(6)] == [1, 1, 2, 2, 3, 3]
    assert count_steps(plan, schedule) == 3


def test_a_plan_is_known_by_its_digest(encoder: Encoder) -> None:
    def digest(rows: tuple[Labelled, ...], seed: int) -> str:
        return plan_run([Stage(rows)], Schedule(batch_windows=4, seed=seed), encoder).digest()

    rows = _rows(8, "near")
    moved = (replace(rows[0], answers=(Gold("Arden", PASSAGES[0].index("Arden")),)), *rows[1:])
    assert digest(rows, 1) == digest(rows, 1)
    assert len({digest(rows, 1), digest(rows, 2), digest(rows[:7], 1), digest(moved, 1)}) == 4


@pytest.mark.parametrize("rows", [(), (Labelled("a", "Who?", PASSAGES[0], ()),)])
def test_stages_without_an_answer_are_refused(rows: tuple[Labelled, ...], encoder: Encoder) -> None:
    with pytest.raises(InputError):
        plan_run([Stage(rows)], Schedule(), encoder)
