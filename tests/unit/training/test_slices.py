"""Scores by kind of question: every row in one slice of each kind."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.data import Gold, Labelled
from training.slices import name_lengths, slice_rows


def make_row(question: str, words: int, answer: str | None) -> Labelled:
    context = " ".join(["mill"] * words)
    golds = () if answer is None else (Gold(answer, 0),)
    return Labelled(question, question, context, golds)


_ROWS = st.builds(
    make_row,
    st.sampled_from(["Who sold it?", "At what hour?", "Name it.", "How?"]),
    st.integers(1, 700),
    st.sampled_from([None, "mill", " ".join(["mill"] * 4), " ".join(["mill"] * 30)]),
)


@given(st.lists(_ROWS, min_size=1, max_size=20), st.integers(0, 99))
def test_slices_of_a_kind_share_out_all_rows_and_their_scores(
    rows: list[Labelled], seed: int
) -> None:
    f1 = np.random.default_rng(seed).random(len(rows))
    slices = slice_rows(rows, {"one": (np.round(f1), f1), "two": (f1, f1)})
    for by in ("question word", "answer's words", "passage's words"):
        own = [one for one in slices if one.by == by]
        assert sum(one.questions for one in own) == len(rows)
        assert {cell.system for one in own for cell in one.cells} == {"one", "two"}
        total = sum(one.questions * one.cells[0].f1 for one in own)
        assert total == pytest.approx(100 * f1.sum())


def test_lengths_fall_into_named_classes() -> None:
    assert name_lengths((1, 2, 4)) == ["1", "2", "3-4", "5 or more"]
    rows = [make_row("Who?", 100, "mill"), make_row("Who?", 101, "mill mill mill")]
    rows.append(make_row("Why?", 501, None))
    scores = np.zeros(3)
    found = {(one.by, one.value) for one in slice_rows(rows, {"one": (scores, scores)})}
    assert found == {
        ("question word", "who"), ("question word", "why"), ("answer's words", "1"),
        ("answer's words", "3-4"), ("answer's words", "no answer"), ("passage's words", "1-100"),
        ("passage's words", "101-150"), ("passage's words", "501 or more"),
    }  # fmt: skip
