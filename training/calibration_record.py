"""What calibration saw, kept for plots: scores over thresholds, and confidence against the truth.

Of held-out rows, on which threshold and confidence were fitted, and of the sets that were scored
for the card alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from training.calibrate import Fit, Honesty, cross_judge, judge_as_met, measure_honesty
from training.evaluate import Read, score_rows, to_scored
from training.run_state import write_whole
from worker.contracts.errors import InputError

#: What the rows are called that the fit was made on.
HELD_OUT = "held-out"
#: Thresholds of a sweep, and points of a risk-coverage curve.
POINTS = 100


@dataclass(frozen=True, slots=True)
class Scores:
    """F1 and exact match from 0 to 100 at a threshold on null odds; None where none is such."""

    threshold: float
    exact: float
    f1: float
    has_answer_f1: float | None
    no_answer_f1: float | None


@dataclass(frozen=True, slots=True)
class Seen:
    """One set. Of held-out rows honesty is cross-fitted: no row judges what it was fitted on.

    ``sweep`` is empty where every row has an answer: nothing is to be abstained from.
    """

    sweep: tuple[Scores, ...]
    honesty: Honesty


@dataclass(frozen=True, slots=True)
class CalibrationRecord:
    """The threshold that held-out rows gave, and all sets by their names, held-out rows first."""

    null_threshold: float
    sets: dict[str, Seen]


def record_calibration(reads: Mapping[str, Read], fit: Fit) -> CalibrationRecord:
    """Look at every set through a fit; that named ``HELD_OUT`` is the one that it was made on."""
    sets = {}
    for name, read in reads.items():
        judged = cross_judge(read) if name == HELD_OUT else judge_as_met(read, fit)
        sets[name] = Seen(sweep_scores(read, fit.null_threshold), measure_honesty(judged, POINTS))
    return CalibrationRecord(fit.null_threshold, sets)


def sweep_scores(read: Read, threshold: float) -> tuple[Scores, ...]:
    """Score rows at thresholds spread evenly over them, and at the given one; by rising ones."""
    if all(row.answers for row in read.rows):
        return ()
    always = to_scored(read, None)
    exact, f1 = score_rows(always, read.language)
    empty = np.array([not one.golds for one in always])
    odds = np.array([one.null_odds for one in always])
    finite = odds[np.isfinite(odds)]
    if not len(finite):
        return ()
    chosen = np.unique([*np.quantile(finite, np.linspace(0, 1, POINTS)), threshold])
    found = []
    for one in chosen:
        silent = odds > one
        at = [np.where(silent, empty, scores) for scores in (exact, f1)]
        halves = [float(at[1][half].mean()) * 100 if half.any() else None
                  for half in (~empty, empty)]  # fmt: skip
        found.append(Scores(float(one), *(100 * float(part.mean()) for part in at), *halves))
    return tuple(found)


def write_record(file: Path, record: CalibrationRecord) -> None:
    """Write a record as JSON.

    Raises:
        WorldError: the disk does not take it.
    """
    write_whole(file, msgspec.json.encode(record).decode())


def read_record(file: Path) -> CalibrationRecord | None:
    """Read a record, None where there is no file.

    Raises:
        InputError: it holds something else.
    """
    if not file.is_file():
        return None
    try:
        return msgspec.json.decode(file.read_bytes(), type=CalibrationRecord)
    except msgspec.DecodeError as error:
        raise InputError(
            f"{file} is no record of a calibration ({error}): delete it, and the page goes without"
        ) from error


def read_card(null_threshold: float, card: dict[str, Any]) -> CalibrationRecord | None:
    """Return what a bundle's card tells of its calibration, which is no sweep; None if nothing."""
    if "calibration" not in card:
        return None
    told = {HELD_OUT: card["calibration"], **card.get("honesty", {})}
    sets = {name: Seen((), msgspec.convert(one, Honesty)) for name, one in told.items()}
    return CalibrationRecord(null_threshold, sets)
