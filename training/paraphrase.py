"""Passages in other words: some content words give way to synonyms from WordNet.

No gold answer is touched, and each still lies where its row says. Paraphrase after splitting, and
what is trained on alone: a paraphrased passage no longer counts as the one that it came from.
"""

import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from training.data import Gold, Labelled
from training.function_words import FUNCTION_WORDS
from training.morphology import analyse, inflect
from training.wordnet import Part, WordNet
from worker.contracts.errors import UsageError

#: Not a part of a name with a hyphen, a contraction, an address.
_WORD = re.compile(r"(?<![\w'’&.@/-])[A-Za-z]+(?![\w'’@/-]|\.\w)")
_SYNONYM = re.compile(r"[a-z]{3,}(?:-[a-z]+)*")
#: What stands before the first word of a sentence; not after "Mr." and the like.
_SENTENCE_END = re.compile(r"(?:[a-z]{3}|[\d)\]\"”])[.!?][\"”’)\]]*\s+[\"“‘(\[]*$")
_LOOK_BACK_CHARS = 12
_ARTICLE = re.compile(r"\b(an?)\s$", re.IGNORECASE)
#: What surely sounds as an article wants it: not "hour", "one" or "unit".
_AFTER = {
    "a": re.compile(r"[bcdfgjklmnpqrstvwyz]"),
    "an": re.compile(r"[ai]|e(?![uw])|o(?!n[ce])"),
}


@dataclass(frozen=True, slots=True)
class Wording:
    """How much is said otherwise.

    ``share`` is that of the content words, from 0 to 1; fewer are replaced where fewer can be.
    ``senses`` is how many senses of a word, the most frequent first, give synonyms.
    """

    share: float = 0.3
    parts: frozenset[Part] = frozenset(Part)
    senses: int = 1


@dataclass(frozen=True, slots=True)
class _Edit:
    """A stretch of the passage and what takes its place."""

    start: int
    end: int
    text: str


class Paraphraser:
    """Replaces words by synonyms in the same form; a word is looked up once."""

    def __init__(self, wordnet: WordNet, wording: Wording) -> None:
        """Take the source of synonyms and how to use it.

        Raises:
            UsageError: so nothing would be replaced.
        """
        if not 0.0 < wording.share <= 1.0 or not wording.parts or wording.senses < 1:
            raise UsageError(
                "a paraphrase needs a share above 0 and up to 1, a part of speech, and a sense:"
                f" these are {wording.share}, {len(wording.parts)} and {wording.senses}"
            )
        self._wordnet = wordnet
        self._wording = wording
        self._synonyms: dict[str, tuple[str, ...]] = {}

    def paraphrase(self, row: Labelled, seed: int) -> Labelled | None:
        """Return the row with its passage in other words, None where no word can be replaced.

        The words follow from the seed, the row's id and its passage.
        """
        generator = np.random.default_rng([seed, zlib.crc32(row.id.encode())])
        words = [
            word
            for word in _WORD.finditer(row.context)
            if word[0].lower() not in FUNCTION_WORDS and not word[0].isupper()
        ]
        offers = [(word, self._offer(word, row)) for word in words]
        possible = [(word, texts) for word, texts in offers if texts]
        wanted = round(self._wording.share * len(words))
        chosen = generator.permutation(len(possible))[:wanted]
        if not len(chosen):
            return None
        edits = []
        for number in sorted(chosen):
            word, texts = possible[number]
            edits.append(_replace(word, texts[int(generator.integers(len(texts)))]))
        return _apply(row, edits)

    def list_synonyms(self, word: str) -> tuple[str, ...]:
        """Return the synonyms of a word in lower case, in its own form."""
        if word not in self._synonyms:
            self._synonyms[word] = tuple(dict.fromkeys(self._look_up(word)))
        return self._synonyms[word]

    def _look_up(self, word: str) -> Iterator[str]:
        form = analyse(word, self._wordnet)
        if form is None or form.entry.part not in self._wording.parts:
            return
        for lemma in self._wordnet.list_synonyms(form.entry, self._wording.senses):
            text = inflect(lemma, form.entry.part, form.ending, self._wordnet)
            if text is not None and text != word and _SYNONYM.fullmatch(text):
                yield text

    def _offer(self, word: re.Match[str], row: Labelled) -> list[str]:
        """Return what can take a word's place without touching an answer or the grammar."""
        if any(_touch(word, answer) for answer in row.answers):
            return []
        before = row.context[max(0, word.start() - _LOOK_BACK_CHARS) : word.start()]
        if not word[0].islower():
            begins = word.start() == 0 or _SENTENCE_END.search(before) is not None
            if not begins or not word[0][1:].islower():
                return []
        texts = self.list_synonyms(word[0].lower())
        article = _ARTICLE.search(before)
        if article is None:
            return list(texts)
        return [text for text in texts if _AFTER[article[1].lower()].match(text)]


def paraphrase_rows(
    rows: Sequence[Labelled], count: int, paraphraser: Paraphraser, seed: int
) -> list[Labelled]:
    """Return at most ``count`` paraphrased rows with ids of their own, each row drawn once."""
    made: list[Labelled] = []
    for at in np.random.default_rng(seed).permutation(len(rows)):
        if len(made) == count:
            break
        row = paraphraser.paraphrase(rows[at], seed)
        if row is not None:
            made.append(replace(row, id=f"{row.id}-paraphrase"))
    return made


def _touch(word: re.Match[str], answer: Gold) -> bool:
    return word.start() < answer.start_char + len(answer.text) and word.end() > answer.start_char


def _replace(word: re.Match[str], text: str) -> _Edit:
    if not word[0].islower():
        text = text[0].upper() + text[1:]
    return _Edit(word.start(), word.end(), text)


def _apply(row: Labelled, edits: Sequence[_Edit]) -> Labelled:
    """Make edits, which come in their order and touch no answer."""
    pieces, at = [], 0
    for edit in edits:
        pieces += [row.context[at : edit.start], edit.text]
        at = edit.end
    context = "".join([*pieces, row.context[at:]])
    answers = tuple(Gold(gold.text, _move(gold.start_char, edits)) for gold in row.answers)
    return replace(row, context=context, answers=answers)


def _move(place: int, edits: Sequence[_Edit]) -> int:
    return place + sum(
        len(edit.text) - (edit.end - edit.start) for edit in edits if edit.end <= place
    )
