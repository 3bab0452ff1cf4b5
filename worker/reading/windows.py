"""Question and context to windows of tokens: encoded apart, assembled in NumPy.

Neither text is ever handed to the tokenizer's own truncation: a question that fills the window, or
a window not longer than its overlap, makes it fail or panic for a whole batch.
"""

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from worker.contracts.errors import BundleError, RowError
from worker.contracts.family import Family, WindowSizes

#: A context is encoded in pieces of about this many code points: 5 MB at once take 700 MiB.
PIECE_CHARS = 16_384
#: How far back from a piece's end a white space is looked for, to cut there.
PIECE_SEARCH_CHARS = 1_024


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """A text's tokens and where they lie in it.

    Shapes: ``ids``, ``starts``, ``ends`` are ``(tokens,)``; token ``i`` is
    ``text[starts[i]:ends[i]]``, in code points.
    """

    ids: NDArray[np.int64]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Window:
    """One model input: the special tokens, the question, and a slice of the context.

    Shapes: ``input_ids`` and ``token_type_ids`` are ``(window_tokens,)``. The context's slice lies
    at ``context_start : context_start + context_tokens`` of the window and begins with the
    passage's token number ``first_token``.
    """

    input_ids: NDArray[np.int64]
    token_type_ids: NDArray[np.int64]
    context_start: int
    context_tokens: int
    first_token: int

    def __len__(self) -> int:
        """Return the number of tokens in the window."""
        return len(self.input_ids)


@dataclass(frozen=True, slots=True)
class Encoded:
    """One example as the model sees it."""

    passage: TokenizedText
    windows: tuple[Window, ...]
    question_was_cut: bool


class Encoder:
    """Encodes examples for one tokenizer, family and set of window sizes."""

    def __init__(self, tokenizer: Tokenizer, family: Family, sizes: WindowSizes) -> None:
        """Take the tokenizer over: its own truncation and padding are switched off.

        A text that spells a special token, as HTML may say ``<s>``, is read as text.

        Raises:
            BundleError: the tokenizer lacks one of the family's special tokens.
        """
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self._family = family
        self.sizes = sizes
        self._cls = self._special(family.cls)
        self._sep = self._special(family.sep)
        self.pad = self._special(family.pad)

    def encode(self, question: str, passage: TokenizedText) -> Encoded:
        """Assemble the windows of one question over one passage already tokenized.

        Raises:
            RowError: the question has no token.
        """
        ids = self._tokenize_question(question)
        if not len(ids):
            raise RowError("the question is empty: give it a text")
        limit = self.sizes.max_question_tokens
        windows = tuple(self._assemble(ids[:limit], passage))
        return Encoded(passage, windows, question_was_cut=len(ids) > limit)

    def tokenize_passage(self, context: str) -> TokenizedText:
        """Tokenize a context of any length, in pieces, so that memory stays bounded."""
        pieces = [(start, self._tokenize(context[start:end])) for start, end in cut_pieces(context)]
        if len(pieces) == 1:
            return pieces[0][1]
        if not pieces:
            return self._tokenize("")
        return TokenizedText(
            ids=np.concatenate([piece.ids for _, piece in pieces]),
            starts=np.concatenate([piece.starts + start for start, piece in pieces]),
            ends=np.concatenate([piece.ends + start for start, piece in pieces]),
        )

    def _tokenize_question(self, question: str) -> NDArray[np.int64]:
        """Return at least the tokens that are kept and one more, if there are so many."""
        ids = np.zeros(0, dtype=np.int64)
        for start, end in cut_pieces(question):
            ids = np.concatenate([ids, self._tokenize(question[start:end]).ids])
            if len(ids) > self.sizes.max_question_tokens:
                break
        return ids

    def _special(self, token: str) -> int:
        number = self._tokenizer.token_to_id(token)
        if number is None:
            raise BundleError(
                f"the tokenizer has no token {token}, which the family {self._family.name} needs:"
                " check the bundle's family and tokenizer.json"
            )
        return int(number)

    def _tokenize(self, text: str) -> TokenizedText:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        ids = np.array(encoding.ids, dtype=np.int64)
        return TokenizedText(ids, offsets[:, 0], offsets[:, 1])

    def _assemble(self, question: NDArray[np.int64], passage: TokenizedText) -> Iterator[Window]:
        head = np.concatenate(
            [[self._cls], question, [self._sep] * self._family.separators], dtype=np.int64
        )
        capacity = self.sizes.max_window_tokens - len(head) - 1
        for first, last in slice_passage(len(passage), capacity, self.sizes.overlap_tokens):
            input_ids = np.concatenate([head, passage.ids[first:last], [self._sep]], dtype=np.int64)
            token_type_ids = np.zeros_like(input_ids)
            if self._family.segments:
                token_type_ids[len(head) :] = 1
            yield Window(input_ids, token_type_ids, len(head), last - first, first)


def slice_passage(tokens: int, capacity: int, overlap: int) -> Iterator[tuple[int, int]]:
    """Yield the half-open token ranges that cover a passage, neighbours sharing ``overlap``.

    An empty passage has one empty range: the model still scores its null answer.
    """
    first = 0
    while True:
        last = min(first + capacity, tokens)
        yield first, last
        if last >= tokens:
            return
        first += capacity - overlap


def cut_pieces(text: str) -> Iterator[tuple[int, int]]:
    """Yield the half-open ranges of a text's pieces, cut before white space where there is some.

    The white space begins the next piece, as byte-level tokenizers want it; of several in a row the
    last one does, so that the pieces' tokens are those of the whole.
    """
    start = 0
    while start < len(text):
        end = start + PIECE_CHARS
        if end < len(text):
            end = _last_gap(text, max(start + 1, end - PIECE_SEARCH_CHARS), end)
        yield start, min(end, len(text))
        start = end


def _last_gap(text: str, lowest: int, highest: int) -> int:
    for position in range(min(highest, len(text) - 2), lowest - 1, -1):
        if _is_gap(text[position]) and not text[position + 1].isspace():
            return position
    return highest


def _is_gap(character: str) -> bool:
    """Whether every tokenizer takes the character for white space; some drop form feeds."""
    return character in "\t\n\r" or unicodedata.category(character).startswith("Z")
