"""Logits to spans: what the laws say, and what the slow reference says."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests import reference
from worker.contracts.errors import RowError
from worker.reading.spans import Reading, WindowLogits, find_owners, read_spans, snap
from worker.reading.windows import Encoded, TokenizedText, Window, slice_passage

SPECIALS = 3
CASES = 500


@dataclass(frozen=True)
class Case:
    """A passage whose windows have logits; ``question_tokens`` stand before each slice."""

    context: str
    encoded: Encoded
    logits: tuple[WindowLogits, ...]

    def as_reference(self) -> list[reference.WindowScores]:
        return [
            reference.WindowScores(
                reference.Slice(window.first_token, window.first_token + window.context_tokens),
                window.context_start,
                [float(value) for value in one.start],
                [float(value) for value in one.end],
            )
            for window, one in zip(self.encoded.windows, self.logits, strict=True)
        ]

    def offsets(self) -> list[tuple[int, int]]:
        passage = self.encoded.passage
        return list(zip(passage.starts.tolist(), passage.ends.tolist(), strict=True))


def make_case(
    words: Sequence[str],
    logits: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]],
    *,
    question_tokens: int = 2,
    capacity: int = 1000,
    overlap: int = 0,
    pieces: Sequence[int] | int = 1,
) -> Case:
    """Join words by single spaces; each is one token, or ``pieces`` that all cover the whole word.

    So do the tokens of a byte-level tokenizer that share one character.
    """
    ends = np.cumsum([len(word) + 1 for word in words], dtype=np.int64) - 1
    starts = ends - np.array([len(word) for word in words], dtype=np.int64)
    starts, ends = np.repeat(starts, pieces), np.repeat(ends, pieces)
    passage = TokenizedText(np.arange(len(starts)), starts, ends)
    windows = tuple(make_windows(len(starts), question_tokens, capacity, overlap))
    return Case(
        " ".join(words),
        Encoded(passage, windows, question_was_cut=False),
        tuple(WindowLogits(start, end) for start, end in logits),
    )


def make_windows(tokens: int, question_tokens: int, capacity: int, overlap: int) -> list[Window]:
    windows = []
    for first, last in slice_passage(tokens, capacity, overlap):
        ids = np.zeros(question_tokens + SPECIALS + last - first, dtype=np.int64)
        windows.append(Window(ids, ids, question_tokens + 2, last - first, first))
    return windows


def flat(window_tokens: int, **peaks: float) -> NDArray[np.float32]:
    """Return logits of -9 but for some positions, given as ``p3=2.0``."""
    logits = np.full(window_tokens, -9.0, dtype=np.float32)
    for name, value in peaks.items():
        logits[int(name[1:])] = value
    return logits


def read(case: Case, max_answer_tokens: int = 30, count: int = 5) -> Reading:
    return read_spans(case.context, case.encoded, case.logits, max_answer_tokens, count)


def random_case(generator: np.random.Generator) -> Case:
    """A passage with repeated words, blank tokens, several windows, and logits with many ties."""
    count = int(generator.integers(1, 60))
    words = generator.choice(["a", "b", "ab", "é", "e\u0301", "\t", "水", "😀"], count).tolist()
    pieces = [3 if word == "😀" else 1 for word in words]
    question_tokens = int(generator.integers(1, 30))
    capacity = int(generator.integers(2, 40))
    overlap = int(generator.integers(0, capacity))
    windows = make_windows(sum(pieces), question_tokens, capacity, overlap)
    logits = [(random_logits(generator, len(one)), random_logits(generator, len(one)))
              for one in windows]  # fmt: skip
    return make_case(
        words, logits, question_tokens=question_tokens, capacity=capacity, overlap=overlap,
        pieces=pieces,
    )  # fmt: skip


def random_logits(generator: np.random.Generator, tokens: int) -> NDArray[np.float32]:
    kind = generator.integers(3)
    if kind == 0:
        return generator.integers(-2, 3, tokens).astype(np.float32)
    logits = generator.normal(0, 4, tokens).astype(np.float32)
    if kind == 1:  # a model that sees nothing in the context
        logits[: max(1, tokens // 2)] += 20
    return logits


def expect(case: Case, max_answer_tokens: int) -> list[reference.Found]:
    windows = case.as_reference()
    offsets = case.offsets()
    candidates = reference.list_candidates(windows, max_answer_tokens)
    found = reference.list_answers(case.context, offsets, candidates)
    if found:
        return found
    blank = [not case.context[start:end].strip() for start, end in offsets]
    candidates = reference.list_all_spans(windows, max_answer_tokens, blank)
    return reference.list_answers(case.context, offsets, candidates)


@pytest.mark.parametrize("seed", range(6))
def test_spans_and_null_score_are_those_of_the_slow_reference(seed: int) -> None:
    generator = np.random.default_rng(seed)
    fallbacks = 0
    for number in range(CASES):
        case = random_case(generator)
        limit = int(generator.integers(1, 34))
        count = int(generator.integers(1, 6))
        windows = case.as_reference()
        expected = expect(case, limit)[:count]
        reading = read(case, limit, count)
        got = [(one.text, one.start_char, one.end_char, one.score) for one in reading.spans]
        wanted = [(one.text, one.start, one.end, one.score) for one in expected]
        assert got == wanted, f"seed {seed}, case {number}"
        assert reading.null_score == reference.null_score(windows)
        fallbacks += not reference.list_candidates(windows, limit)
    assert 0 < fallbacks < CASES / 2


@given(st.integers(0, 2**32 - 1))
def test_a_passage_with_a_word_always_has_a_best_span(seed: int) -> None:
    case = random_case(np.random.default_rng(seed))
    spans = read(case, max_answer_tokens=1, count=1).spans
    assert bool(spans) == bool(case.context.strip())


@given(st.integers(0, 2**32 - 1))
def test_spans_are_distinct_texts_of_their_context_best_first(seed: int) -> None:
    case = random_case(np.random.default_rng(seed))
    spans = read(case, count=20).spans
    assert all(case.context[one.start_char : one.end_char] == one.text for one in spans)
    assert len({one.text for one in spans}) == len(spans)
    scores = [one.score for one in spans]
    assert scores == sorted(scores, reverse=True)


def test_a_span_may_have_as_many_tokens_as_allowed_and_no_more() -> None:
    words = ["w1", "w2", "w3", "w4"]
    case = make_case(words, [(flat(9, p4=5.0), flat(9, p7=5.0, p6=1.0))])
    assert read(case, max_answer_tokens=4).spans[0].text == "w1 w2 w3 w4"
    assert read(case, max_answer_tokens=3).spans[0].text == "w1 w2 w3"


def test_a_span_is_never_taken_backwards() -> None:
    # Both tokens cover the whole character: backwards they would still give a text.
    case = make_case(["😀"], [(flat(7, p5=5.0), flat(7, p4=5.0))], pieces=2)
    assert read(case).spans[0].score == -4.0


def test_question_and_special_tokens_are_never_answers() -> None:
    everywhere_else = {"p0": 9.0, "p1": 8.0, "p2": 7.0, "p3": 6.0, "p7": 5.0}
    case = make_case(["w1", "w2", "w3"], [(flat(8, **everywhere_else), flat(8, **everywhere_else))])
    assert {one.text for one in read(case, count=9).spans} <= {
        "w1", "w2", "w3", "w1 w2", "w2 w3", "w1 w2 w3",
    }  # fmt: skip


def test_the_null_score_is_the_least_of_the_windows() -> None:
    case = make_case(
        ["w1", "w2", "w3"],
        [(flat(6, p0=4.0), flat(6, p0=3.0)), (flat(6, p0=1.0), flat(6, p0=2.0))],
        capacity=2,
        overlap=1,
        question_tokens=1,
    )
    assert read(case).null_score == 3.0


def test_a_text_found_twice_keeps_its_higher_score_and_the_place_of_it() -> None:
    case = make_case(["yes", "no", "yes"], [(flat(8, p4=2.0, p6=3.0), flat(8, p4=2.0, p6=3.0))])
    spans = [one for one in read(case, max_answer_tokens=1).spans if one.text == "yes"]
    assert [(one.start_char, one.score) for one in spans] == [(7, 6.0)]


def test_of_equal_scores_the_higher_start_logit_comes_first() -> None:
    case = make_case(["w1", "w2"], [(flat(7, p4=1.0, p5=3.0), flat(7, p4=3.0, p5=1.0))])
    assert [one.text for one in read(case, max_answer_tokens=1).spans] == ["w2", "w1"]


def test_of_equal_logits_the_earlier_token_comes_first() -> None:
    case = make_case(["w1", "w2"], [(flat(7, p4=2.0, p5=2.0), flat(7, p4=2.0, p5=2.0))])
    assert [one.text for one in read(case, max_answer_tokens=1).spans] == ["w1", "w2"]


def test_only_the_twenty_best_starts_and_ends_are_candidates() -> None:
    words = [f"w{number}" for number in range(30)]
    start, end = flat(35, p4=9.0), flat(35)
    end[:20] = 0.0  # the question's and the first tokens: the last word comes 21st
    end[-2] = -1.0
    case = make_case(words, [(start, end)])
    texts = [one.text for one in read(case, count=50).spans]
    assert " ".join(words[:16]) in texts
    assert " ".join(words) not in texts


def test_a_span_counts_only_where_its_start_has_the_most_context() -> None:
    words = [f"w{number}" for number in range(6)]
    # Windows of w0-w3 and w2-w5: w3 is at the edge of the first and inside the second.
    first, second = flat(8, p6=5.0), flat(8, p4=1.0)
    case = make_case(words, [(first, first), (second, second)],
                     capacity=4, overlap=2, question_tokens=1)  # fmt: skip
    best = read(case, max_answer_tokens=1).spans[0]
    assert (best.text, best.score) == ("w3", 2.0)


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 20)), min_size=1, max_size=5))
def test_each_token_is_owned_by_the_window_that_shows_most_around_it(
    parts: list[tuple[int, int]],
) -> None:
    nothing = np.zeros(0, dtype=np.int64)
    windows = [Window(nothing, nothing, 0, length, first) for first, length in parts]
    slices = [reference.Slice(first, first + length) for first, length in parts]
    owners = find_owners(windows, 40)
    for token in {token for one in slices for token in range(one.first, one.last)}:
        assert reference.token_is_max_context(slices, int(owners[token]), token)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_the_rows_error(bad: float) -> None:
    logits = flat(7, p4=1.0)
    logits[1] = bad
    case = make_case(["w1", "w2"], [(flat(7, p4=1.0), logits)])
    with pytest.raises(RowError, match="not finite"):
        read(case)


@given(st.text(), st.data())
def test_snapping_leaves_no_white_space_at_the_ends_and_no_mark_behind(
    text: str, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    first, last = snap(text, start, end)
    assert text[first:last].strip() == text[first:last]
    assert (first, last) == reference.read_text(text, start, end) or not text[start:end].strip()
    assert start <= first <= last <= len(text)


def test_snapping_takes_in_every_mark_on_the_last_character() -> None:
    assert snap("cafe\u0301\u0323 bar", 0, 4) == (0, 6)
    assert snap("n" + "\u0301" * 10_000, 0, 1) == (0, 10_001)


def test_snapping_an_empty_range_takes_in_nothing() -> None:
    first, last = snap(" \u0301", 0, 1)
    assert first == last
