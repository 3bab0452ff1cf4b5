"""English inflection: what the rules know both ways, and what they leave alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.small_wordnet import SETS, write_wordnet
from training.morphology import analyse, inflect, list_lemmas
from training.wordnet import Part, WordNet


@pytest.fixture(scope="module")
def wordnet(tmp_path_factory: pytest.TempPathFactory) -> WordNet:
    return WordNet(write_wordnet(tmp_path_factory.mktemp("words") / "wordnet"))


@pytest.mark.parametrize(
    ("word", "lemma", "part", "ending"),
    [
        ("mill", "mill", Part.NOUN, ""),
        ("mills", "mill", Part.NOUN, "s"),
        ("cities", "city", Part.NOUN, "s"),
        ("boxes", "box", Part.NOUN, "s"),
        ("baked", "bake", Part.VERB, "ed"),
        ("baking", "bake", Part.VERB, "ing"),
        ("bakes", "bake", Part.VERB, "s"),
        ("tried", "try", Part.VERB, "ed"),
        ("building", "build", Part.VERB, "ing"),
        ("trying", "try", Part.VERB, "ing"),
        ("carries", "carry", Part.VERB, "s"),
        ("constructed", "construct", Part.VERB, "ed"),
        ("large", "large", Part.ADJECTIVE, ""),
        ("rapidly", "rapidly", Part.ADVERB, ""),
        ("record", "record", Part.NOUN, ""),  # the verb occurs in no annotated text
    ],
)
def test_a_form_is_told_by_its_lemma_and_ending(
    word: str, lemma: str, part: Part, ending: str, wordnet: WordNet
) -> None:
    form = analyse(word, wordnet)
    assert form is not None
    assert (form.entry.lemma, form.entry.part, form.ending) == (lemma, part, ending)


@pytest.mark.parametrize(
    "word",
    [
        "xylem",  # unknown
        "answer", "answers",  # noun or verb
        "built", "said", "leaves", "oxen",  # irregular
        "older",  # a comparative
        "put",  # present or past
        "stopping",  # its consonant doubles
    ],
)  # fmt: skip
def test_a_form_in_doubt_is_left_alone(word: str, wordnet: WordNet) -> None:
    assert analyse(word, wordnet) is None


@pytest.mark.parametrize(
    ("lemma", "part", "ending", "form"),
    [
        ("metropolis", Part.NOUN, "s", None),
        ("crate", Part.NOUN, "s", "crates"),
        ("lady", Part.NOUN, "s", "ladies"),
        ("hero", Part.NOUN, "s", None),
        ("leaf", Part.NOUN, "s", None),
        ("attempt", Part.VERB, "ed", "attempted"),
        ("purchase", Part.VERB, "ing", "purchasing"),
        ("purchase", Part.VERB, "ed", "purchased"),
        ("finish", Part.VERB, "s", "finishes"),
        ("tell", Part.VERB, "ed", None),
        ("stop", Part.VERB, "ing", None),
        ("stop", Part.VERB, "s", "stops"),
        ("try", Part.VERB, "ed", "tried"),
        ("build", Part.VERB, "ed", None),
        ("big", Part.ADJECTIVE, "s", None),
        ("rapidly", Part.ADVERB, "", "rapidly"),
    ],
)
def test_a_lemma_takes_an_ending_where_spelling_is_sure(
    lemma: str, part: Part, ending: str, form: str | None, wordnet: WordNet
) -> None:
    assert inflect(lemma, part, ending, wordnet) == form


_LEMMAS = [
    (word.partition("(")[0], Part(part))
    for part, sets in SETS.items()
    for one in sets
    for word in one.split()
    if word.islower() and "_" not in word
]


@given(st.sampled_from(_LEMMAS), st.sampled_from(["", "s", "ed", "ing"]))
def test_what_is_inflected_has_its_lemma_among_its_readings(
    wordnet: WordNet, one: tuple[str, Part], ending: str
) -> None:
    lemma, part = one
    form = inflect(lemma, part, ending, wordnet)
    if form is not None:
        assert lemma in [entry.lemma for entry in list_lemmas(form, part, wordnet)]
