"""Question-answering data: rows checked on load, measured, and split by passage."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.formats import Line, read_lines
from worker.contracts.errors import InputError
from worker.reading.scores import normalize_answer
from worker.reading.windows import Encoder

#: The question words that a summary counts; every other question counts as "other".
QUESTION_WORDS = ("what", "who", "when", "where", "which", "why", "how")

#: Passages that share more than this of their runs of so many words are near copies.
RUN_WORDS = 8
NEAR_COPY_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Gold:
    """A gold answer: ``context[start_char : start_char + len(text)] == text``, in code points."""

    text: str
    start_char: int


@dataclass(frozen=True, slots=True)
class Labelled:
    """A question over a passage with its gold answers; none means that it is unanswerable."""

    id: str
    question: str
    context: str
    answers: tuple[Gold, ...]
    title: str = ""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Loaded:
    """The rows that can be trained on, and how many could not."""

    rows: tuple[Labelled, ...]
    dropped: int


@dataclass(frozen=True, slots=True)
class Split:
    """Two sets of rows that share no passage."""

    train: tuple[Labelled, ...]
    held_out: tuple[Labelled, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    """What a set holds. Token and character counts are means over rows; windows are summed."""

    rows: int
    dropped: int
    unanswerable: int
    passages: int
    windows: int
    question_tokens: float
    context_tokens: float
    answer_chars: float
    question_words: dict[str, int]
    sources: dict[str, int]

    @property
    def unanswerable_share(self) -> float:
        """Return the unanswerable part of the rows, from 0 to 1."""
        return self.unanswerable / self.rows if self.rows else 0.0


def load(path: Path) -> Loaded:
    """Read a file; rows whose spans do not match their context are dropped and counted.

    So are rows whose question, context or answers are null or blank, and those whose answers
    contradict their ``is_impossible``.

    Raises:
        InputError: the file is missing, of another kind, or does not hold such rows.
    """
    source = path.name.partition(".")[0]
    checked = [_check(line, number, source) for number, line in enumerate(read_lines(path))]
    rows = tuple(row for row in checked if row is not None)
    return Loaded(rows, len(checked) - len(rows))


def load_all(paths: Iterable[Path]) -> Loaded:
    """Read several files as one set to train on.

    Raises:
        InputError: a file cannot be read, or no row of the set has an answer to learn.
    """
    loaded = [load(path) for path in paths]
    rows = tuple(row for one in loaded for row in one.rows)
    dropped = sum(one.dropped for one in loaded)
    refuse_unlearnable(rows, dropped)
    return Loaded(rows, dropped)


def load_some(path: Path) -> tuple[Labelled, ...]:
    """Read a file to be scored on.

    Raises:
        InputError: it cannot be read, or holds no usable row.
    """
    rows = load(path).rows
    if not rows:
        raise InputError(f"{path} holds no row that can be scored: give another file")
    return rows


def refuse_unlearnable(rows: Sequence[Labelled], dropped: int = 0) -> None:
    """Refuse a set from which no span can be learned.

    Raises:
        InputError: the set is empty, or all of it is unanswerable.
    """
    if not rows:
        raise InputError(
            f"the training data holds no usable row ({dropped} were dropped, because they lack a"
            " text or their answers do not match their context): give a file with answers"
        )
    if not any(row.answers for row in rows):
        raise InputError(
            f"all {len(rows)} rows of the training data are unanswerable, so no span can be"
            " learned: add a file with answers"
        )


def refuse_shared_passages(train: Iterable[Labelled], held_out: Sequence[Labelled]) -> None:
    """Refuse held-out rows from which nothing could be judged.

    Raises:
        InputError: there are none, or one of their passages is trained on.
    """
    if not held_out:
        raise InputError("there are no held-out rows to judge by: hold out a share of the passages")
    held = {passage_key(context) for context in {row.context for row in held_out}}
    shared = held & {passage_key(context) for context in {row.context for row in train}}
    if shared:
        raise InputError(
            f"{len(shared)} held-out passages are trained on too, so nothing could be judged by"
            " them: split by passage"
        )


def passage_key(context: str) -> str:
    """Return what tells passages apart: the text without case, punctuation, articles, spacing."""
    return normalize_answer(context)


def find_new(contexts: Iterable[str], read: Iterable[str]) -> frozenset[str]:
    """Return the passages that share next to no run of 8 words with those that are read.

    Passages cut from one text are often near copies, which no key of the whole tells.
    """
    known = {run for context in read for run in _list_runs(context)}
    return frozenset(
        context
        for context in contexts
        if len((runs := _list_runs(context)) & known) <= NEAR_COPY_SHARE * len(runs)
    )


def _list_runs(context: str) -> set[str]:
    words = passage_key(context).split()
    last = max(1, len(words) - RUN_WORDS + 1)
    return {" ".join(words[at : at + RUN_WORDS]) for at in range(last)}


def split(rows: Sequence[Labelled], share: float, seed: int) -> Split:
    """Hold out about ``share`` of the passages, each with all of its rows.

    A passage's side follows from its text and the seed alone: adding files moves no passage.
    """
    contexts = {row.context for row in rows}
    held = {context for context in contexts if _draw(passage_key(context), seed) < share}
    return Split(
        train=tuple(row for row in rows if row.context not in held),
        held_out=tuple(row for row in rows if row.context in held),
    )


def sample(rows: Sequence[Labelled], count: int, seed: int) -> tuple[Labelled, ...]:
    """Return at most ``count`` rows, in an order that follows from their texts and the seed."""
    return tuple(sorted(rows, key=lambda row: _draw(f"{row.id}:{row.question}", seed))[:count])


def summarize(loaded: Loaded, encoder: Encoder) -> Summary:
    """Count and measure a set with the encoder that it will be read with."""
    rows = loaded.rows
    passages = {row.context: encoder.tokenize_passage(row.context) for row in rows}
    encoded = [encoder.encode(row.question, passages[row.context]) for row in rows]
    return Summary(
        rows=len(rows),
        dropped=loaded.dropped,
        unanswerable=sum(1 for row in rows if not row.answers),
        passages=len(passages),
        windows=sum(len(one.windows) for one in encoded),
        question_tokens=_mean([len(encoder.tokenize_passage(row.question)) for row in rows]),
        context_tokens=_mean([len(one.passage) for one in encoded]),
        answer_chars=_mean([len(choose_answer(row.answers).text) for row in rows if row.answers]),
        question_words=dict(Counter(question_word(row.question) for row in rows).most_common()),
        sources=dict(Counter(row.source for row in rows)),
    )


def choose_answer(answers: Sequence[Gold]) -> Gold:
    """Return the span that most annotators chose, the first of equals."""
    return Counter(answers).most_common(1)[0][0]


def question_word(question: str) -> str:
    """Return the first question word of a question, "other" without one."""
    words = normalize_answer(question).split()
    return next((word for word in words if word in QUESTION_WORDS), "other")


def _check(line: Line, number: int, source: str) -> Labelled | None:
    question, context = line.question or "", line.context or ""
    answers = _pair(line)
    if answers is None or not question.strip() or not context.strip():
        return None
    return Labelled(
        id=f"{source}-{number}" if line.id in (None, "") else str(line.id),
        question=question,
        context=context,
        answers=answers,
        title=line.title or "",
        source=line.source or source,
    )


def _pair(line: Line) -> tuple[Gold, ...] | None:
    """Return the answers that a line gives, None when they cannot be trusted."""
    if line.answers is None or line.context is None:
        return None
    texts, starts = line.answers.text, line.answers.answer_start
    if texts is None or starts is None or len(texts) != len(starts):
        return None
    if line.is_impossible is not None and line.is_impossible == bool(texts):
        return None
    pairs = zip(texts, starts, strict=True)
    answers = tuple(Gold(text, at) for text, at in pairs if text is not None and at is not None)
    if len(answers) < len(texts):
        return None
    return answers if all(_lies_in(answer, line.context) for answer in answers) else None


def _lies_in(answer: Gold, context: str) -> bool:
    found = context[answer.start_char : answer.start_char + len(answer.text)]
    return answer.start_char >= 0 and bool(answer.text.strip()) and found == answer.text


def _draw(key: str, seed: int) -> float:
    """Return a number in 0..1 that follows from a text and a seed, on every machine."""
    digest = hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def _mean(values: Sequence[int]) -> float:
    return sum(values) / len(values) if values else 0.0
