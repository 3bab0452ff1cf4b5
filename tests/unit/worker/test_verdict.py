"""From null odds to a status and a confidence."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.contracts.records import Status
from worker.contracts.verdict import Calibration, Logistic, judge

CALIBRATION = Calibration(
    answer=Logistic(bias=0.5, null_odds=-0.4, margin=0.2),
    abstention=Logistic(bias=-0.5, null_odds=0.4, margin=-0.1),
    max_margin=6.0,
)

logits = st.floats(-1e30, 1e30)
weights = st.floats(-100, 100)
logistics = st.builds(Logistic, weights, weights, weights)


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


@given(
    null_odds=st.none() | logits,
    margin=st.none() | st.floats(0, 1e30),
    threshold=st.none() | st.floats(allow_nan=False),
    calibration=st.builds(Calibration, logistics, logistics, st.floats(0, 100)),
)
def test_confidence_is_a_probability_whatever_the_logits(
    null_odds: float | None, margin: float | None, threshold: float | None, calibration: Calibration
) -> None:
    verdict = judge(null_odds, margin, threshold, calibration)
    assert verdict.confidence is not None
    assert 0.0 <= verdict.confidence <= 1.0
    assert verdict.status in (Status.ANSWERED, Status.UNANSWERABLE)


@given(null_odds=st.floats(-20, 20), threshold=st.floats(-20, 20))
def test_a_row_is_unanswerable_above_the_threshold_and_not_at_it(
    null_odds: float, threshold: float
) -> None:
    expected = Status.UNANSWERABLE if null_odds > threshold else Status.ANSWERED
    assert judge(null_odds, None, threshold, CALIBRATION).status is expected
    assert judge(threshold, None, threshold, CALIBRATION).status is Status.ANSWERED


@pytest.mark.parametrize("threshold", [None, math.inf])
def test_without_a_threshold_every_row_with_a_span_is_answered(threshold: float | None) -> None:
    assert judge(1e9, 0.0, threshold, CALIBRATION).status is Status.ANSWERED


@pytest.mark.parametrize("threshold", [None, math.inf, 0.0, -math.inf])
def test_a_row_without_a_span_is_certainly_unanswerable(threshold: float | None) -> None:
    verdict = judge(None, None, threshold, CALIBRATION)
    assert (verdict.status, verdict.confidence) == (Status.UNANSWERABLE, 1.0)


def test_an_answer_and_an_abstention_have_each_their_own_confidence() -> None:
    answer = judge(-2.0, 3.0, 0.0, CALIBRATION)
    abstention = judge(2.0, 3.0, 0.0, CALIBRATION)
    assert answer.confidence == pytest.approx(sigmoid(0.5 + 0.4 * 2 + 0.2 * 3))
    assert abstention.confidence == pytest.approx(sigmoid(-0.5 + 0.4 * 2 - 0.1 * 3))


def test_who_answers_always_is_judged_by_rows_that_have_an_answer() -> None:
    sure = replace(CALIBRATION, always=Logistic(bias=1.5, null_odds=-0.1, margin=0.1))
    for threshold in (None, math.inf):
        verdict = judge(2.0, 3.0, threshold, sure)
        assert verdict.confidence == pytest.approx(sigmoid(1.5 - 0.1 * 2 + 0.1 * 3))
    assert judge(-2.0, 3.0, 0.0, sure) == judge(-2.0, 3.0, 0.0, CALIBRATION)


def test_a_calibration_without_that_judges_all_answers_alike() -> None:
    assert judge(2.0, 3.0, None, CALIBRATION) == judge(2.0, 3.0, 5.0, CALIBRATION)


def test_margins_are_cut_and_a_missing_one_counts_as_the_largest() -> None:
    largest = judge(-2.0, 6.0, 0.0, CALIBRATION)
    assert judge(-2.0, 60.0, 0.0, CALIBRATION) == largest
    assert judge(-2.0, None, 0.0, CALIBRATION) == largest
    assert judge(-2.0, 5.0, 0.0, CALIBRATION) != largest


def test_a_margin_of_nothing_is_no_missing_margin() -> None:
    verdict = judge(-2.0, 0.0, 0.0, CALIBRATION)
    assert verdict.confidence == pytest.approx(sigmoid(0.5 + 0.4 * 2))
