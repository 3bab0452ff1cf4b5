"""From null odds to a status and a confidence; the worker uses it, and so does rethreshold."""

import math
from dataclasses import dataclass
from typing import Any

import msgspec

from worker.contracts.records import Status


@dataclass(frozen=True, slots=True)
class Logistic:
    """A logistic regression on null odds and margin, both in logits.

    Source: Platt 1999; temperature scaling (Guo et al. 2017, §4.2) is its case without bias.
    """

    bias: float
    null_odds: float
    margin: float = 0.0

    def probability(self, null_odds: float, margin: float) -> float:
        """Return the probability in 0..1; extreme inputs saturate, none overflows."""
        logit = self.bias + self.null_odds * null_odds + self.margin * margin
        return 1.0 / (1.0 + math.exp(-min(max(logit, -60.0), 60.0)))


@dataclass(frozen=True, slots=True)
class Calibration:
    """Fitted on held-out rows, after quantization.

    ``answer`` gives the probability that the best span is right, ``abstention`` that the passage
    holds no answer. ``always`` stands in for ``answer`` where every row is answered: that the
    passage holds an answer is not in question then, so it was fitted on such rows alone; bundles
    made before it have none. ``max_margin`` is where margins are cut, and stands in for one that is
    missing.
    """

    answer: Logistic
    abstention: Logistic
    max_margin: float = 10.0
    always: Logistic | None = None


def to_plain(calibration: Calibration) -> dict[str, Any]:
    """Return a calibration as JSON has it; without ``always`` its bytes are as they ever were."""
    plain: dict[str, Any] = msgspec.to_builtins(calibration)
    return {name: value for name, value in plain.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a row's scores mean at a threshold."""

    status: Status
    confidence: float | None


def judge(
    null_odds: float | None, margin: float | None, threshold: float | None, calibration: Calibration
) -> Verdict:
    """Decide one row: unanswerable when its null odds are above the threshold.

    ``null_odds`` is None when the passage has no token at all: certainly no answer. ``margin`` is
    None when there was no second candidate. Without a threshold every row is answered. Source:
    SQuAD 2.0's protocol, ``null_score_diff``.
    """
    if null_odds is None:
        return Verdict(Status.UNANSWERABLE, 1.0)
    cut_margin = calibration.max_margin if margin is None else min(margin, calibration.max_margin)
    if threshold is not None and null_odds > threshold:
        empty = calibration.abstention.probability(null_odds, cut_margin)
        return Verdict(Status.UNANSWERABLE, empty)
    always = calibration.always if threshold in (None, math.inf) else None
    right = calibration.answer if always is None else always
    return Verdict(Status.ANSWERED, right.probability(null_odds, cut_margin))
