"""A training's metrics, read back: steps, losses by name, held-out scores, half-written lines."""

import json
from pathlib import Path

import pytest

from training.history import read_history
from worker.contracts.errors import InputError


def _step(number: int, **losses: float) -> str:
    line = {
        "step": number, "steps": 9, "epoch": 2, "loss": sum(losses.values()), "losses": losses,
        "lr": number / 100, "examples_per_second": 30.0,
    }  # fmt: skip
    return json.dumps(line) + "\n"


def _score(step: int, score: float) -> str:
    scores = {"best_f1": score - 1, "answerable_f1": score + 1, "rows": 40}
    return json.dumps({"step": step, "score": score, "held_out": scores}) + "\n"


def test_steps_and_scores_are_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    lines = [_step(1, hard=3.0, soft=1.0), _step(2, hard=2.0, soft=0.5), _score(2, 60.0)]
    file.write_text("".join([*lines, _step(3, hard=1.0, soft=0.25), _score(3, 60.0)]))
    history = read_history(file)
    assert history is not None
    assert history.steps.tolist() == [1, 2, 3]
    assert {name: one.tolist() for name, one in history.losses.items()} == {
        "hard": [3.0, 2.0, 1.0], "soft": [1.0, 0.5, 0.25],
    }  # fmt: skip
    assert history.rates.tolist() == [0.01, 0.02, 0.03]
    assert (history.steps_in_all, history.epoch) == (9, 2)
    assert [(one.step, one.best_f1, one.rows) for one in history.checkpoints] == [
        (2, 59.0, 40), (3, 59.0, 40),
    ]  # fmt: skip
    assert history.best is not None
    assert history.best.step == 2, "of equals the first is kept, as training does"


def test_a_line_that_is_being_written_does_not_count_yet(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text(_step(1, hard=3.0) + _step(2, hard=2.0)[:30])
    history = read_history(file)
    assert history is not None
    assert history.steps.tolist() == [1]
    assert history.best is None


def test_before_the_first_step_there_is_no_history(tmp_path: Path) -> None:
    assert read_history(tmp_path / "metrics.jsonl") is None
    (tmp_path / "metrics.jsonl").write_text("")
    assert read_history(tmp_path / "metrics.jsonl") is None


@pytest.mark.parametrize("line", ["{", '{"step": 1, "loss": 2.0}', "[1]"])
def test_a_line_that_no_training_wrote_is_refused_by_name(line: str, tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text(_step(1, hard=3.0) + line + "\n")
    with pytest.raises(InputError, match=r"metrics\.jsonl holds a line that no training wrote"):
        read_history(file)
