"""What a fine-tuning run does when: stages, batches, rates; all fixed before it begins."""

import hashlib
import math
import sys
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Annotated, Literal

import msgspec

from training.data import Labelled, refuse_unlearnable
from training.features import Feature, make_features, plan_batches
from worker.reading.scores import ENGLISH
from worker.reading.windows import Encoder

#: Checked where a schedule is read from a file.
_Count = Annotated[int, msgspec.Meta(ge=1)]
_Share = Annotated[float, msgspec.Meta(ge=0, lt=1)]
#: Bounds refuse what is no number, and the upper one infinity.
_NotNegative = Annotated[float, msgspec.Meta(ge=0, le=sys.float_info.max)]
_Positive = Annotated[float, msgspec.Meta(gt=0, le=sys.float_info.max)]


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of the run: these rows, this often. The last stage shapes the model most."""

    rows: tuple[Labelled, ...]
    epochs: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How to fine-tune. A step sees ``batch_windows * accumulation`` windows.

    The rate rises over ``warmup_share`` of the steps (over ``warmup_steps``, where given), then
    falls to zero as a polynomial of ``decay_power``. The run ends at the ``patience``-th checkpoint
    in a row without a better held-out score: the mean of the F1 at the best threshold and that of
    answerable rows, all answered. None never stops early. After ``stop_after_steps`` the run ends,
    its rates those of a whole one. ``keep`` is the checkpoint that is the run's: the best, or the
    last, where no head is trained by which they could be told apart. ``language`` is that by whose
    rules held-out answers are compared.
    """

    learning_rate: _Positive = 1e-4
    batch_windows: _Count = 32
    accumulation: _Count = 1
    warmup_share: _Share = 0.06
    warmup_steps: _Count | None = None
    decay_power: _NotNegative = 1.0
    weight_decay: _NotNegative = 0.01
    label_smoothing: _Share = 0.0
    max_gradient_norm: _Positive = 1.0
    dropout: _Share = 0.0
    average_decay: _Share = 0.999
    checkpoint_every_steps: _Count = 500
    checkpoints_kept: _Count = 2
    patience: _Count | None = None
    keep: Literal["best", "last"] = "best"
    stop_after_steps: _Count | None = None
    pool_batches: _Count = 64
    seed: int = 1
    precision: Literal["no", "bf16"] = "bf16"
    attention: Literal["eager", "sdpa"] = "eager"
    language: str = ENGLISH


class Plan:
    """The run's windows, and the batches of them in their order."""

    def __init__(
        self, features: list[Feature], passes: list[list[list[int]]], batch_size: int
    ) -> None:
        """Take batches as indexes into the features, pass by pass over a stage's rows."""
        self.features = features
        self.batches = [batch for one in passes for batch in one]
        self.batch_size = batch_size
        self._ends = list(accumulate(len(one) for one in passes))

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the batches in order."""
        return iter(self.batches)

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self.batches)

    def epoch_at(self, batch: int) -> int:
        """Return which pass over a stage's rows a batch belongs to, counted from 1 over all."""
        return bisect_right(self._ends, batch) + 1

    def digest(self) -> str:
        """Return what tells whether another run sees the same windows in the same order."""
        order = hashlib.blake2b(digest_size=16)
        for batch in self.batches:
            for at in batch:
                feature = self.features[at]
                order.update(feature.window.input_ids.tobytes())
                order.update(f"{feature.start} {feature.end};".encode())
        return order.hexdigest()


def plan_run(stages: Sequence[Stage], schedule: Schedule, encoder: Encoder) -> Plan:
    """Window all stages and lay out their epochs, each shuffled anew by the schedule's seed.

    Raises:
        InputError: there are no rows, or none of them has an answer to learn.
    """
    refuse_unlearnable([row for stage in stages for row in stage.rows])
    parts = [(make_features(stage.rows, encoder), stage.epochs) for stage in stages]
    return lay_out(parts, schedule)


def lay_out(parts: Sequence[tuple[Sequence[Feature], int]], schedule: Schedule) -> Plan:
    """Lay out the epochs of each part's windows, part after part."""
    features: list[Feature] = []
    passes: list[list[list[int]]] = []
    for number, (windows, epochs) in enumerate(parts):
        first = len(features)
        features += windows
        lengths = [len(feature.window) for feature in windows]
        for epoch in range(epochs):
            seed = schedule.seed + 1_000 * number + epoch
            planned = plan_batches(lengths, schedule.batch_windows, schedule.pool_batches, seed)
            passes.append([[first + at for at in batch] for batch in planned])
    return Plan(features, passes, schedule.batch_windows)


def count_steps(plan: Plan, schedule: Schedule) -> int:
    """Return how many optimizer steps a plan takes."""
    return math.ceil(len(plan) / schedule.accumulation)


def find_last_step(plan: Plan, schedule: Schedule) -> int:
    """Return after which step a run ends: the plan's last, or where the schedule stops it."""
    steps = count_steps(plan, schedule)
    return steps if schedule.stop_after_steps is None else min(steps, schedule.stop_after_steps)


def rate_at(step: int, steps: int, schedule: Schedule) -> float:
    """Return the learning rate of a step, counted from 0."""
    warmup = schedule.warmup_steps
    if warmup is None:
        warmup = round(schedule.warmup_share * steps)
    if step < warmup:
        return schedule.learning_rate * (step + 1) / warmup
    left = (steps - step) / max(1, steps - warmup)
    return schedule.learning_rate * float(left**schedule.decay_power)
