"""The baseline: rules that a trained reader must beat."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.baseline import answer, read_all
from training.data import Labelled
from training.samples import SAMPLE

MILL = (
    "Mr. Hale of Arden kept bees. The old mill was opened in May 1742 by Joan Whitlock, because the"
    " town lacked flour. It had three storeys and was 9 metres high. The mill stands near Lyme."
)


def ask(question: str, context: str = MILL) -> str:
    best = answer(0, Labelled("row", question, context, ())).best
    assert best is not None
    assert context[best.start_char : best.end_char] == best.text
    return best.text


@pytest.mark.parametrize(
    ("question", "found"),
    [
        ("Who opened the mill?", "Joan Whitlock"),
        ("When was the old mill opened?", "May 1742"),
        ("In which year was the old mill opened?", "May 1742"),
        ("How many storeys had it?", "three"),
        ("How high was it in metres?", "three storeys"),  # the first number with a unit
        ("Where does the mill stand?", "Lyme"),
        ("Why was the mill opened by Joan Whitlock?", "the town lacked flour"),
        ("What did Mr. Hale of Arden keep?", "kept bees"),
        (
            "Who was 9 metres high with three storeys?",
            "It had three storeys and was 9 metres high.",
        ),
    ],
)
def test_the_question_word_says_what_is_sought(question: str, found: str) -> None:
    assert ask(question) == found


def test_a_sentence_without_anything_else_is_the_answer_itself() -> None:
    assert ask("Who was high?", "It was high. So it is.") == "It was high."


def test_a_rare_word_weighs_more_than_a_common_one() -> None:
    context = "The mill at Lyme burned. The mill at Ash turned. The mill at Ash sank."
    assert ask("What of the mill Lyme?", context) == "burned"


def test_a_passage_that_lacks_most_of_the_question_has_no_answer() -> None:
    rows = [
        Labelled("held", "Who opened the old mill?", MILL, ()),
        Labelled("missing", "Which parliament taxed Hale's colonial lighthouse?", MILL, ()),
    ]
    odds = [one.null_odds for one in read_all(rows)]
    assert odds[0] is not None
    assert odds[1] is not None
    assert odds[0] < 0 < odds[1]


def test_it_finds_what_is_plain_in_the_sample() -> None:
    found = {question: ask(question, context) for question, context in SAMPLE}
    assert found["When was the Harrow Bridge opened?"] == "14 May 1907"
    assert found["Who was the engineer of the bridge?"] == "Leonie Kastner"
    assert found["How long is the bridge?"] == "412 metres"
    assert found["How many stalls open at six in the evening?"] == "400"
    assert found["What has the oldest stall sold since 1976?"] == "oyster omelettes"


_TEXTS = st.lists(
    st.sampled_from(["The", "mill", "of", "Joan", "9", "metres", "because", ".", "!", "é", "\n",
                     "May", "1742", "“so”", "in", "x-y", "\u00a0", "three", "it's", "𝄞"]),
    min_size=1, max_size=20,
).map(" ".join)  # fmt: skip


@given(st.sampled_from([question for question, _ in SAMPLE]), _TEXTS)
def test_what_it_answers_lies_in_the_passage(question: str, context: str) -> None:
    found = answer(0, Labelled("row", question, context, ()))
    if found.best is None:
        assert not context.strip()
        return
    assert found.best.text
    assert context[found.best.start_char : found.best.end_char] == found.best.text
    assert found.null_odds is not None
    assert -0.5 <= found.null_odds <= 0.5
