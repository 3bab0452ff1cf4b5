"""New unanswerable rows: similar passages and swapped questions."""

import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.augment import (
    ask_nearest_passages,
    lacks_answers,
    swap_entities,
    swap_negations,
    swap_numbers,
)
from training.data import Gold, Labelled

MILL = "Joan Whitlock built the mill at Arden in 1742 and sold it in 1760 to Piers Vane."
WEIR = "The weir of the mill at Arden was carried away by the flood of 1868."
SHIP = "Captain Ruiz left Chile with forty men and two cannons."
BEES = "The bees at Lyme were kept by Agnes Moor."

Ways = Callable[[list[Labelled], int, int], list[Labelled]]
WAYS: list[Ways] = [ask_nearest_passages, swap_entities, swap_numbers, swap_negations]  # type: ignore[list-item]
every_way = pytest.mark.parametrize("way", WAYS)


def _ask(question: str, context: str, *answers: str, title: str = "Arden") -> Labelled:
    golds = tuple(Gold(answer, context.index(answer)) for answer in answers)
    return Labelled(f"{question}-{context[:4]}", question, context, golds, title, "ours")


ROWS = [
    _ask("Who built the mill at Arden in 1742?", MILL, "Joan Whitlock"),
    _ask("What carried the weir away?", WEIR, "the flood"),
    _ask("Who did not stay with Ruiz in Chile?", SHIP, "forty men", title="Ships"),
    _ask("Where did Agnes Moor keep bees?", BEES, "Lyme", title="Bees"),
    _ask("Who drowned?", WEIR),
]

_NAMES = st.sampled_from(["Joan", "Piers Vane", "Arden", "Lyme", "Agnes Moor"])
_DIGITS = st.integers(0, 3000).map(str)
_TEXTS = st.lists(
    st.one_of(_NAMES, _DIGITS, st.sampled_from(["the", "mill", "was", "built", "by", "in", "."])),
    min_size=4,
    max_size=14,
).map(lambda words: " ".join(["It", *words]))


@st.composite
def _drawn_rows(draw: st.DrawFn) -> list[Labelled]:
    rows = []
    for number in range(draw(st.integers(0, 8))):
        context = draw(_TEXTS)
        question = (
            f"Who {draw(st.sampled_from(['was', 'never', 'did not', 'built']))} {draw(_TEXTS)}?"
        )
        words = list(re.finditer(r"\w+", context))
        chosen = draw(st.sampled_from(words))
        golds = (Gold(chosen[0], chosen.start()),) if draw(st.booleans()) else ()
        title = draw(st.sampled_from(["one", "two"]))
        rows.append(Labelled(str(number), question, context, golds, title, "ours"))
    return rows


@every_way
@given(rows=_drawn_rows(), count=st.integers(0, 9), seed=st.integers(0, 9))
def test_new_rows_are_unanswerable_bounded_and_follow_from_the_seed(
    way: Ways, rows: list[Labelled], count: int, seed: int
) -> None:
    known = {row.id: row for row in rows if row.answers}
    made = way(rows, count, seed)
    assert made == way(rows, count, seed)
    assert len(made) <= count
    assert len({row.id for row in made}) == len(made)
    for row in made:
        source = known[row.id.rpartition("-")[0]]
        assert row.answers == ()
        assert (row.question, row.context) != (source.question, source.context)
        assert (row.title, row.source) == (source.title, source.source)


@given(_drawn_rows(), st.integers(0, 9))
def test_a_passage_put_to_a_question_lacks_its_answers(rows: list[Labelled], seed: int) -> None:
    known = {row.id: row for row in rows}
    for row in ask_nearest_passages(rows, len(rows), seed):
        source = known[row.id.rpartition("-")[0]]
        assert row.context != source.context
        assert row.context in {other.context for other in rows}
        assert lacks_answers(row.context, source)
        assert row.question == source.question


@given(_drawn_rows(), st.integers(0, 9))
def test_a_swap_keeps_the_passage_and_offers_no_answer(rows: list[Labelled], seed: int) -> None:
    known = {row.id: row for row in rows}
    for way in (swap_entities, swap_numbers):
        for row in way(rows, len(rows), seed):
            source = known[row.id.rpartition("-")[0]]
            assert row.context == source.context
            added = set(row.question.split()) - set(source.question.split())
            assert not added & {gold.text for gold in source.answers}


def test_the_nearest_passage_of_the_same_title_is_preferred() -> None:
    twin = _ask(
        "Was the mill at Arden built in 1742?", MILL.replace("Vane", "Vance"), title="Ships"
    )
    far = _ask("Who is paid?", "Nobody at Arden is paid for this.")
    made = ask_nearest_passages([far, *ROWS, twin], 9, 1)
    places = {row.question: row.context for row in made}
    assert places["Who built the mill at Arden in 1742?"] == WEIR
    assert places["What carried the weir away?"] == MILL


def test_a_title_with_one_passage_falls_back_to_its_source() -> None:
    made = ask_nearest_passages(ROWS, 9, 1)
    assert {row.question for row in made} == {row.question for row in ROWS if row.answers}


def test_a_question_without_a_place_gives_way_to_the_next_drawn() -> None:
    everywhere = [_ask(f"Who {number}?", MILL, "Arden") for number in range(6)]  # WEIR has it too
    rows = [*everywhere, *ROWS[:2]]
    wanted = {row.question for row in ROWS[:2]}
    for seed in range(5):
        assert {row.question for row in ask_nearest_passages(rows, 2, seed)} == wanted
        assert len(ask_nearest_passages(rows, 1, seed)) == 1


def test_no_other_passage_means_no_row() -> None:
    assert ask_nearest_passages(ROWS[:1], 9, 1) == []


@pytest.mark.parametrize(
    ("context", "lacks"),
    [
        ("Nobody knows.", True),
        ("It was joan  WHITLOCK!", False),
        ("Joan Whitlocks are many.", True),
        ("It was joan whitlock's.", False),
        ("Joan Whitlock-Vane sold it.", False),
    ],
)
def test_answers_are_sought_as_the_official_scores_compare_them_and_as_they_stand(
    context: str,
    lacks: bool,
) -> None:
    assert lacks_answers(context, ROWS[0]) is lacks


def test_an_entity_is_swapped_for_another_of_its_passage() -> None:
    made = swap_entities(ROWS[:1], 9, 1)
    assert made == []  # nothing else there is one word long and no part of question or answer
    row = _ask(
        "Who sold it to Piers Vane?", MILL.replace("Vane", "Vane or Hugh Mott"), "Joan Whitlock"
    )
    assert [new.question for new in swap_entities([row], 9, 1)] == ["Who sold it to Hugh Mott?"]


def test_a_number_is_swapped_for_one_of_its_kind() -> None:
    assert [row.question for row in swap_numbers(ROWS[:1], 9, 1)] == [
        "Who built the mill at Arden in 1760?"
    ]
    lonely = _ask("Who had 2 cannons?", SHIP, "Captain Ruiz")
    assert [row.question for row in swap_numbers([lonely], 9, 1)] == ["Who had 3 cannons?"]


def test_a_negation_is_put_in_or_lifted() -> None:
    made = {row.id.rpartition("-")[0]: row.question for row in swap_negations(ROWS, 9, 1)}
    assert made[ROWS[2].id] == "Who did stay with Ruiz in Chile?"
    assert made[ROWS[3].id] == "Where did not Agnes Moor keep bees?"
    assert ROWS[0].id not in made


@pytest.mark.parametrize("word", ["can't", "won't", "Shan't"])
def test_a_negation_that_leaves_no_word_is_not_lifted(word: str) -> None:
    rows = [
        _ask(f"Who {word} keep bees?", BEES, "Agnes"),
        _ask("Who didn't keep bees?", BEES, "Lyme"),
    ]
    assert [row.question for row in swap_negations(rows, 9, 1)] == ["Who did keep bees?"]
