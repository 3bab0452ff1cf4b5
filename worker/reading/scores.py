"""The official SQuAD scores: normalization, exact match, F1, and the sweep for the best threshold.

Source: the evaluation protocol of SQuAD 2.0 (Rajpurkar et al. 2018), which gives SQuAD 1.1's
numbers on sets without unanswerable questions. Texts in other languages than English are compared
by the normalization of MLQA (Lewis et al. 2020).
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

ENGLISH = "en"
#: Each language with its articles, as SQuAD's script (English) and MLQA's (the others) drop them.
LANGUAGES = {
    ENGLISH: re.compile(r"\b(a|an|the)\b"),
    "es": re.compile(r"\b(un|una|unos|unas|el|la|los|las)\b"),
    "de": re.compile(r"\b(ein|eine|einen|einem|eines|einer|der|die|das|den|dem|des)\b"),
    "vi": re.compile(r"\b(của|là|cái|chiếc|những)\b"),
    "ar": re.compile("ال"),
    "hi": None,
    "zh": None,
}
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
#: Chinese is compared sign by sign.
_CHINESE_SIGN = re.compile("([\u4e00-\u9fa5])")


@dataclass(frozen=True, slots=True)
class Scored:
    """One question with its gold answers, and what was predicted for it.

    ``golds`` is empty for an unanswerable question. ``prediction`` is what was answered, "" for an
    abstention; ``best`` is the best non-null text, whatever was answered, for the sweep.
    """

    golds: tuple[str, ...]
    prediction: str
    best: str
    null_odds: float


@dataclass(frozen=True, slots=True)
class Part:
    """Scores of a subset, from 0 to 100."""

    exact: float
    f1: float
    total: int


@dataclass(frozen=True, slots=True)
class Best:
    """The best scores that a threshold on null odds reaches on these rows, and that threshold."""

    exact: float
    exact_threshold: float
    f1: float
    f1_threshold: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Scores of a set, of its two halves, and at the best thresholds."""

    exact: float
    f1: float
    total: int
    has_answer: Part | None
    no_answer: Part | None
    best: Best


#: Scores a prediction against a gold answer, in a language.
Score = Callable[[str, str, str], float]


def normalize_answer(text: str, language: str = ENGLISH) -> str:
    """Lower-case, drop punctuation, then articles, then extra white space: in this order.

    Punctuation is ASCII's in English, as SQuAD has it, and all of Unicode's elsewhere.
    """
    plain = _drop_punctuation(text.lower(), language)
    articles = LANGUAGES[language]
    if articles is not None:
        plain = articles.sub(" ", plain)
    if language == "zh":
        plain = _CHINESE_SIGN.sub(r" \1 ", plain)
    return " ".join(plain.split())


def score_exact(gold: str, prediction: str, language: str = ENGLISH) -> float:
    """Return 1.0 when both normalize to the same text."""
    return float(normalize_answer(gold, language) == normalize_answer(prediction, language))


def score_f1(gold: str, prediction: str, language: str = ENGLISH) -> float:
    """Return the F1 of two bags of normalized tokens; where one is empty, whether both are."""
    gold_tokens = normalize_answer(gold, language).split()
    predicted_tokens = normalize_answer(prediction, language).split()
    if not gold_tokens or not predicted_tokens:
        return float(gold_tokens == predicted_tokens)
    common = sum((Counter(gold_tokens) & Counter(predicted_tokens)).values())
    if common == 0:
        return 0.0
    precision = common / len(predicted_tokens)
    recall = common / len(gold_tokens)
    return 2 * precision * recall / (precision + recall)


def keep_golds(golds: Iterable[str], language: str = ENGLISH) -> tuple[str, ...]:
    """Drop gold answers that normalize to nothing; without any left, the gold answer is ""."""
    kept = tuple(gold for gold in golds if normalize_answer(gold, language))
    return kept if kept else ("",)


def score_best(
    score: Score, golds: Sequence[str], prediction: str, language: str = ENGLISH
) -> float:
    """Return the best score of a prediction against any gold answer."""
    return max(score(gold, prediction, language) for gold in keep_golds(golds, language))


def evaluate(rows: Sequence[Scored], language: str = ENGLISH) -> Evaluation:
    """Score a set by the official rules.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("there are no rows to score")
    exact = [score_best(score_exact, row.golds, row.prediction, language) for row in rows]
    f1 = [score_best(score_f1, row.golds, row.prediction, language) for row in rows]
    answerable = [bool(row.golds) for row in rows]
    exact_best, exact_threshold = sweep(rows, score_exact, language)
    f1_best, f1_threshold = sweep(rows, score_f1, language)
    return Evaluation(
        exact=_percent(exact),
        f1=_percent(f1),
        total=len(rows),
        has_answer=_part(exact, f1, answerable),
        no_answer=_part(exact, f1, [not has for has in answerable]),
        best=Best(exact_best, exact_threshold, f1_best, f1_threshold),
    )


def sweep(rows: Sequence[Scored], score: Score, language: str = ENGLISH) -> tuple[float, float]:
    """Return the best score in percent and the threshold on null odds that reaches it.

    Starts from abstaining everywhere and lets answers in by rising null odds. Source: SQuAD 2.0,
    ``find_best_thresh``; it needs the best non-null text of every row.
    """
    current = float(sum(1 for row in rows if not row.golds))
    best, threshold = current, 0.0
    for row in sorted(rows, key=lambda row: row.null_odds):
        if row.golds:
            current += score_best(score, row.golds, row.best, language)
        elif row.best:
            current -= 1.0
        if current > best:
            best, threshold = current, row.null_odds
    return 100.0 * best / len(rows), threshold


def _drop_punctuation(text: str, language: str) -> str:
    if language != ENGLISH:
        text = "".join(sign for sign in text if not unicodedata.category(sign).startswith("P"))
    return text.translate(_NO_PUNCTUATION)


def _part(exact: list[float], f1: list[float], members: list[bool]) -> Part | None:
    chosen = [index for index, member in enumerate(members) if member]
    if not chosen:
        return None
    return Part(
        _percent([exact[index] for index in chosen]),
        _percent([f1[index] for index in chosen]),
        len(chosen),
    )


def _percent(values: Sequence[float]) -> float:
    return 100.0 * sum(values) / len(values)
