"""The official scores, against the slow reference and by hand."""

import string
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import reference
from worker.reading.scores import (
    LANGUAGES,
    Part,
    Scored,
    evaluate,
    keep_golds,
    normalize_answer,
    score_best,
    score_exact,
    score_f1,
    sweep,
)

words = st.sampled_from(
    ["a", "an", "the", "The", "A", "river", "River", "river's", "1,000", "-", "...", "«la»", "é",
     "e\u0301", "水", "a.n", "_a_", "the\u00a0Nile", "a\u0301", "İ", "ß", "\t", "\n"]
)  # fmt: skip
answers = st.one_of(st.lists(words, max_size=6).map(" ".join), st.text(max_size=8))
odds = st.one_of(st.integers(-3, 3).map(float), st.floats(-20, 20), st.just(float("inf")))
rows = st.builds(
    lambda golds, best, odds, answered: Scored(tuple(golds), best if answered else "", best, odds),
    st.lists(answers, max_size=3),
    answers,
    odds,
    st.booleans(),
)


def as_reference(rows: Sequence[Scored]) -> list[tuple[Sequence[str], str, float]]:
    return [(row.golds, row.best, row.null_odds) for row in rows]


@settings(max_examples=500)
@given(answers, answers)
def test_normalization_and_both_scores_are_those_of_the_slow_reference(
    gold: str, prediction: str
) -> None:
    assert normalize_answer(gold) == reference.normalize_answer(gold)
    assert score_exact(gold, prediction) == reference.exact(gold, prediction)
    assert score_f1(gold, prediction) == reference.f1(gold, prediction)


@given(st.lists(answers, max_size=4), answers)
def test_the_best_gold_counts_and_blank_golds_do_not(golds: list[str], prediction: str) -> None:
    for mine, theirs in [(score_exact, reference.exact), (score_f1, reference.f1)]:
        got = score_best(mine, golds, prediction)
        assert got == reference.raw_score(theirs, golds, prediction)


@given(st.lists(rows, min_size=1, max_size=30))
def test_the_sweep_is_that_of_the_slow_reference(found: list[Scored]) -> None:
    table = as_reference(found)
    assert sweep(found, score_exact) == reference.find_best_thresh(reference.exact, table)
    assert sweep(found, score_f1) == reference.find_best_thresh(reference.f1, table)


@given(st.lists(rows, min_size=1, max_size=30), st.floats(-10, 10))
def test_scores_of_thresholded_rows_are_those_of_the_slow_reference(
    found: list[Scored], threshold: float
) -> None:
    # An answerable row whose golds all normalize to nothing is scored "right" here when it is
    # abstained from, and "wrong" by the protocol's threshold; no known set has one.
    found = [row for row in found if not row.golds or keep_golds(row.golds) != ("",)]
    if not found:
        return
    judged = [replace(row, prediction="" if row.null_odds > threshold else row.best)
              for row in found]  # fmt: skip
    table = as_reference(found)
    result = evaluate(judged)
    assert result.exact == pytest.approx(reference.mean_at(reference.exact, table, threshold))
    assert result.f1 == pytest.approx(reference.mean_at(reference.f1, table, threshold))


plain_rows = st.builds(
    lambda golds, best, odds: Scored(golds, best, best, odds),
    st.sampled_from([(), ("x",), ("x y", "z")]),
    st.sampled_from(["x", "y", "z w"]),
    odds,
)


@given(st.lists(plain_rows, min_size=1, max_size=30))
def test_no_threshold_does_better_than_the_best_one(found: list[Scored]) -> None:
    table = as_reference(found)
    best, _ = sweep(found, score_f1)
    for threshold in [float("-inf"), *(row.null_odds for row in found)]:
        assert best >= reference.mean_at(reference.f1, table, threshold) - 1e-9


@given(st.lists(plain_rows, min_size=1, max_size=30, unique_by=lambda row: row.null_odds))
def test_the_best_threshold_gives_the_best_score(found: list[Scored]) -> None:
    best, threshold = sweep(found, score_exact)
    reached = reference.mean_at(reference.exact, as_reference(found), threshold)
    nothing = 100.0 * sum(not row.golds for row in found) / len(found)
    assert best == pytest.approx(reached) or best == nothing


def test_punctuation_goes_before_articles() -> None:
    assert normalize_answer("a.n") == ""
    assert normalize_answer("The  U.S.-based, an_x") == "usbased anx"


def test_only_whole_words_are_articles() -> None:
    assert normalize_answer("the theatre at an anthill a") == "theatre at anthill"


def test_articles_are_found_whatever_their_case_and_the_rest_is_lowered() -> None:
    assert normalize_answer("THE Nile") == "nile"


def test_only_ascii_punctuation_goes() -> None:
    assert normalize_answer("«Nile» – ¿qué?") == "«nile» – ¿qué"


def test_f1_counts_each_word_as_often_as_both_have_it() -> None:
    assert score_f1("x x y", "x x x") == pytest.approx(2 / 3)


def test_f1_is_the_harmonic_mean_of_precision_and_recall() -> None:
    assert score_f1("x y z u", "x") == pytest.approx(2 * 1.0 * 0.25 / 1.25)


def test_two_empty_answers_agree_and_one_does_not() -> None:
    assert (score_f1("", "the"), score_f1("", "x"), score_f1("x", "")) == (1.0, 0.0, 0.0)
    assert (score_exact("", "the"), score_exact("x", "")) == (1.0, 0.0)


def test_golds_that_normalize_to_nothing_are_dropped() -> None:
    assert keep_golds(["the", "x", "."]) == ("x",)
    assert keep_golds(["the"]) == ("",)
    assert keep_golds([]) == ("",)


def answered(gold: str, best: str, null_odds: float) -> Scored:
    return Scored((gold,), best, best, null_odds)


def unanswerable(best: str, null_odds: float, prediction: str = "") -> Scored:
    return Scored((), prediction, best, null_odds)


def test_the_halves_are_scored_apart() -> None:
    rows = [answered("x", "x", 0), answered("x", "y", 0), unanswerable("z", 1)]
    result = evaluate(rows)
    assert result.exact == pytest.approx(200 / 3)
    assert result.total == 3
    assert result.has_answer == Part(50.0, 50.0, 2)
    assert result.no_answer == Part(100.0, 100.0, 1)


def test_a_half_without_rows_is_none() -> None:
    assert evaluate([answered("x", "x", 0)]).no_answer is None
    assert evaluate([unanswerable("x", 0)]).has_answer is None


def test_answering_an_unanswerable_question_scores_nothing() -> None:
    assert evaluate([unanswerable("x", 0, prediction="x")]).exact == 0.0


def test_scores_of_no_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="no rows"):
        evaluate([])


def test_the_best_threshold_lets_in_the_last_row_that_gains() -> None:
    rows = [
        answered("x", "x", -2.0), answered("x", "x", -1.0), unanswerable("z", 0.5),
        answered("x", "y", 1.0), unanswerable("z", 2.0),
    ]  # fmt: skip
    assert sweep(rows, score_exact) == (80.0, -1.0)


def test_the_first_of_equally_good_thresholds_is_taken() -> None:
    rows = [answered("x", "x", -2.0), answered("x", "y", -1.0)]
    assert sweep(rows, score_exact) == (50.0, -2.0)


def test_the_sweep_uses_the_best_text_of_rows_that_were_abstained_from() -> None:
    rows = [replace(answered("x", "x", 3.0), prediction="")]
    assert sweep(rows, score_exact) == (100.0, 3.0)


def test_an_unanswerable_row_without_any_text_costs_nothing_in_the_sweep() -> None:
    assert sweep([unanswerable("", -5.0), answered("x", "x", -1.0)], score_exact) == (100.0, -1.0)


def test_where_nothing_gains_the_best_is_to_abstain_everywhere() -> None:
    rows = [unanswerable("x", -5.0), unanswerable("", -6.0), answered("x", "y", -7.0)]
    best, threshold = sweep(rows, score_exact)
    assert best == pytest.approx(200 / 3)
    assert threshold == 0.0


#: Texts with what MLQA's own script makes of them.
MLQA = [
    ("es", "El Niño, «la» niña y los niños", "niño niña y niños"),
    ("es", "¿Un río… o una — mar?", "río o mar"),
    ("es", "a la ONU", "a onu"),
    ("es", "unos 3,5 % de las Lasalas", "35 de lasalas"),
    ("de", "Der Rhein – das „Tor“ des Westens", "rhein tor westens"),
    ("vi", "Cái cầu của Huế là những…", "cầu huế"),
    ("ar", "الكتاب والقلم", "كتاب و قلم"),
    ("hi", "दिल्ली।", "दिल्ली"),
    ("zh", "2008年，北京 Beijing奥运会", "2008 年 北 京 beijing 奥 运 会"),
]


@pytest.mark.parametrize(("language", "text", "normal"), MLQA)
def test_other_languages_are_normalized_as_mlqa_does(language: str, text: str, normal: str) -> None:
    assert normalize_answer(text, language) == normal


def test_mlqa_scores_are_those_of_its_script() -> None:
    spanish = score_f1("capital de España y Portugal", "la capital de España", "es")
    assert spanish == pytest.approx(0.75)
    assert score_f1("北京", "北京市", "zh") == pytest.approx(0.8)
    assert score_exact("¿El Ebro?", "Ebro", "es") == 1.0
    assert score_exact("¿El Ebro?", "Ebro") == 0.0


def test_every_language_of_mlqa_is_there() -> None:
    assert {*LANGUAGES} == {"ar", "de", "en", "es", "hi", "vi", "zh"}


@given(answers, st.sampled_from(sorted(LANGUAGES)))
def test_neither_ascii_punctuation_nor_extra_space_survives_in_any_language(
    text: str, language: str
) -> None:
    normal = normalize_answer(text, language)
    assert normal == " ".join(normal.split())
    assert not set(normal) & set(string.punctuation)


def test_a_set_is_scored_in_its_language_with_sweep_and_golds() -> None:
    rows = [answered("el Ebro", "¡Ebro!", -1.0), Scored(("la", "Miño"), "Miño", "Miño", 0.0)]
    spanish, english = evaluate(rows, "es"), evaluate(rows)
    assert (spanish.exact, spanish.best.exact, spanish.best.f1) == (100.0, 100.0, 100.0)
    assert (english.exact, english.best.exact) == (50.0, 50.0)
    assert keep_golds(["la", "Miño"], "es") == ("Miño",)
    assert keep_golds(["la", "Miño"]) == ("la", "Miño")
