"""What a training wrote of its way: its steps and its held-out scores, read from metrics.jsonl."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worker.contracts.errors import InputError

#: The file, in a step's folder, with a line for each step and each held-out score.
METRICS = "metrics.jsonl"

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint's scores on held-out rows, from 0 to 100.

    ``score`` chooses the best one: the mean of ``best_f1`` (of all rows, at the best threshold) and
    ``answerable_f1`` (of answerable rows, all answered).
    """

    step: int
    score: float
    best_f1: float
    answerable_f1: float
    rows: int


@dataclass(frozen=True, slots=True)
class History:
    """Shapes: all arrays are ``(steps,)``; ``losses`` by the names of what is minimized."""

    steps: NDArray[np.int64]
    losses: dict[str, Numbers]
    rates: Numbers
    windows_per_second: Numbers
    steps_in_all: int
    epoch: int
    checkpoints: tuple[Checkpoint, ...]

    @property
    def best(self) -> Checkpoint | None:
        """Return the checkpoint of the highest held-out score, the first of equals."""
        return max(self.checkpoints, key=lambda one: one.score, default=None)


def read_history(file: Path) -> History | None:
    """Read a training's metrics, as far as they are whole; None before its first step.

    Raises:
        InputError: there are lines that are none of a training.
    """
    if not file.is_file():
        return None
    whole = file.read_text(encoding="utf-8").rpartition("\n")[0]  # the last may be half written
    try:
        lines = [dict(json.loads(line)) for line in whole.splitlines()]
        return _to_history(lines)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file} holds a line that no training wrote ({error}): delete that line"
        ) from error


def _to_history(lines: list[dict[str, Any]]) -> History | None:
    steps = [line for line in lines if "loss" in line]
    if not steps:
        return None
    names = dict.fromkeys(name for line in steps for name in line["losses"])
    return History(
        steps=np.array([line["step"] for line in steps]),
        losses={
            name: np.array([line["losses"].get(name, np.nan) for line in steps]) for name in names
        },
        rates=np.array([line["lr"] for line in steps]),
        windows_per_second=np.array([line["examples_per_second"] for line in steps]),
        steps_in_all=steps[-1]["steps"],
        epoch=steps[-1]["epoch"],
        checkpoints=tuple(_to_checkpoint(line) for line in lines if "held_out" in line),
    )


def _to_checkpoint(line: dict[str, Any]) -> Checkpoint:
    scores = line["held_out"]
    return Checkpoint(
        line["step"], line["score"], scores["best_f1"], scores["answerable_f1"], scores["rows"]
    )
