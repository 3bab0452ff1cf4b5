"""A torch model in the worker's reader: the same answers, officially scored."""

from pathlib import Path

import numpy as np
import pytest

from tests.tiny import PASSAGES, QUESTIONS, SIZES, Tiny
from training.checkpoint import open_encoder, open_model
from training.data import Gold, Labelled
from training.predict import SpanModel, TorchScorer, read_rows, score_answers, score_held_out
from worker.contracts.errors import JobError
from worker.contracts.records import Answer, Span, Status
from worker.reading.reader import pad_windows
from worker.reading.windows import Encoder

ROWS = tuple(
    Labelled(str(number), question, context, ())
    for number, (question, context) in enumerate(
        zip((*QUESTIONS, "Why?"), (*PASSAGES, " ".join(PASSAGES) * 9), strict=True)
    )
)


def _open(folder: Path) -> tuple[SpanModel, Encoder]:
    model, family = open_model(folder, dropout=0.5, attention="eager")
    return SpanModel(model), open_encoder(folder, family, SIZES)


def _answer(text: str, null_odds: float | None) -> Answer:
    best = None if null_odds is None else Span(text, 0, len(text), 1.0)
    return Answer(0, "a", Status.ANSWERED, best=best, null_odds=null_odds)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_padding_and_dropout_change_no_answer(family: str, tiny: Tiny) -> None:
    model, encoder = _open(tiny.checkpoint(family))
    model.train()
    together = read_rows(model, ROWS, encoder)
    assert model.training
    alone = [read_rows(model, [row], encoder)[0] for row in ROWS]
    assert max(answer.windows for answer in together) > 2
    for one, other in zip(together, alone, strict=True):
        assert one.best is not None
        assert other.best is not None
        assert one.best.text == other.best.text
        assert one.null_odds == pytest.approx(other.null_odds, abs=1e-4)


def test_a_scorer_gives_a_logit_for_every_token(tiny: Tiny) -> None:
    model, encoder = _open(tiny.checkpoint("bert"))
    encoded = encoder.encode("Who?", encoder.tokenize_passage(PASSAGES[0]))
    start, end = TorchScorer(model, encoder.pad).score(pad_windows(encoded.windows, encoder.pad))
    tokens = len(encoded.windows[0])
    assert start.dtype == end.dtype == np.float32
    assert (start[0, :tokens] > -1000).all()
    assert not np.array_equal(start, end)


def test_a_model_that_gives_no_numbers_is_an_error(tiny: Tiny) -> None:
    model, encoder = _open(tiny.checkpoint("bert"))
    next(model.parameters()).data.fill_(float("nan"))
    with pytest.raises(JobError, match="cannot be read"):
        read_rows(model, ROWS, encoder)


def test_low_null_odds_let_answers_in_first() -> None:
    rows = [
        Labelled("a", "Who?", "Joan", (Gold("Joan", 0),)),
        Labelled("b", "Who?", "Joan", ()),
        Labelled("c", "Who?", "Joan", (Gold("Joan", 0),)),
    ]
    answers = [_answer("Joan", -3.0), _answer("Joan", 2.0), _answer("", None)]
    scores = score_answers(rows, answers)
    assert scores.best.f1 == pytest.approx(200 / 3)
    assert scores.best.f1_threshold == -3.0
    assert scores.has_answer is not None
    assert scores.has_answer.f1 == 50.0
    assert scores.f1 == pytest.approx(100 / 3)


def test_answers_are_scored_by_the_rules_of_their_language() -> None:
    rows = [Labelled("a", "¿Qué?", "el molino", (Gold("molino", 3),))]
    answers = [_answer("el molino", -3.0)]
    assert score_answers(rows, answers).exact == 0.0
    assert score_answers(rows, answers, "es").exact == 100.0


def test_held_out_scores_steer_by_both_halves(tiny: Tiny) -> None:
    model, encoder = _open(tiny.checkpoint("bert"))
    answers = read_rows(model, ROWS[:3], encoder)
    right = []
    for row, answer in zip(ROWS[:3], answers, strict=True):
        assert answer.best is not None
        gold = Gold(answer.best.text, answer.best.start_char)
        right.append(Labelled(row.id, row.question, row.context, (gold,)))
    scores = score_held_out(model, right, encoder)
    assert (scores.answerable_f1, scores.best_f1, scores.score, scores.rows) == (100, 100, 100, 3)
    unanswerable = score_held_out(model, ROWS[:3], encoder)
    assert (unanswerable.answerable_f1, unanswerable.best_f1, unanswerable.score) == (0, 100, 50)
