"""The null threshold and the confidence of a bundle, fitted on held-out rows after quantization."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from training.data import Labelled
from training.evaluate import Read, to_scored
from worker.contracts.errors import InputError
from worker.contracts.records import Status
from worker.contracts.verdict import Calibration, Logistic, judge
from worker.reading.scores import score_best, score_exact, score_f1, sweep

BINS = 15
#: Of the risk-coverage curve on a card.
TENTHS = 10
FOLDS = 5
#: Margins are cut at this share of them: beyond it they are rare, and say nothing more.
MARGIN_QUANTILE = 0.99
#: Keeps the fit solvable where a feature never changes; too weak to be seen elsewhere.
RIDGE = 1e-3
_STEPS = 50

#: A row's confidence, and whether its answer, or its abstention, is right.
Judged = tuple[float, bool]


@dataclass(frozen=True, slots=True)
class Point:
    """Of the rows, the ``coverage`` with the highest confidence, and the share of them wrong."""

    coverage: float
    risk: float


@dataclass(frozen=True, slots=True)
class Bin:
    """Rows of about the same confidence: its mean, and the share that was right."""

    rows: int
    confidence: float
    right: float


@dataclass(frozen=True, slots=True)
class Honesty:
    """Whether confidence means what it says.

    ``expected_error`` is the expected calibration error (Naeini et al. 2015) in 15 equal bins;
    ``curve`` is the risk-coverage curve.
    """

    rows: int
    accuracy: float
    confidence: float
    expected_error: float
    bins: tuple[Bin, ...]
    curve: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Fit:
    """What calibration found, and how well it holds on rows that it was not fitted on."""

    null_threshold: float
    calibration: Calibration
    held_out_f1: float
    honesty: Honesty


def calibrate(read: Read, seed: int = 13) -> Fit:
    """Fit threshold and confidence; honesty is cross-fitted over folds of whole passages.

    Raises:
        InputError: nothing can be fitted on these rows.
    """
    refuse_uncalibratable(read.rows)
    f1, threshold = find_threshold(read)
    honesty = measure_honesty(cross_judge(read, seed))
    return Fit(threshold, fit_calibration(read), f1, honesty)


def refuse_uncalibratable(rows: Sequence[Labelled]) -> None:
    """Refuse rows on which nothing can be fitted; for before any work.

    Raises:
        InputError: there are none, all are of one kind, or all ask one passage.
    """
    if not rows:
        raise InputError("there are no held-out rows to calibrate by: hold out more passages")
    answerable = sum(1 for row in rows if row.answers)
    if answerable in (0, len(rows)):
        lacking = "answerable" if answerable == 0 else "unanswerable"
        raise InputError(
            f"the {len(rows)} held-out rows have no {lacking} question, so neither threshold"
            " nor confidence can be fitted: hold out rows of both kinds"
        )
    if len({row.context for row in rows}) == 1:
        raise InputError(
            f"the {len(rows)} held-out rows ask one passage, so confidence cannot be checked on"
            " another: hold out more passages"
        )


def find_threshold(read: Read) -> tuple[float, float]:
    """Return the best F1 and its threshold on null odds, by the official sweep.

    Where it is best never to answer the sweep says 0, which would answer some: then the threshold
    lies below all null odds of these rows.
    """
    scored = to_scored(read, None)
    best, threshold = sweep(scored, score_f1, read.language)
    silence = 100.0 * sum(1 for one in scored if not one.golds) / len(scored)
    if best <= silence:
        return best, min(one.null_odds for one in scored) - 1.0
    return best, threshold


def fit_calibration(read: Read) -> Calibration:
    """Fit the three regressions: of answers, of abstentions, and of answers where all are answered.

    The last is fitted on the rows that have an answer alone, and is None without any.
    """
    margins = np.array([answer.margin for answer in read.answers if answer.margin is not None])
    max_margin = float(np.quantile(margins, MARGIN_QUANTILE)) if len(margins) else 10.0
    kept = [pair for pair in zip(to_scored(read, None), read.answers, strict=True)
            if pair[1].null_odds is not None]  # fmt: skip
    odds = np.array([answer.null_odds for _, answer in kept], dtype=np.float64)
    margin = np.array(
        [max_margin if one.margin is None else min(one.margin, max_margin) for _, one in kept]
    )
    right = np.array(
        [bool(one.golds) and _is_exact(one.golds, one.best, read.language) for one, _ in kept]
    )
    empty = np.array([not one.golds for one, _ in kept])
    both = np.stack([odds, margin], axis=1)
    return Calibration(
        answer=_fit(both, right),
        abstention=_fit(odds[:, None], empty),
        max_margin=round(max_margin, 4),
        always=None if empty.all() else _fit(both[~empty], right[~empty]),
    )


def _fit(features: NDArray[np.float64], labels: NDArray[np.bool_]) -> Logistic:
    return Logistic(*(round(float(weight), 6) for weight in fit_logistic(features, labels)))


def fit_logistic(features: NDArray[np.float64], labels: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return bias and weights by Newton's method, towards smoothed targets.

    Shapes: ``features`` is ``(rows, features)``, ``labels`` ``(rows,)``, the result
    ``(1 + features,)``. Source: Platt 1999, §2.2, whose targets keep one class finite too.
    """
    rows = np.concatenate([np.ones((len(features), 1)), features], axis=1)
    positive = int(labels.sum())
    negative = len(labels) - positive
    target = np.where(labels, (positive + 1) / (positive + 2), 1 / (negative + 2))
    weights = np.zeros(rows.shape[1])
    for _ in range(_STEPS):
        probability = 1.0 / (1.0 + np.exp(-np.clip(rows @ weights, -60.0, 60.0)))
        slope = rows.T @ (probability - target) + RIDGE * weights
        spread = probability * (1.0 - probability)
        curvature = (rows * spread[:, None]).T @ rows + RIDGE * np.eye(len(weights))
        step = np.linalg.solve(curvature, slope)
        # A step of at most 1 a weight: from far away Newton's own would overshoot.
        weights -= step / max(1.0, float(np.abs(step).max()))
        if float(np.abs(step).max()) < 1e-9:
            break
    return weights


def cross_judge(read: Read, seed: int = 13) -> list[Judged]:
    """Judge each fold of passages with what the other folds gave."""
    contexts = sorted({row.context for row in read.rows})
    order = np.random.default_rng(seed).permutation(len(contexts))
    fold_of = {contexts[place]: rank % FOLDS for rank, place in enumerate(order)}
    judged: list[Judged] = []
    for fold in range(FOLDS):
        inside = _choose(read, [fold_of[row.context] == fold for row in read.rows])
        outside = _choose(read, [fold_of[row.context] != fold for row in read.rows])
        if inside.rows and outside.rows:
            judged += judge_all(inside, find_threshold(outside)[1], fit_calibration(outside))
    return judged


def judge_as_met(read: Read, fit: Fit) -> list[Judged]:
    """Judge rows as a user meets them: abstaining only where some of the set should."""
    abstains = any(not row.answers for row in read.rows)
    return judge_all(read, fit.null_threshold if abstains else None, fit.calibration)


def judge_all(read: Read, threshold: float | None, calibration: Calibration) -> list[Judged]:
    """Return each row's confidence and whether its answer, or its abstention, is right."""
    found = []
    for row, answer in zip(read.rows, read.answers, strict=True):
        verdict = judge(answer.null_odds, answer.margin, threshold, calibration)
        golds = tuple(gold.text for gold in row.answers)
        if verdict.status is Status.UNANSWERABLE:
            right = not golds
        else:
            best = None if answer.best is None or not golds else answer.best.text
            right = best is not None and _is_exact(golds, best, read.language)
        found.append((1.0 if verdict.confidence is None else verdict.confidence, right))
    return found


def measure_honesty(judged: Sequence[Judged], points: int = TENTHS) -> Honesty:
    """Compare confidences with what was right; the curve gets so many points."""
    said = np.array([confidence for confidence, _ in judged], dtype=np.float64)
    was = np.array([right for _, right in judged], dtype=np.float64)
    places = np.minimum((said * BINS).astype(int), BINS - 1)
    bins = tuple(
        Bin(int(chosen.sum()), float(said[chosen].mean()), float(was[chosen].mean()))
        for chosen in (places == place for place in range(BINS))
        if chosen.any()
    )
    error = sum(one.rows * abs(one.confidence - one.right) for one in bins) / len(said)
    wrong = 1.0 - was[np.argsort(-said, kind="stable")]
    parts = np.arange(1, points + 1) / points
    counts = dict.fromkeys(max(1, round(len(wrong) * float(part))) for part in parts)
    curve = tuple(Point(count / len(wrong), float(wrong[:count].mean())) for count in counts)
    return Honesty(len(said), float(was.mean()), float(said.mean()), error, bins, curve)


def _is_exact(golds: tuple[str, ...], text: str, language: str) -> bool:
    return score_best(score_exact, golds, text, language) == 1.0


def _choose(read: Read, members: Sequence[bool]) -> Read:
    pairs = [
        pair
        for pair, member in zip(zip(read.rows, read.answers, strict=True), members, strict=True)
        if member
    ]
    return replace(
        read, rows=tuple(row for row, _ in pairs), answers=tuple(answer for _, answer in pairs)
    )
