"""Logits of a passage's windows to its best spans and its null score, by the official rules.

Source: the reference decoding of BERT for SQuAD 2.0 (Devlin et al. 2019, §4.2-4.3): logits are
compared across windows as they are, never as per-window probabilities.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from worker.contracts.errors import RowError
from worker.contracts.records import Span
from worker.reading.windows import Encoded, TokenizedText, Window

#: The protocol's ``n_best_size``: how many starts and ends of a window are candidates.
CANDIDATES = 20


@dataclass(frozen=True, slots=True)
class WindowLogits:
    """The model's output for one window. Shapes: both ``(window_tokens,)``."""

    start: NDArray[np.float32]
    end: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Reading:
    """What a passage's logits say: the null score and the best spans of different texts."""

    null_score: float
    spans: tuple[Span, ...]


def read_spans(
    context: str,
    encoded: Encoded,
    logits: Sequence[WindowLogits],
    max_answer_tokens: int,
    count: int,
) -> Reading:
    """Return the null score and up to ``count`` spans, best first, each text once.

    Raises:
        RowError: a logit is not a finite number.
    """
    if not all(np.isfinite(one.start).all() and np.isfinite(one.end).all() for one in logits):
        raise RowError(
            "the model's logits for the row are not finite: check the bundle with"
            " `spanmill bundle check`"
        )
    null_score = min(float(one.start[0]) + float(one.end[0]) for one in logits)
    owners = find_owners(encoded.windows, len(encoded.passage))
    found = _rank(encoded.windows, logits, owners, max_answer_tokens, whole_window=True)
    spans = tuple(_distinct(context, encoded, found, count))
    if not spans:
        # All of a window's best positions may lie outside the context, or no start of theirs near
        # enough before an end: then every token of the context that is no blank may begin a span.
        owners[_find_blank(context, encoded.passage)] = -1
        found = _rank(encoded.windows, logits, owners, max_answer_tokens, whole_window=False)
        spans = tuple(_distinct(context, encoded, found, count))
    return Reading(null_score, spans)


def find_owners(windows: Sequence[Window], tokens: int) -> NDArray[np.int64]:
    """Return for each token of the passage the window in which it has the most context.

    A token's context in a window is the smaller of what lies left and right of it, plus a hundredth
    of the slice's length; the first of equals wins. Shape: ``(tokens,)``. Source: the reference
    implementation's ``_check_is_max_context``.
    """
    owners = np.zeros(tokens, dtype=np.int64)
    if len(windows) == 1:
        return owners
    most = np.full(tokens, -1.0)
    for number, window in enumerate(windows):
        left = np.arange(window.context_tokens)
        context = np.minimum(left, left[::-1]) + 0.01 * window.context_tokens
        part = slice(window.first_token, window.first_token + window.context_tokens)
        better = context > most[part]
        most[part][better] = context[better]
        owners[part][better] = number
    return owners


def _rank(
    windows: Sequence[Window],
    logits: Sequence[WindowLogits],
    owners: NDArray[np.int64],
    max_answer_tokens: int,
    *,
    whole_window: bool,
) -> NDArray[np.float64]:
    """Return candidates ``(score, first token, last token)``, best first; shape ``(found, 3)``."""
    found = []
    for number, (window, one) in enumerate(zip(windows, logits, strict=True)):
        part = slice(window.first_token, window.first_token + window.context_tokens)
        owned = owners[part] == number
        found.append(_candidates(window, one, owned, max_answer_tokens, whole_window=whole_window))
    candidates = np.concatenate(found)
    return candidates[np.argsort(-candidates[:, 0], kind="stable")]


def _candidates(
    window: Window,
    logits: WindowLogits,
    owned: NDArray[np.bool_],
    max_answer_tokens: int,
    *,
    whole_window: bool,
) -> NDArray[np.float64]:
    low, high = window.context_start, window.context_start + window.context_tokens
    to_passage = window.first_token - low
    if whole_window:
        starts, ends = _top(logits.start)[:CANDIDATES], _top(logits.end)[:CANDIDATES]
    else:
        starts, ends = low + _top(logits.start[low:high]), low + _top(logits.end[low:high])
    starts = starts[(starts >= low) & (starts < high)]
    starts = starts[owned[starts - low]]
    ends = ends[(ends >= low) & (ends < high)]
    lengths = ends[None, :] - starts[:, None] + 1
    rows, columns = np.nonzero((lengths >= 1) & (lengths <= max_answer_tokens))
    scores = (
        logits.start[starts].astype(np.float64)[rows] + logits.end[ends].astype(np.float64)[columns]
    )
    found = np.stack([scores, starts[rows] + to_passage, ends[columns] + to_passage], axis=1)
    # No more than the protocol's pairs of a window are kept, however many windows there are.
    return found[np.argsort(-scores, kind="stable")[: CANDIDATES**2]]


def _top(logits: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the positions from the highest logit to the lowest, the first of equals first."""
    return np.argsort(-logits, kind="stable")


def _find_blank(context: str, passage: TokenizedText) -> NDArray[np.bool_]:
    """Return which tokens have no text but white space. Shape: ``(tokens,)``."""
    ranges = zip(passage.starts.tolist(), passage.ends.tolist(), strict=True)
    return np.array([not context[start:end].strip() for start, end in ranges], dtype=np.bool_)


def _distinct(
    context: str, encoded: Encoded, ranked: NDArray[np.float64], count: int
) -> Iterator[Span]:
    seen: set[str] = set()
    passage = encoded.passage
    for score, first, last in ranked:
        if len(seen) == count:
            return
        start, end = snap(context, int(passage.starts[int(first)]), int(passage.ends[int(last)]))
        text = context[start:end]
        if text and text not in seen:
            seen.add(text)
            yield Span(text, start, end, float(score))


def snap(text: str, start: int, end: int) -> tuple[int, int]:
    """Return the range without white space at its ends, and with the marks on its last character.

    Byte-level tokens begin with their white space; accents that a tokenizer strips belong to no
    token, yet nobody wants them cut off.
    """
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    while start < end < len(text) and unicodedata.category(text[end]).startswith("M"):
        end += 1
    return start, end
