"""A slow second opinion on reading and scoring, written from the protocol in plain loops.

Sources: SQuAD 2.0's evaluation protocol (Rajpurkar et al. 2018) and the decoding of BERT for SQuAD
(Devlin et al. 2019, §4.2-4.3). It imports nothing of the project, so that no error is shared.
"""

import string
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

TOP_POSITIONS = 20

Score = Callable[[str, str], float]


@dataclass(frozen=True)
class Slice:
    """The tokens ``first .. last - 1`` of a passage, that one window holds."""

    first: int
    last: int


@dataclass(frozen=True)
class WindowScores:
    """A window's logits, position by position, and where its slice of the passage lies.

    The passage's token ``slice.first`` is at the window's position ``offset``.
    """

    slice: Slice
    offset: int
    start_logits: Sequence[float]
    end_logits: Sequence[float]


@dataclass(frozen=True)
class Candidate:
    """A span of passage tokens, both ends included."""

    first_token: int
    last_token: int
    score: float


@dataclass(frozen=True)
class Found:
    """A text of the context, and where it lies."""

    text: str
    start: int
    end: int
    score: float


def cut_windows(
    tokens: int, question_tokens: int, specials: int, sizes: tuple[int, int]
) -> list[Slice]:
    """Slide a window over a passage; ``sizes`` are the maximum and the overlap, in tokens."""
    maximum, overlap = sizes
    room = maximum - question_tokens - specials
    slices = []
    first = 0
    while True:
        length = min(room, tokens - first)
        slices.append(Slice(first, first + length))
        if first + length == tokens:
            return slices
        first = first + room - overlap


def token_is_max_context(slices: Sequence[Slice], number: int, token: int) -> bool:
    """Whether the window ``number`` is the one that shows the most context around the token."""
    best_score = None
    best_window = None
    for index, one in enumerate(slices):
        if not one.first <= token < one.last:
            continue
        left = token - one.first
        right = one.last - 1 - token
        score = min(left, right) + 0.01 * (one.last - one.first)
        if best_score is None or score > best_score:
            best_score = score
            best_window = index
    return best_window == number


def rank_positions(logits: Sequence[float]) -> list[int]:
    """Return all positions, the highest logit first, and the earlier one where two are equal."""
    return sorted(range(len(logits)), key=lambda position: (-logits[position], position))


def null_score(windows: Sequence[WindowScores]) -> float:
    """Return the least of the windows' scores for "no answer here"."""
    lowest = None
    for window in windows:
        score = window.start_logits[0] + window.end_logits[0]
        if lowest is None or score < lowest:
            lowest = score
    assert lowest is not None
    return lowest


def list_candidates(windows: Sequence[WindowScores], max_answer_tokens: int) -> list[Candidate]:
    """List the protocol's candidates, best first; of equals the one that was found first."""
    found = []
    for number, window in enumerate(windows):
        starts = rank_positions(window.start_logits)[:TOP_POSITIONS]
        ends = rank_positions(window.end_logits)[:TOP_POSITIONS]
        found += _pair(windows, number, starts, ends, max_answer_tokens)
    return sorted(found, key=lambda candidate: -candidate.score)


def list_all_spans(
    windows: Sequence[WindowScores], max_answer_tokens: int, blank: Sequence[bool]
) -> list[Candidate]:
    """List every span that does not begin with a blank token, ordered like the candidates.

    The protocol answers nothing where it has no candidate; spanmill promises every passage with a
    word a best span, and takes it from here.
    """
    found = []
    for number, window in enumerate(windows):
        starts = rank_positions(window.start_logits)
        ends = rank_positions(window.end_logits)
        found += _pair(windows, number, starts, ends, max_answer_tokens)
    kept = [candidate for candidate in found if not blank[candidate.first_token]]
    return sorted(kept, key=lambda candidate: -candidate.score)


def _pair(
    windows: Sequence[WindowScores],
    number: int,
    starts: Sequence[int],
    ends: Sequence[int],
    max_answer_tokens: int,
) -> list[Candidate]:
    slices = [window.slice for window in windows]
    mine = windows[number]
    inside = range(mine.slice.first, mine.slice.last)
    found = []
    for start in starts:
        first = start - mine.offset + mine.slice.first
        if first not in inside or not token_is_max_context(slices, number, first):
            continue
        for end in ends:
            last = end - mine.offset + mine.slice.first
            if last not in inside or last < first or last - first + 1 > max_answer_tokens:
                continue
            score = mine.start_logits[start] + mine.end_logits[end]
            found.append(Candidate(first, last, score))
    return found


def read_text(context: str, start: int, end: int) -> tuple[int, int]:
    """Leave out white space at both ends, and take in the marks that sit on the last character."""
    inside = [place for place in range(start, end) if not context[place].isspace()]
    if not inside:
        return start, start
    first, last = inside[0], inside[-1]
    while last + 1 < len(context) and unicodedata.category(context[last + 1]) in ("Mn", "Mc", "Me"):
        last += 1
    return first, last + 1


def list_answers(
    context: str, offsets: Sequence[tuple[int, int]], candidates: Sequence[Candidate]
) -> list[Found]:
    """Give candidates their texts; a text keeps its highest score, and the first place with it."""
    best: dict[str, Found] = {}
    for candidate in candidates:
        start, end = read_text(
            context, offsets[candidate.first_token][0], offsets[candidate.last_token][1]
        )
        text = context[start:end]
        if text and (text not in best or candidate.score > best[text].score):
            best[text] = Found(text, start, end, candidate.score)
    return list(best.values())


def predict(null: float, best: Found, threshold: float) -> str:
    """Return "" where the null score is above the best span's by more than the threshold."""
    return "" if null - best.score > threshold else best.text


def normalize_answer(text: str) -> str:
    """Lower the case, then drop punctuation, then articles, then superfluous white space."""
    lowered = text.lower()
    plain = ""
    for character in lowered:
        if character not in string.punctuation:
            plain += character
    return " ".join(_drop_articles(plain).split())


def _drop_articles(text: str) -> str:
    """Put a blank for every word that is an article; a word is a run of letters, digits and _."""
    pieces = []
    word = ""
    for character in text + " ":
        if character.isalnum() or character == "_":
            word += character
            continue
        pieces += [" " if word in ("a", "an", "the") else word, character]
        word = ""
    return "".join(pieces)


def exact(gold: str, prediction: str) -> float:
    """Return 1 for equal texts after normalization, else 0."""
    return 1.0 if normalize_answer(gold) == normalize_answer(prediction) else 0.0


def f1(gold: str, prediction: str) -> float:
    """Return the harmonic mean of precision and recall over the bags of words."""
    gold_words = normalize_answer(gold).split()
    words = normalize_answer(prediction).split()
    if not gold_words or not words:
        return 1.0 if gold_words == words else 0.0
    left = list(gold_words)
    same = 0
    for word in words:
        if word in left:
            left.remove(word)
            same += 1
    if same == 0:
        return 0.0
    precision = 1.0 * same / len(words)
    recall = 1.0 * same / len(gold_words)
    return (2 * precision * recall) / (precision + recall)


def raw_score(score: Score, golds: Sequence[str], prediction: str) -> float:
    """Return the highest score against any gold that normalizes to something."""
    kept = [gold for gold in golds if normalize_answer(gold) != ""]
    if kept == []:
        kept = [""]
    return max(score(gold, prediction) for gold in kept)


def mean_at(
    score: Score, rows: Sequence[tuple[Sequence[str], str, float]], threshold: float
) -> float:
    """Return the mean score in percent; rows are (golds, best text, null odds).

    Above the threshold a row is an abstention: right where there are no golds, wrong elsewhere.
    """
    total = 0.0
    for golds, text, odds in rows:
        if odds > threshold:
            total += 0.0 if golds else 1.0
        else:
            total += raw_score(score, golds, text)
    return 100.0 * total / len(rows)


def find_best_thresh(
    score: Score, rows: Sequence[tuple[Sequence[str], str, float]]
) -> tuple[float, float]:
    """Return the best score in percent and its threshold; rows are (golds, best text, null odds).

    Abstain everywhere at first, then let the rows in, the lowest null odds first.
    """
    current = 0.0
    for golds, _, _ in rows:
        if not golds:
            current += 1
    best, threshold = current, 0.0
    for golds, text, odds in sorted(rows, key=lambda row: row[2]):
        if golds:
            current += raw_score(score, golds, text)
        elif text:
            current -= 1
        if current > best:
            best, threshold = current, odds
    return 100.0 * best / len(rows), threshold
