"""A reader without a model, by rules: what any trained reader must beat.

1. Words of the question that carry content are sought in each sentence of the passage. A word
   weighs more the fewer sentences have it (the idf of Spärck Jones 1972, over this passage alone).
   The sentence of the greatest weight is read, the first of equals.
2. The question word says what is looked for there: "who" a name, "where" a name, first after a
   preposition of place, "when" a date or a year, "how many" a number, "how much", "how long" and
   the like a number with its unit, "why" what follows "because" and the like. Everything else, and
   whatever the sentence does not hold, is the longest run of content words.
3. Words of the question are no answer to it. Of several finds the first counts; of several runs the
   longest.
4. Where the sentence holds less than half of the question's weight, the answer is that there is
   none: null odds are one half minus the share found, and the threshold is 0.

The rules are for English; nothing in them was tuned on any set.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from training.data import Labelled
from training.function_words import FUNCTION_WORDS
from worker.contracts.records import Answer, Span, Status

#: A passage whose best sentence holds less than this share of the question has no answer.
NEEDED_SHARE = 0.5
#: The longest run of content words that is an answer.
MAX_RUN_WORDS = 6

_SENTENCE = re.compile(r"\S.*?(?:(?<=[a-z\d)\]\"”]{2})[.!?][\"”)\]]*(?=\s)|$)", re.DOTALL)
_WORD = re.compile(r"\w+(?:[.,'’-]\w+)*")
_NAME = re.compile(r"\b[A-Z][\w'’-]*(?:\s+(?:(?:of|the|de|von|van|la)\s+)*[A-Z][\w'’-]*)*")
_PLACE = re.compile(rf"\b(?:in|at|near|from|to|on|of)\s+(?:the\s+)?(?P<found>{_NAME.pattern})")
_MONTHS = (
    "(?:January|February|March|April|May|June|July|August|September|October|November|December)"
)
_DATE = re.compile(
    rf"\b(?:\d{{1,2}}\s+{_MONTHS}(?:\s+\d{{4}})?|{_MONTHS}\s+\d{{1,2}}(?:,?\s+\d{{4}})?"
    rf"|{_MONTHS}(?:\s+\d{{4}})?|\d{{4}}s?|\d{{1,2}}(?:st|nd|rd|th)\s+century)\b"
)
_NUMBER = re.compile(
    r"[$€£]?\b\d+(?:[.,]\d+)*%?(?:\s+(?:hundred|thousand|million|billion))?"
    r"|\b(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|forty|fifty"
    r"|sixty|hundreds|thousands)\b",
    re.IGNORECASE,
)
_MEASURE = re.compile(rf"(?:{_NUMBER.pattern})(?:\s+(?:percent|[a-z]{{2,}}))?", re.IGNORECASE)
_REASON = re.compile(
    r"\b(?:because of|because|due to|so that|in order to|as a result of|owing to)\s+"
    r"(?P<found>[^.;,]+)",
    re.IGNORECASE,
)
_COUNTS = re.compile(r"\bhow many\b", re.IGNORECASE)
_MEASURES = re.compile(r"\bhow (?:much|long|old|far|tall|high|large|big|often|fast)\b", re.I)

_PATTERNS = (
    ({"who", "whom", "whose"}, (_NAME,)),
    ({"where"}, (_PLACE, _NAME)),
    ({"when", "year"}, (_DATE, _NUMBER)),
    ({"why"}, (_REASON,)),
)


@dataclass(frozen=True, slots=True)
class _Piece:
    """A stretch of the passage."""

    start: int
    end: int


def answer(number: int, row: Labelled) -> Answer:
    """Return what the rules read; the best span is there whenever the passage has a word."""
    sentences = [_Piece(*one.span()) for one in _SENTENCE.finditer(row.context)]
    asked = _content(row.question)
    if not sentences:
        return Answer(number, row.id, Status.UNANSWERABLE)
    sentence, share = _choose_sentence(row.context, sentences, asked)
    found = _find(row.question, row.context, sentence, asked)
    text = row.context[found.start : found.end]
    span = Span(text, found.start, found.end, share)
    return Answer(number, row.id, Status.ANSWERED, best=span, null_odds=NEEDED_SHARE - share)


def read_all(rows: Sequence[Labelled]) -> tuple[Answer, ...]:
    """Answer every row."""
    return tuple(answer(number, row) for number, row in enumerate(rows))


def _choose_sentence(
    context: str, sentences: Sequence[_Piece], asked: Iterable[str]
) -> tuple[_Piece, float]:
    """Return the sentence with most of the question's weight, and its share of that weight."""
    words = [_stems(context[one.start : one.end]) for one in sentences]
    having = Counter(word for sentence in words for word in sentence)
    weights = {
        word: math.log(1.0 + len(sentences) / max(1, having[word])) for word in map(_stem, asked)
    }
    total = sum(weights.values())
    held = [sum(weights[word] for word in weights if word in sentence) for sentence in words]
    best = max(range(len(sentences)), key=lambda number: held[number])
    return sentences[best], held[best] / total if total else 0.0


def _find(question: str, context: str, sentence: _Piece, asked: frozenset[str]) -> _Piece:
    for pattern in _list_patterns(question):
        found = next(_match(pattern, context, sentence, asked), None)
        if found is not None:
            return found
    runs = _runs(context, sentence, asked)
    return max(runs, key=lambda piece: piece.end - piece.start, default=sentence)


def _list_patterns(question: str) -> tuple[re.Pattern[str], ...]:
    """Return what to look for, the most fitting first."""
    words = {*_WORD.findall(question.lower())}
    if _COUNTS.search(question):
        return (_NUMBER,)
    if _MEASURES.search(question):
        return _MEASURE, _NUMBER
    for asking, patterns in _PATTERNS:
        if words & asking:
            return patterns
    return ()


def _match(
    pattern: re.Pattern[str], context: str, sentence: _Piece, asked: frozenset[str]
) -> Iterator[_Piece]:
    """Yield what a pattern finds in a sentence that is no word of the question and no filler."""
    group = "found" if "found" in pattern.groupindex else 0
    for one in pattern.finditer(context, sentence.start, sentence.end):
        start, end = one.span(group)
        text = context[start:end].rstrip()
        filler = pattern is not _NUMBER and text.lower().split()[-1] in FUNCTION_WORDS
        if not filler and not _content(text) & asked:
            yield _Piece(start, start + len(text))


def _runs(context: str, sentence: _Piece, asked: frozenset[str]) -> Iterator[_Piece]:
    """Yield runs of content words that only blanks divide: like noun phrases, on the whole."""
    run: list[_Piece] = []
    for one in _WORD.finditer(context, sentence.start, sentence.end):
        content = one[0].lower() not in FUNCTION_WORDS | asked
        joined = not run or context[run[-1].end : one.start()].isspace()
        if run and (not content or not joined or len(run) == MAX_RUN_WORDS):
            yield _Piece(run[0].start, run[-1].end)
            run = []
        if content:
            run.append(_Piece(*one.span()))
    if run:
        yield _Piece(run[0].start, run[-1].end)


def _content(text: str) -> frozenset[str]:
    words = (word.lower() for word in _WORD.findall(text))
    return frozenset(word for word in words if word not in FUNCTION_WORDS)


def _stems(text: str) -> frozenset[str]:
    return frozenset(_stem(word.lower()) for word in _WORD.findall(text))


def _stem(word: str) -> str:
    """Cut the commonest endings, so that "opened" is found in "opens"."""
    for ending in ("ing", "ed", "es", "s", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word.removesuffix(ending)
    return word
