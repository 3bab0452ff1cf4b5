"""Calibration: the official threshold, and a confidence that means what it says."""

from dataclasses import replace

import numpy as np
import pytest

from training.calibrate import (
    FOLDS,
    calibrate,
    cross_judge,
    find_threshold,
    fit_calibration,
    fit_logistic,
    judge_all,
    measure_honesty,
)
from training.data import Gold, Labelled
from training.evaluate import Read, estimate, to_scored
from worker.contracts.errors import InputError
from worker.contracts.records import Answer, Span, Status
from worker.reading.scores import evaluate


def test_a_logistic_fit_finds_the_weights_that_made_the_data() -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(0, 2, (20_000, 2))
    chance = 1 / (1 + np.exp(-(0.5 - 0.8 * features[:, 0] + 0.3 * features[:, 1])))
    found = fit_logistic(features, rng.random(20_000) < chance)
    assert found == pytest.approx([0.5, -0.8, 0.3], abs=0.06)


def test_a_logistic_fit_agrees_with_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(2)
    features = rng.normal(1, 3, (3_000, 2))
    labels = features.sum(axis=1) + rng.normal(0, 4, 3_000) > 1
    known = LogisticRegression(C=1e6).fit(features, labels)
    expected = [known.intercept_[0], *known.coef_[0]]
    assert fit_logistic(features, labels) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("labels", [[True] * 6, [False] * 6, [False] * 3 + [True] * 3])
def test_a_fit_stays_finite_on_data_of_one_kind_or_parted(labels: list[bool]) -> None:
    features = np.array([[-300.0], [-200.0], [-100.0], [100.0], [200.0], [300.0]])
    found = fit_logistic(features, np.array(labels))
    assert np.isfinite(found).all()
    assert np.abs(found).max() < 10


def test_a_feature_that_never_changes_breaks_no_fit() -> None:
    features = np.stack([np.linspace(-3, 3, 50), np.full(50, 7.0), np.full(50, 14.0)], axis=1)
    found = fit_logistic(features, features[:, 0] > 0.5)
    assert np.isfinite(found).all()
    assert found[1] > 1


def test_the_threshold_is_the_one_that_scores_best() -> None:
    read = _simulate(400)
    f1, threshold = find_threshold(read)
    assert evaluate(to_scored(read, threshold)).f1 == pytest.approx(f1)
    others = [evaluate(to_scored(read, other)).f1 for other in np.linspace(-8, 8, 33)]
    assert max(others) <= f1 + 1e-9
    assert evaluate(to_scored(read, None)).f1 < f1 - 5


def test_a_reader_that_is_never_right_learns_to_be_silent() -> None:
    read = _simulate(60)
    wrong = tuple(
        replace(one, best=Span("nowhere", 0, 7, 1.0), null_odds=abs(one.null_odds or 0.0) - 20.0)
        for one in read.answers
    )
    never = Read(read.rows, wrong)
    f1, threshold = find_threshold(never)
    assert {one.prediction for one in to_scored(never, threshold)} == {""}
    assert evaluate(to_scored(never, threshold)).f1 == pytest.approx(f1)
    assert evaluate(to_scored(never, 0.0)).f1 < f1


def test_confidence_is_honest_on_rows_it_was_not_fitted_on() -> None:
    fit = calibrate(_simulate(3_000, seed=3))
    fresh = judge_all(_simulate(3_000, seed=4), fit.null_threshold, fit.calibration)
    honesty = measure_honesty(fresh)
    assert honesty.expected_error < 0.04
    assert fit.honesty.expected_error < 0.04
    assert honesty.confidence == pytest.approx(honesty.accuracy, abs=0.02)


def test_confidence_is_honest_where_every_row_has_an_answer_and_is_answered() -> None:
    calibration = fit_calibration(_simulate(3_000, seed=3))
    fresh = _simulate(3_000, seed=4)
    members = [bool(row.answers) for row in fresh.rows]
    kept = Read(
        tuple(row for row, member in zip(fresh.rows, members, strict=True) if member),
        tuple(one for one, member in zip(fresh.answers, members, strict=True) if member),
    )
    found = judge_all(kept, None, calibration)
    honesty = measure_honesty(found)
    assert honesty.confidence == pytest.approx(honesty.accuracy, abs=0.03)
    assert honesty.expected_error < 0.04
    old = judge_all(kept, None, replace(calibration, always=None))
    assert np.mean([one for one, _ in old]) < honesty.accuracy - 0.1, "it was too low"


def test_without_an_answerable_row_there_is_no_such_confidence() -> None:
    read = _simulate(200)
    silent = Read(tuple(replace(row, answers=()) for row in read.rows), read.answers)
    assert fit_calibration(silent).always is None


def test_more_null_odds_mean_less_trust_in_the_answer_and_more_in_silence() -> None:
    calibration = fit_calibration(_simulate(2_000))
    assert calibration.answer.null_odds < 0 < calibration.abstention.null_odds
    assert calibration.answer.margin > 0
    assert calibration.abstention.margin == 0


def test_margins_are_cut_where_they_are_rare() -> None:
    read = _simulate(2_000)
    calibration = fit_calibration(read)
    margins = sorted(answer.margin for answer in read.answers if answer.margin is not None)
    assert margins[len(margins) // 2] < calibration.max_margin < margins[-1]


def test_a_few_absurd_margins_move_no_weight() -> None:
    read = _simulate(2_000)
    absurd = [replace(one, margin=1e6) for one in read.answers[:8]]
    moved = fit_calibration(Read(read.rows, (*absurd, *read.answers[8:])))
    assert moved.answer.margin == pytest.approx(fit_calibration(read).answer.margin, rel=0.1)


@pytest.mark.parametrize(("kept", "lacking"), [(True, "unanswerable"), (False, "answerable")])
def test_rows_of_one_kind_are_refused_in_a_sentence(kept: bool, lacking: str) -> None:
    read = _simulate(200)
    pairs = [pair for pair in zip(*_columns(read), strict=True) if bool(pair[0].answers) is kept]
    one_kind = Read(tuple(row for row, _ in pairs), tuple(answer for _, answer in pairs))
    with pytest.raises(InputError, match=f"no {lacking} question"):
        calibrate(one_kind)


def test_a_passage_without_tokens_is_silence_and_certain() -> None:
    read = _simulate(100)
    empty = Labelled("e", "?", "", ())
    nothing = Answer(row=100, id="e", status=Status.UNANSWERABLE)
    longer = Read((*read.rows, empty), (*read.answers, nothing))
    fit = calibrate(longer)
    assert judge_all(longer, fit.null_threshold, fit.calibration)[-1] == (1.0, True)


def test_cross_fitting_judges_every_row_once() -> None:
    read = _simulate(150)
    assert len(cross_judge(read, seed=1)) == 150
    assert len({row.context for row in read.rows}) > FOLDS


def test_no_fold_is_judged_by_what_it_was_fitted_on() -> None:
    read = _simulate(60)
    odds = np.random.default_rng(8).normal(0, 3, 60)
    noise = tuple(
        replace(one, null_odds=float(value)) for one, value in zip(read.answers, odds, strict=True)
    )
    meaningless = Read(read.rows, noise)
    on_itself = judge_all(meaningless, find_threshold(meaningless)[1], fit_calibration(meaningless))
    flattered = np.mean([right for _, right in on_itself])
    assert measure_honesty(cross_judge(meaningless, seed=1)).accuracy < flattered


def test_expected_calibration_error_of_known_bins() -> None:
    said = [0.95] * 10 + [0.55] * 10
    right = [True] * 7 + [False] * 3 + [True] * 5 + [False] * 5
    honesty = measure_honesty(list(zip(said, right, strict=True)))
    assert honesty.expected_error == pytest.approx(0.5 * 0.25 + 0.5 * 0.05)
    assert [(one.rows, one.right) for one in honesty.bins] == [(10, 0.5), (10, 0.7)]


def test_the_risk_coverage_curve_takes_the_surest_rows_first() -> None:
    honesty = measure_honesty([(0.1, False), (0.9, True), (0.8, True), (0.2, False), (1.0, True)])
    risks = {round(point.coverage, 2): point.risk for point in honesty.curve}
    assert risks == pytest.approx({0.2: 0, 0.4: 0, 0.6: 0, 0.8: 0.25, 1.0: 0.4})


def test_answers_are_compared_by_the_rules_of_the_reads_language() -> None:
    """An article more is no error in Spanish, and another text in English."""
    english = _simulate(60)
    answers = tuple(
        answer if answer.best is None else replace(answer, best=Span("los gold", 0, 8, 1.0))
        for answer in english.answers
    )
    wrong = replace(english, answers=answers)
    right = replace(wrong, language="es")
    assert find_threshold(right)[0] > find_threshold(wrong)[0]
    calibration = fit_calibration(right)
    assert calibration.always is not None
    found = [
        [is_right for _, is_right in judge_all(one, None, calibration)] for one in (right, wrong)
    ]
    assert found[0] == [bool(row.answers) for row in right.rows]
    assert not any(found[1])
    assert [estimate(one, None)[0].value > 0 for one in (right, wrong)] == [True, False]
    accurate = [measure_honesty(cross_judge(one)).accuracy for one in (right, wrong)]
    assert accurate[0] > accurate[1]


def _simulate(rows: int, seed: int = 5) -> Read:
    """Return rows whose null odds and margins say something, but not all, of what is right."""
    rng = np.random.default_rng(seed)
    labelled, answers = [], []
    for number in range(rows):
        answerable = bool(rng.random() < 0.5)
        odds = float(rng.normal(-2 if answerable else 2, 3))
        margin = float(rng.exponential(2))
        right = answerable and rng.random() < 1 / (1 + np.exp(0.3 * odds - 0.5 * margin + 0.5))
        golds = (Gold("gold", 0),) if answerable else ()
        labelled.append(Labelled(str(number), "?", f"passage {number // 3}", golds))
        span = Span("gold" if right else "other", 0, 5, 1.0)
        answers.append(Answer(number, str(number), Status.ANSWERED, span, odds, margin))
    return Read(tuple(labelled), tuple(answers))


def _columns(read: Read) -> tuple[tuple[Labelled, ...], tuple[Answer, ...]]:
    return read.rows, read.answers
