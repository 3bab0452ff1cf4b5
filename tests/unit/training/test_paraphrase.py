"""Paraphrases: other words around the answers, never in them, and every answer in its place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.small_wordnet import SETS, write_wordnet
from training.data import Gold, Labelled
from training.paraphrase import Paraphraser, Wording, paraphrase_rows
from training.wordnet import Part, WordNet
from worker.contracts.errors import UsageError

EVERYTHING = Wording(share=1.0)


@pytest.fixture(scope="module")
def wordnet(tmp_path_factory: pytest.TempPathFactory) -> WordNet:
    return WordNet(write_wordnet(tmp_path_factory.mktemp("words") / "wordnet"))


def make_row(context: str, *answers: str, name: str = "row") -> Labelled:
    golds = tuple(Gold(text, context.index(text)) for text in answers)
    return Labelled(name, "What?", context, golds, "a title", "ours")


def say(wordnet: WordNet, context: str, *answers: str, wording: Wording = EVERYTHING) -> str | None:
    made = Paraphraser(wordnet, wording).paraphrase(make_row(context, *answers), seed=1)
    return None if made is None else made.context


@pytest.mark.parametrize(
    ("context", "other"),
    [
        ("The mill baked.", "The grinder roasted."),
        ("Mills stood there.", "Grinders stood there."),
        ("They slept. Mills stood there.", "They slept. Grinders stood there."),
        ("Ladies tried crates.", "Ladies attempted boxes."),  # no rule knows "gentlewomen"
        ("It is carrying an engineer.", "It is transporting an engineer."),
        ("It is carrying a big engineer.", "It is transporting a large technologist."),
        ("A quick bridge", "A fast span"),
    ],
)
def test_words_give_way_to_synonyms_in_the_same_form(
    context: str, other: str, wordnet: WordNet
) -> None:
    assert say(wordnet, context) == other


@pytest.mark.parametrize(
    "context",
    [
        "The Mill Company and the Bridge",  # names
        "Mr. Stone spoke",  # a name after an abbreviation
        "the MILL and the mill's mill-wheel at mill.example mill@example.org",
        "she answers and said it",  # in doubt, or irregular
        "an apple",  # "a malus"
        "two heroes and oxen, cities",  # no plural of the synonym is sure
        "the house",  # no synonym
        "of which and by",
        "",
    ],
)
def test_what_is_in_doubt_stays(context: str, wordnet: WordNet) -> None:
    assert say(wordnet, context) is None


def test_synonyms_of_several_words_are_not_taken(wordnet: WordNet) -> None:
    assert say(wordnet, "the wheels") == "the rollers"


def test_answers_are_not_touched_and_move_with_the_words_before_them(wordnet: WordNet) -> None:
    context = "The large city built a bridge near the old mill, and the mill burned."
    row = make_row(context, "large city", "old mill", "mill burned")
    made = Paraphraser(wordnet, EVERYTHING).paraphrase(row, seed=1)
    assert made is not None
    assert made.context == "The large city built a span near the old mill, and the mill burned."
    assert [gold.start_char for gold in made.answers] == [4, 37, 55]
    assert (made.question, made.title, made.source) == (row.question, row.title, row.source)


def test_a_word_that_an_answer_begins_or_ends_in_is_not_split(wordnet: WordNet) -> None:
    context = "the mills and bridges"
    row = Labelled("row", "?", context, (Gold("ills and bri", 5),))
    assert Paraphraser(wordnet, EVERYTHING).paraphrase(row, seed=1) is None


def test_only_the_chosen_parts_of_speech_change(wordnet: WordNet) -> None:
    context = "The old mill quickly attempted it"
    nouns = Wording(1.0, frozenset({Part.NOUN}))
    others = Wording(1.0, frozenset({Part.VERB, Part.ADVERB}))
    assert say(wordnet, context, wording=nouns) == "The old grinder quickly attempted it"
    assert say(wordnet, context, wording=others) == "The old mill rapidly tried it"


def test_further_senses_give_further_synonyms(wordnet: WordNet) -> None:
    one, two = (Paraphraser(wordnet, Wording(senses=senses)) for senses in (1, 2))
    assert one.list_synonyms("stones") == ("rocks",)
    assert two.list_synonyms("stones") == ("rocks", "pits", "kernels")


def test_the_share_is_one_of_content_words(wordnet: WordNet) -> None:
    words = ["mill", "bridge", "company", "night", "Zanzibar"] * 4
    for share, changed in ((0.25, 5), (0.5, 10), (1.0, 16), (0.01, 0)):
        made = say(wordnet, "of ".join(f"{one} " for one in words), wording=Wording(share))
        after = words if made is None else made.replace("of ", "").split()
        assert sum(one != other for one, other in zip(after, words, strict=True)) == changed


@pytest.mark.parametrize(
    "wording", [Wording(0.0), Wording(1.5), Wording(parts=frozenset()), Wording(senses=0)]
)
def test_wordings_that_would_change_nothing_are_refused(wording: Wording, wordnet: WordNet) -> None:
    with pytest.raises(UsageError, match="a paraphrase needs a share above 0"):
        Paraphraser(wordnet, wording)


_WORDS = [
    *(word for sets in SETS.values() for one in sets for word in one.replace("(p)", "").split()),
    "mills", "Cities", "boxes", "baking", "tried", "Quickly", "the", "a", "an", "of", "1868", "é",
    "mill's", "x-mill", "Paris", "\u00a0", "𝄞",
]  # fmt: skip
_CONTEXTS = st.lists(
    st.tuples(st.sampled_from(_WORDS), st.sampled_from([" ", ". ", ", ", "\n", "", "-"])),
    min_size=1,
    max_size=25,
).map(lambda pairs: "".join(word + mark for word, mark in pairs))


@st.composite
def _rows(draw: st.DrawFn) -> Labelled:
    context = draw(_CONTEXTS)
    answers = []
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(context) - 1))
        end = draw(st.integers(start + 1, len(context)))
        answers.append(Gold(context[start:end], start))
    return Labelled(str(draw(st.integers(0, 99))), "?", context, tuple(answers))


@given(
    row=_rows(),
    share=st.sampled_from([0.1, 0.5, 1.0]),
    senses=st.integers(1, 2),
    seed=st.integers(0, 9),
)
def test_every_answer_lies_where_its_row_says(
    wordnet: WordNet, row: Labelled, share: float, senses: int, seed: int
) -> None:
    paraphraser = Paraphraser(wordnet, Wording(share, senses=senses))
    made = paraphraser.paraphrase(row, seed)
    assert made == Paraphraser(wordnet, Wording(share, senses=senses)).paraphrase(row, seed)
    if made is None:
        return
    assert made.context != row.context
    assert len(made.answers) == len(row.answers)
    for old, new in zip(row.answers, made.answers, strict=True):
        assert new.text == old.text
        assert made.context[new.start_char : new.start_char + len(new.text)] == new.text
    assert [one.isupper() for one in _initials(made)] == [one.isupper() for one in _initials(row)]


@given(st.lists(_rows(), max_size=6, unique_by=lambda row: row.id), st.integers(0, 8))
def test_rows_are_new_bounded_and_each_drawn_once(
    wordnet: WordNet, rows: list[Labelled], count: int
) -> None:
    paraphraser = Paraphraser(wordnet, EVERYTHING)
    made = paraphrase_rows(rows, count, paraphraser, seed=3)
    assert made == paraphrase_rows(rows, count, paraphraser, seed=3)
    possible = [row.id for row in rows if paraphraser.paraphrase(row, 3) is not None]
    assert len(made) == min(count, len(possible))
    assert len({row.id for row in made}) == len(made)
    assert {row.id.removesuffix("-paraphrase") for row in made} <= set(possible)


def test_what_becomes_of_a_row_does_not_depend_on_its_neighbours(wordnet: WordNet) -> None:
    paraphraser = Paraphraser(wordnet, Wording(0.5))
    rows = [
        make_row(f"The {word} and the mill by the bridge at night", name=word)
        for word in ("city", "stone", "year")
    ]
    alone = [paraphrase_rows([row], 1, paraphraser, seed=5)[0] for row in rows]
    together = paraphrase_rows(rows, 3, paraphraser, seed=5)
    assert sorted(together, key=lambda row: row.id) == sorted(alone, key=lambda row: row.id)
    assert {row.context for row in paraphrase_rows(rows, 3, paraphraser, seed=6)} != {
        row.context for row in together
    }


def _initials(row: Labelled) -> list[str]:
    return [word[0] for word in row.context.split()]
