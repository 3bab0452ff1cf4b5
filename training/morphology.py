"""English inflection by WordNet's rules: from a form to its lemma, and to the same form of another.

Only what the rules do both ways is done: a form that WordNet lists as an exception is left alone.
"""

import re
from dataclasses import dataclass

from training.wordnet import Entry, Part, WordNet

#: What a form may end in, and what takes its place. Source: morphy(7) of WordNet 3.0.
_RULES = {
    Part.NOUN: (
        ("s", ""), ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"),
        ("men", "man"), ("ies", "y"),
    ),
    Part.VERB: (
        ("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"),
        ("ing", ""),
    ),
    Part.ADJECTIVE: (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
    Part.ADVERB: (),
}  # fmt: skip
_SIBILANT = re.compile(r"(?:s|x|z|ch|sh)$")
_CONSONANT_Y = re.compile(r"(?<![aeiou])y$")
#: No spelling rule tells how these go on.
_UNSURE = {
    "s": re.compile(r"(?:o|f|fe|man|s)$"),
    "ed": re.compile(r"(?:c|[^aeiou]o)$"),
    "ing": re.compile(r"(?:c|ie|[eoy]e)$"),
}
#: Verbs whose past is their base form: such a form may be either.
_SAME_IN_PAST = (
    "beat", "bet", "bid", "burst", "cast", "cost", "cut", "hit", "hurt", "put", "quit", "read",
    "rid", "set", "shed", "shut", "split", "spread",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Form:
    """What a word is: a lemma, and the ending that it has here: "", "s", "ed" or "ing"."""

    entry: Entry
    ending: str


def analyse(word: str, wordnet: WordNet) -> Form | None:
    """Return what a word in lower case is, where that is beyond doubt without its sentence.

    Of several readings the only one that occurs in WordNet's annotated texts counts.
    """
    readings = [entry for part in Part for entry in list_lemmas(word, part, wordnet)]
    tagged = [entry for entry in readings if entry.tagged]
    likely = tagged if tagged else readings
    if len(likely) != 1:
        return None
    (entry,) = likely
    if entry.part is Part.VERB and word in _SAME_IN_PAST:
        return None
    for ending in ("", "s", "ed", "ing"):
        if inflect(entry.lemma, entry.part, ending, wordnet) == word:
            return Form(entry, ending)
    return None


def list_lemmas(word: str, part: Part, wordnet: WordNet) -> list[Entry]:
    """Return the lemmas that a word can be a form of: as an exception, as it is, by a rule."""
    irregular = wordnet.find_irregular(word, part)
    shorter = [
        word.removesuffix(ending) + lemma_ending
        for ending, lemma_ending in _RULES[part]
        if word.endswith(ending) and len(word) > len(ending)
    ]
    forms = dict.fromkeys([*irregular, word, *([] if irregular else shorter)])
    entries = (wordnet.find(form, part) for form in forms)
    return [entry for entry in entries if entry is not None]


def inflect(lemma: str, part: Part, ending: str, wordnet: WordNet) -> str | None:
    """Return a lemma's form with an ending, None where the rules may not know it."""
    if not ending:
        return lemma
    if ending not in _ENDINGS.get(part, ()) or _UNSURE[ending].search(lemma):
        return None
    form = _spell(lemma, ending)
    listed = wordnet.list_irregular(lemma, part)
    if form in listed or not any(_guess_ending(one, part) == ending for one in listed):
        return form
    return None


def _spell(lemma: str, ending: str) -> str:
    if ending == "s":
        if _CONSONANT_Y.search(lemma):
            return f"{lemma[:-1]}ies"
        return f"{lemma}es" if _SIBILANT.search(lemma) else f"{lemma}s"
    if ending == "ed" and _CONSONANT_Y.search(lemma):
        return f"{lemma[:-1]}ied"
    return f"{lemma.removesuffix('e')}{ending}"


def _guess_ending(form: str, part: Part) -> str:
    """Return the ending that an exception stands for: it may have none of its own."""
    if part is Part.NOUN:
        return "s"
    return next((ending for ending in ("ing", "s") if form.endswith(ending)), "ed")


_ENDINGS = {Part.NOUN: ("s",), Part.VERB: ("s", "ed", "ing")}
