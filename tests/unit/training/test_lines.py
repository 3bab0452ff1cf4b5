"""Progress lines: not too many, with the time that is left, and every held-out score."""

import logging
from pathlib import Path
from typing import Any

import pytest

from training.lines import Lines, describe_seconds, telling
from training.progress import Metrics
from worker.contracts.errors import WorldError


def _step(step: int) -> dict[str, Any]:
    return {
        "step": step, "steps": 100, "epoch": 1, "loss": 2.0 / step, "lr": 0.1,
        "examples_per_second": 31.7,
    }  # fmt: skip


def _score(step: int, score: float) -> dict[str, Any]:
    held_out = {"best_f1": score, "answerable_f1": score + 10}
    return {"step": step, "score": score, "held_out": held_out}


def _tell(lines: Lines, line: dict[str, Any]) -> None:
    record = logging.makeLogRecord({"metrics": line, "run": "first"})
    lines.emit(record)


def test_steps_are_told_now_and_then_with_the_time_that_is_left() -> None:
    said: list[str] = []
    now = [0.0]
    lines = Lines(said.append, seconds_between=10.0, clock=lambda: now[0])
    for step in range(1, 101):
        now[0] = 4.0 * step
        _tell(lines, _step(step))
    assert said[0] == "first: step 1 of 100, epoch 1, loss 2.000, 32 windows/s"
    assert said[1] == "first: step 4 of 100, epoch 1, loss 0.500, 32 windows/s, 6 min left"
    assert said[-1].startswith("first: step 100 of 100")
    assert len(said) == 34


def test_scoring_takes_no_steps_time() -> None:
    said: list[str] = []
    now = [0.0]
    lines = Lines(said.append, seconds_between=0.0, clock=lambda: now[0])
    for step in (1, 2, 3):
        now[0] += 1.0
        _tell(lines, _step(step))
    now[0] += 1_000.0
    _tell(lines, _score(3, 50.0))
    _tell(lines, _step(4))
    assert said[-1].endswith("2 min left")


def test_every_score_is_told_and_the_best_so_far_is_said_to_be() -> None:
    said: list[str] = []
    lines = Lines(said.append)
    for score in (50.0, 61.25, 60.0):
        _tell(lines, _score(5, score))
    assert said == [
        "first: step 5: held-out F1 50.00, of answerable rows 60.00, the best so far",
        "first: step 5: held-out F1 61.25, of answerable rows 71.25, the best so far",
        "first: step 5: held-out F1 60.00, of answerable rows 70.00",
    ]


def test_what_is_written_down_is_told_while_somebody_listens(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "small").mkdir()
    metrics = Metrics(tmp_path / "small" / "metrics.jsonl", writes=True)
    with telling(said.append):
        metrics.write(_step(1))
    metrics.write(_step(2))
    assert [line.partition(" of")[0] for line in said] == ["small: step 1"]
    assert len((tmp_path / "small" / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_full_disk_stops_a_run_with_a_sentence() -> None:
    with pytest.raises(WorldError, match="make room and run again"):
        Metrics(Path("/dev/full"), writes=True).write(_step(1))


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(4.4, "4 s"), (60.0, "1 min"), (3_570.0, "1 h 0 min"), (5_430.0, "1 h 30 min")],
)
def test_durations_read_as_people_say_them(seconds: float, said: str) -> None:
    assert describe_seconds(seconds) == said
