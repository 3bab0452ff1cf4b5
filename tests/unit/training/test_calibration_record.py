"""What calibration saw: the sweep is that of the official scores, and comes back from its file."""

from pathlib import Path

import numpy as np
import pytest

from training.calibrate import calibrate, find_threshold
from training.calibration_record import (
    HELD_OUT,
    POINTS,
    read_card,
    read_record,
    record_calibration,
    sweep_scores,
    write_record,
)
from training.data import Gold, Labelled
from training.evaluate import Read, to_scored
from worker.contracts.errors import InputError
from worker.contracts.records import Answer, Span, Status
from worker.reading.scores import evaluate


def _simulate(rows: int, seed: int, *, answerable: float = 0.5) -> Read:
    rng = np.random.default_rng(seed)
    labelled, answers = [], []
    for number in range(rows):
        has = bool(rng.random() < answerable)
        odds, margin = float(rng.normal(-2 if has else 2, 3)), float(rng.exponential(2))
        text = "gold" if has and rng.random() < 0.7 else "gold and more"
        golds = (Gold("gold", 0),) if has else ()
        labelled.append(Labelled(str(number), "?", f"passage {number // 3}", golds))
        span = Span(text, 0, len(text), 1.0)
        answers.append(Answer(number, str(number), Status.ANSWERED, span, odds, margin))
    return Read(tuple(labelled), tuple(answers))


def test_a_sweep_holds_the_official_scores_at_each_threshold() -> None:
    read = _simulate(200, seed=1)
    points = sweep_scores(read, 0.5)
    thresholds = [one.threshold for one in points]
    assert thresholds == sorted(set(thresholds))
    assert POINTS <= len(points) <= POINTS + 1
    for one in points[::17]:
        official = evaluate(to_scored(read, one.threshold))
        assert (one.exact, one.f1) == pytest.approx((official.exact, official.f1))
        assert official.has_answer is not None
        assert official.no_answer is not None
        assert one.has_answer_f1 == pytest.approx(official.has_answer.f1)
        assert one.no_answer_f1 == pytest.approx(official.no_answer.f1)


def test_the_bundles_threshold_lies_on_the_curve_at_its_best() -> None:
    read = _simulate(200, seed=2)
    best, threshold = find_threshold(read)
    points = {one.threshold: one.f1 for one in sweep_scores(read, threshold)}
    assert points[threshold] == pytest.approx(best) == pytest.approx(max(points.values()))


def test_where_every_row_has_an_answer_nothing_is_swept() -> None:
    assert sweep_scores(_simulate(20, seed=3, answerable=1.0), 0.0) == ()


def test_a_row_without_any_odds_is_always_silent() -> None:
    read = _simulate(40, seed=4)
    empty = Answer(row=40, id="e", status=Status.UNANSWERABLE)
    longer = Read((*read.rows, Labelled("e", "?", "", ())), (*read.answers, empty))
    highest = sweep_scores(longer, 0.0)[-1]
    assert highest.no_answer_f1 is not None
    assert highest.no_answer_f1 > 0
    assert np.isfinite([one.threshold for one in sweep_scores(longer, 0.0)]).all()


def test_a_record_comes_back_as_it_was_held_out_rows_first(tmp_path: Path) -> None:
    held_out, report = _simulate(150, seed=5), _simulate(60, seed=6, answerable=1.0)
    fit = calibrate(held_out)
    record = record_calibration({HELD_OUT: held_out, "v1.1": report}, fit)
    write_record(tmp_path / "bundle.calibration.json", record)
    assert read_record(tmp_path / "bundle.calibration.json") == record
    assert list(record.sets) == [HELD_OUT, "v1.1"]
    assert record.sets["v1.1"].sweep == ()
    cross_fitted = record.sets[HELD_OUT].honesty
    assert cross_fitted.expected_error == fit.honesty.expected_error
    assert cross_fitted.bins == fit.honesty.bins
    assert len(cross_fitted.curve) > len(fit.honesty.curve)
    assert cross_fitted.curve[-1] == fit.honesty.curve[-1]


def test_a_damaged_record_is_refused_by_name_and_a_missing_one_is_none(tmp_path: Path) -> None:
    file = tmp_path / "bundle.calibration.json"
    assert read_record(file) is None
    file.write_text('{"null_threshold": 1}')
    with pytest.raises(InputError, match=r"bundle\.calibration\.json is no record"):
        read_record(file)


def test_a_card_alone_tells_all_but_the_sweep() -> None:
    told = {
        "rows": 2, "accuracy": 0.5, "confidence": 0.6, "expected_error": 0.1,
        "bins": [{"rows": 2, "confidence": 0.6, "right": 0.5}],
        "curve": [{"coverage": 1.0, "risk": 0.5}],
    }  # fmt: skip
    record = read_card(0.25, {"calibration": told, "honesty": {"v2.0": told}})
    assert record is not None
    assert record.null_threshold == 0.25
    assert list(record.sets) == [HELD_OUT, "v2.0"]
    assert record.sets["v2.0"].honesty.curve[0].risk == 0.5
    assert read_card(0.0, {}) is None
