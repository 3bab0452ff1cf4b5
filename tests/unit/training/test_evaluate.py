"""Evaluation: the worker's answers, scored by the official rules, with intervals."""

import numpy as np
import pytest

from tests.tiny import PASSAGES, QUESTIONS, Tiny
from training.data import Gold, Labelled
from training.evaluate import Read, bootstrap, estimate, read_rows, to_scored
from worker.contracts.bundle import load_bundle
from worker.contracts.records import Answer, Span, Status
from worker.opening import Graph, graph_of
from worker.reading.scores import evaluate

GOLDS = ("Joan Whitlock", "150", "Brújula")
ROWS = tuple(
    Labelled(f"{number}-{other}", question, context, golds)
    for number, (context, gold) in enumerate(zip(PASSAGES, GOLDS, strict=True))
    for other, question in enumerate(QUESTIONS)
    for golds in [(Gold(gold, context.index(gold)),) if other == number else ()]
)


@pytest.fixture(scope="module")
def graph(tiny: Tiny) -> Graph:
    return graph_of(load_bundle(tiny.bundle("bert")))


def test_answers_do_not_depend_on_the_number_of_processes(graph: Graph) -> None:
    alone = read_rows(graph, ROWS, 1)
    together = read_rows(graph, ROWS, 2)
    assert [answer.id for answer in together.answers] == [row.id for row in ROWS]
    assert [answer.best for answer in together.answers] == [one.best for one in alone.answers]


def test_a_row_that_repeats_is_read_once_and_answered_each_time(graph: Graph) -> None:
    read = read_rows(graph, (*ROWS[:2], *ROWS[:3]), 1)
    assert read.rows == (*ROWS[:2], *ROWS[:3])
    assert [answer.id for answer in read.answers] == [row.id for row in read.rows]
    assert read.answers[0] is read.answers[2]


def test_reading_answers_always_and_knows_the_odds(graph: Graph) -> None:
    for row, answer in zip(ROWS, read_rows(graph, ROWS, 1).answers, strict=True):
        assert answer.status is Status.ANSWERED
        assert answer.best is not None
        assert row.context[answer.best.start_char : answer.best.end_char] == answer.best.text
        assert answer.null_odds is not None
        assert answer.margin is not None


def test_a_row_is_silent_above_the_threshold_and_not_at_it() -> None:
    read = _read([("right", ("right",), 1.0), ("wrong", (), 2.0), ("", (), None)])
    assert [one.prediction for one in to_scored(read, 1.0)] == ["right", "", ""]
    assert [one.prediction for one in to_scored(read, None)] == ["right", "wrong", ""]
    assert [one.best for one in to_scored(read, -5.0)] == ["right", "wrong", ""]


def test_estimates_are_the_official_scores() -> None:
    read = _read([("the mill", ("Mill",), -1.0), ("old mill", ("mill",), 0.0), ("x", (), 3.0)])
    official = evaluate(to_scored(read, 1.0))
    exact, f1 = estimate(read, 1.0)
    assert exact.value == pytest.approx(official.exact)
    assert f1.value == pytest.approx(official.f1)
    assert exact.low <= exact.value <= exact.high


def test_estimates_are_made_in_the_language_asked_for() -> None:
    read = _read([("la casa", ("casa",), -1.0), ("el río", ("río",), 0.0)])
    spanish, english = (estimate(read, None, language=language)[0] for language in ("es", "en"))
    assert (spanish.value, english.value) == (100.0, 0.0)


def test_an_interval_is_as_wide_as_theory_says() -> None:
    values = (np.arange(2_000) % 2).astype(float)
    found = bootstrap(values, np.arange(2_000))
    expected = 100 * 1.96 * 0.5 / np.sqrt(2_000)
    assert found.value == 50.0
    assert (found.high - found.low) / 2 == pytest.approx(expected, rel=0.15)


def test_rows_of_one_passage_count_as_one_draw() -> None:
    values = np.repeat(np.arange(100) % 2, 20).astype(float)
    alone = bootstrap(values, np.arange(2_000))
    grouped = bootstrap(values, np.repeat(np.arange(100), 20))
    assert grouped.value == alone.value
    assert grouped.high - grouped.low > 3 * (alone.high - alone.low)


def test_passages_of_many_rows_weigh_as_many_rows() -> None:
    groups = np.repeat(np.arange(20), np.arange(1, 21))
    found = bootstrap(np.ones(len(groups)), groups)
    assert (found.low, found.value, found.high) == (100.0, 100.0, 100.0)


def _read(rows: list[tuple[str, tuple[str, ...], float | None]]) -> Read:
    labelled = tuple(
        Labelled(str(number), "?", f"passage {number}", tuple(Gold(gold, 0) for gold in golds))
        for number, (_, golds, _) in enumerate(rows)
    )
    answers = tuple(
        Answer(
            row=number,
            id=str(number),
            status=Status.ANSWERED,
            best=Span(text, 0, len(text), 1.0) if text else None,
            null_odds=odds,
        )
        for number, (text, _, odds) in enumerate(rows)
    )
    return Read(labelled, answers)
