"""More unanswerable questions: put to a similar passage, or with one thing in them swapped.

Every way takes answerable rows and gives new rows without an answer; none is drawn twice, and all
follow from the rows and a seed.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer

from training.data import Labelled, question_word
from worker.reading.scores import normalize_answer

#: Questions compared with all passages of their group at once.
CHUNK_ROWS = 512
_NAME = re.compile(r"(?<![.!?]\s)\b[A-Z][\w'’-]*(?:\s+[A-Z][\w'’-]*)*")
_NUMBER = re.compile(r"\b\d+(?:[.,]\d+)*\b")
_NEGATION = re.compile(r"\b(?:not|never)\s+|n't\b", re.IGNORECASE)
#: Without their "n't" these are no words: "ca", "wo", "sha".
_INSEPARABLE = re.compile(r"\b(?:can|won|shan)'t\b", re.IGNORECASE)
_AUXILIARY = re.compile(
    r"\b(?:is|are|was|were|do|does|did|has|have|had|can|could|will|would|should|may|might|must)\b",
    re.IGNORECASE,
)
_Swap = Callable[[Labelled, np.random.Generator], str | None]
_Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Group:
    """The passages of a title or source. Shape: ``known`` is ``(passages, words)``, sparse."""

    passages: list[str]
    vectorizer: TfidfVectorizer
    known: Any


def ask_nearest_passages(rows: Sequence[Labelled], count: int, seed: int) -> list[Labelled]:
    """Put questions to the most similar other passage that holds none of their answers.

    Similar means TF-IDF cosine with the question and its own passage, half each; the passage is
    sought in the same title first, then in the same source. Returns ``count`` rows, fewer where no
    more questions have such a passage.
    """
    ways = [
        (group_of, cache(partial(_fit, _group_passages(rows, group_of))))
        for group_of in (_by_title, _by_source)
    ]
    drawn = iter(_draw_answerable(rows, seed))
    found: list[Labelled] = []
    while missing := list(islice(drawn, count - len(found))):
        for group_of, fit in ways:
            asked = _group_rows(missing, group_of)
            placed = [_place(asked[key], fit(key)) for key in asked]
            found += [row for rows_placed, _ in placed for row in rows_placed]
            missing = [row for _, rows_left in placed for row in rows_left]
    return sorted(found, key=lambda row: row.id)


def swap_entities(rows: Sequence[Labelled], count: int, seed: int) -> list[Labelled]:
    """Ask about another name from the same passage instead, neither in the question nor answer."""
    return _swap_rows(rows, count, seed, "entity", _swap_name)


def swap_numbers(rows: Sequence[Labelled], count: int, seed: int) -> list[Labelled]:
    """Ask about another number: one from the same passage, else one a little off."""
    return _swap_rows(rows, count, seed, "number", _swap_number)


def swap_negations(rows: Sequence[Labelled], count: int, seed: int) -> list[Labelled]:
    """Negate a question after its first auxiliary, or lift the negation that it has.

    Those with "can't", "won't" or "shan't" are left out.
    """
    return _swap_rows(rows, count, seed, "negation", _swap_negation)


def lacks_answers(context: str, row: Labelled) -> bool:
    """Say whether a passage holds none of a row's answers.

    They are compared as the official scores do, and as words as they stand: without punctuation
    "Germany's" would not hold "Germany".
    """
    folded = context.casefold()
    if any(_holds(folded, answer.text.casefold()) for answer in row.answers):
        return False
    normal = f" {normalize_answer(context)} "
    answers = {normalize_answer(answer.text) for answer in row.answers}
    return bool(answers) and not any(not text or f" {text} " in normal for text in answers)


def _holds(text: str, words: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text) is not None


def _draw_answerable(rows: Sequence[Labelled], seed: int) -> list[Labelled]:
    answerable = [row for row in rows if row.answers]
    order = np.random.default_rng(seed).permutation(len(answerable))
    return [answerable[at] for at in order]


def _by_title(row: Labelled) -> _Key:
    return row.source, row.title


def _by_source(row: Labelled) -> _Key:
    return (row.source,)


def _group_rows(
    rows: Sequence[Labelled], group_of: Callable[[Labelled], _Key]
) -> dict[_Key, list[Labelled]]:
    groups: dict[_Key, list[Labelled]] = defaultdict(list)
    for row in rows:
        groups[group_of(row)].append(row)
    return groups


def _group_passages(
    rows: Sequence[Labelled], group_of: Callable[[Labelled], _Key]
) -> dict[_Key, list[str]]:
    groups = _group_rows(rows, group_of)
    return {key: list(dict.fromkeys(row.context for row in group)) for key, group in groups.items()}


def _fit(passages: dict[_Key, list[str]], key: _Key) -> _Group | None:
    """Return a group of passages to compare with, None where there is but one."""
    if len(passages[key]) < 2:
        return None
    vectorizer = TfidfVectorizer(sublinear_tf=True, dtype=np.float32)
    return _Group(passages[key], vectorizer, vectorizer.fit_transform(passages[key]))


def _place(rows: list[Labelled], group: _Group | None) -> tuple[list[Labelled], list[Labelled]]:
    """Return the rows put to another passage of the group, and those for which it has none."""
    if group is None:
        return [], rows
    placed, left = [], []
    for first in range(0, len(rows), CHUNK_ROWS):
        chunk = rows[first : first + CHUNK_ROWS]
        likeness = _compare(group, chunk)
        for row, scores in zip(chunk, likeness, strict=True):
            passage = _pick(row, group.passages, np.argsort(-scores, kind="stable"))
            if passage is None:
                left.append(row)
            else:
                placed.append(_unanswerable(row, "nearest", context=passage))
    return placed, left


def _compare(group: _Group, rows: Sequence[Labelled]) -> NDArray[np.float32]:
    """Return how alike each row is to each passage; shape ``(rows, passages)``."""
    questions = group.vectorizer.transform([row.question for row in rows])
    contexts = group.vectorizer.transform([row.context for row in rows])
    return np.asarray(((questions + contexts) @ group.known.T).toarray())


def _pick(row: Labelled, passages: Sequence[str], order: NDArray[np.intp]) -> str | None:
    others = (passages[at] for at in order)
    return next((text for text in others if text != row.context and lacks_answers(text, row)), None)


def _swap_rows(
    rows: Sequence[Labelled], count: int, seed: int, name: str, swap: _Swap
) -> list[Labelled]:
    generator = np.random.default_rng(seed)
    swapped: list[Labelled] = []
    for row in _draw_answerable(rows, seed):
        if len(swapped) == count:
            break
        question = swap(row, generator)
        if question is not None:
            swapped.append(_unanswerable(row, name, question=question))
    return swapped


def _swap_name(row: Labelled, generator: np.random.Generator) -> str | None:
    asked = [
        match
        for match in _NAME.finditer(row.question)
        if match.start() > 0 and question_word(match[0]) == "other"
    ]
    if not asked:
        return None
    old = asked[int(generator.integers(len(asked)))]
    found = (match[0] for match in _NAME.finditer(row.context, 1))
    offered = [name for name in _find_other(row, found) if _is_as_long(name, old[0])]
    return _replace(row.question, old, offered, generator)


def _is_as_long(name: str, old: str) -> bool:
    return len(name.split()) == len(old.split()) and len(name) > 2


def _swap_number(row: Labelled, generator: np.random.Generator) -> str | None:
    asked = list(_NUMBER.finditer(row.question))
    if not asked:
        return None
    old = asked[int(generator.integers(len(asked)))]
    found = _find_other(row, (match[0] for match in _NUMBER.finditer(row.context)))
    offered = [number for number in found if _shape(number) == _shape(old[0])]
    if not offered and old[0].isascii() and old[0].isdigit():
        offered = _find_other(row, [str(int(old[0]) + 1)])
    return _replace(row.question, old, offered, generator)


def _swap_negation(row: Labelled, _generator: np.random.Generator) -> str | None:
    if _INSEPARABLE.search(row.question):
        return None
    if _NEGATION.search(row.question):
        return _NEGATION.sub("", row.question, count=1)
    auxiliary = _AUXILIARY.search(row.question)
    if auxiliary is None:
        return None
    return f"{row.question[: auxiliary.end()]} not{row.question[auxiliary.end() :]}"


def _find_other(row: Labelled, found: Iterable[str]) -> list[str]:
    """Return what of the found shares no word with the question and the answers, each once."""
    taken = _words(" ".join([row.question, *(answer.text for answer in row.answers)]))
    return [text for text in dict.fromkeys(found) if not _words(text) & taken]


def _shape(number: str) -> str:
    return re.sub(r"\d", "0", number)


def _words(text: str) -> set[str]:
    """Return a text's words without case and accents."""
    decomposed = unicodedata.normalize("NFKD", text.lower())
    plain = "".join(sign for sign in decomposed if not unicodedata.combining(sign))
    return set(re.findall(r"\w+", plain))


def _replace(
    question: str, old: re.Match[str], offered: Sequence[str], generator: np.random.Generator
) -> str | None:
    if not offered:
        return None
    new = offered[int(generator.integers(len(offered)))]
    return question[: old.start()] + new + question[old.end() :]


def _unanswerable(
    row: Labelled, how: str, *, question: str | None = None, context: str | None = None
) -> Labelled:
    changed = replace(row, id=f"{row.id}-{how}", answers=())
    if question is not None:
        return replace(changed, question=question)
    return changed if context is None else replace(changed, context=context)
