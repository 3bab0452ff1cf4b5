"""Windows of tokens: they cover the passage, share their overlap, and point into the text."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from tests import reference
from worker.contracts.errors import BundleError, RowError
from worker.contracts.family import FAMILIES, WindowSizes
from worker.reading import windows
from worker.reading.windows import Encoded, Encoder, TokenizedText, cut_pieces, slice_passage

BuildEncoder = Callable[[str, WindowSizes], Encoder]

TRICKY = [
    "the river in", "wrote.", " ", "  \n\n ", "\t", "\x00", "\x0b", "\x1c", "\x85", "\u3000", "é",
    "e\u0301", "\u0301", "👩‍👩‍👧", "👍🏽", "❤️", "中国的河", "نهر مصر", "한국", "नदी", "ﬁ", "İ",
    "\u200b", "\ufeff", "\ufffd", "[SEP]", "<s>", "</s>", "<mask>", "'s", "\U000e0001",
]  # fmt: skip

texts = st.lists(st.one_of(st.text(max_size=6), st.sampled_from(TRICKY)), max_size=40).map("".join)

#: White space that every tokenizer takes for it.
GAPS = " \t\n\r\xa0\u2028\u3000"
words = st.one_of(st.text(max_size=6), st.sampled_from(TRICKY))
gaps = st.text(GAPS, min_size=1, max_size=3)
words_and_gaps = st.lists(
    st.tuples(words.map(lambda word: word.strip() or "."), gaps), min_size=10, max_size=40
).map(lambda pairs: "".join(word + gap for word, gap in pairs).strip())


def encode(encoder: Encoder, question: str, context: str) -> Encoded:
    return encoder.encode(question, encoder.tokenize_passage(context))


def whole(encoder: Encoder, text: str) -> TokenizedText:
    """Tokenize a text in one piece."""
    with pieces_of(len(text) + 1, 1):
        return encoder.tokenize_passage(text)


@contextmanager
def pieces_of(chars: int, search_chars: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(windows, "PIECE_CHARS", chars)
        patch.setattr(windows, "PIECE_SEARCH_CHARS", search_chars)
        yield


@given(st.integers(0, 3000), st.integers(1, 64), st.integers(3, 4), st.data())
def test_slices_are_those_of_the_slow_reference(
    tokens: int, question_tokens: int, specials: int, data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(0, 128))
    maximum = data.draw(st.integers(question_tokens + specials + overlap + 1, 384))
    got = list(slice_passage(tokens, maximum - question_tokens - specials, overlap))
    expected = reference.cut_windows(tokens, question_tokens, specials, (maximum, overlap))
    assert got == [(one.first, one.last) for one in expected]


@given(question=texts, context=texts)
def test_windows_cover_the_passage_and_hold_its_tokens(
    encoder: Encoder, question: str, context: str
) -> None:
    assume(len(encoder.tokenize_passage(question)))
    encoded = encode(encoder, question, context)
    covered: set[int] = set()
    for window in encoded.windows:
        tokens = slice(window.first_token, window.first_token + window.context_tokens)
        inside = slice(window.context_start, window.context_start + window.context_tokens)
        assert window.input_ids[inside].tolist() == encoded.passage.ids[tokens].tolist()
        assert len(window) <= encoder.sizes.max_window_tokens
        assert len(window.token_type_ids) == len(window.input_ids)
        covered.update(range(*tokens.indices(len(encoded.passage))))
    assert covered == set(range(len(encoded.passage)))


@given(context=texts)
def test_neighbouring_windows_share_exactly_the_overlap(encoder: Encoder, context: str) -> None:
    found = encode(encoder, "where is the river", context).windows
    for left, right in pairwise(found):
        shared = left.first_token + left.context_tokens - right.first_token
        assert shared == encoder.sizes.overlap_tokens
        assert len(left) == encoder.sizes.max_window_tokens


@given(context=texts)
def test_every_token_lies_in_its_text(encoder: Encoder, context: str) -> None:
    passage = encoder.tokenize_passage(context)
    assert len(passage) == len(passage.starts) == len(passage.ends)
    assert (passage.starts >= 0).all()
    assert (passage.starts <= passage.ends).all()
    assert (passage.ends <= len(context)).all()
    assert (np.diff(passage.starts) >= 0).all()


def test_offsets_count_code_points(encoder: Encoder) -> None:
    context = "😀 中 e\u0301 river"
    passage = encoder.tokenize_passage(context)
    last = context[passage.starts[-1] : passage.ends[-1]]
    assert last == "river"


@given(text=texts, chars=st.integers(1, 40), search=st.integers(1, 40))
def test_pieces_cover_a_text_without_gap_or_overlap(text: str, chars: int, search: int) -> None:
    with pieces_of(chars, search):
        pieces = list(cut_pieces(text))
    assert "".join(text[start:end] for start, end in pieces) == text
    assert all(0 < end - start <= chars for start, end in pieces)


@given(text=words_and_gaps, chars=st.integers(20, 60))
def test_tokens_of_pieces_are_those_of_the_whole_where_cuts_fall_on_white_space(
    encoder: Encoder, text: str, chars: int
) -> None:
    with pieces_of(chars, chars):
        cuts = [start for start, _ in cut_pieces(text)][1:]
        in_pieces = encoder.tokenize_passage(text)
    assert all(text[cut].isspace() and not text[cut + 1].isspace() for cut in cuts)
    expected = whole(encoder, text)
    assert in_pieces.ids.tolist() == expected.ids.tolist()
    assert in_pieces.starts.tolist() == expected.starts.tolist()
    assert in_pieces.ends.tolist() == expected.ends.tolist()


def test_a_long_text_of_words_is_tokenized_in_pieces_as_in_one(encoder: Encoder) -> None:
    text = "the river in\n\n\tEgypt:  where é was  born 中国. " * 1_500
    assert len(list(cut_pieces(text))) > 3
    assert encoder.tokenize_passage(text).ids.tolist() == whole(encoder, text).ids.tolist()
    assert encoder.tokenize_passage(text).ends.tolist() == whole(encoder, text).ends.tolist()


def test_a_text_without_white_space_is_cut_at_the_limit() -> None:
    pieces = list(cut_pieces("x" * 100_000))
    assert pieces[0] == (0, windows.PIECE_CHARS)
    assert pieces[-1][1] == 100_000


def test_a_piece_is_cut_at_the_last_white_space_it_can_hold() -> None:
    text = "x" * 10 + " " + "x" * (windows.PIECE_CHARS - 100) + "  " + "x" * 500
    first = windows.PIECE_CHARS - 100 + 10 + 1
    assert next(cut_pieces(text)) == (0, first + 1)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_the_cut_of_a_question_is_told_and_takes_nothing_of_the_passage(
    build_encoder: BuildEncoder, family: str
) -> None:
    encoder = build_encoder(family, WindowSizes())
    passage = encoder.tokenize_passage("the river")
    limit = encoder.sizes.max_question_tokens
    exact = encoder.encode(
        "?" * 1 + " ?" * (limit - 1) if family == "bert" else "?" * limit, passage
    )
    longer = encoder.encode("? " * 1_000, passage)
    assert not exact.question_was_cut
    assert longer.question_was_cut
    head = 1 + limit + FAMILIES[family].separators
    assert [one.windows[0].context_start for one in (exact, longer)] == [head, head]
    assert [one.windows[0].context_tokens for one in (exact, longer)] == [len(passage)] * 2


def test_a_question_is_tokenized_only_as_far_as_it_is_kept(encoder: Encoder) -> None:
    endless = "the river " * 100_000 + "\ud800"
    with pytest.raises(TypeError):
        encoder.tokenize_passage(endless)
    assert encode(encoder, endless, "x").question_was_cut


@pytest.mark.parametrize("question", ["", "\x00\x01"])
def test_a_question_without_tokens_is_the_rows_error(
    build_encoder: BuildEncoder, question: str
) -> None:
    encoder = build_encoder("bert", WindowSizes())
    with pytest.raises(RowError, match="empty"):
        encode(encoder, question, "the river")


def test_an_empty_passage_has_one_window_without_context(encoder: Encoder) -> None:
    (window,) = encode(encoder, "where", "").windows
    assert window.context_tokens == 0
    assert window.first_token == 0


def test_bert_joins_with_one_separator_and_types_the_context(build_encoder: BuildEncoder) -> None:
    encoder = build_encoder("bert", WindowSizes())
    (window,) = encode(encoder, "who", "the river").windows
    tokens = [encoder._tokenizer.id_to_token(number) for number in window.input_ids]
    assert tokens == ["[CLS]", "who", "[SEP]", "the", "river", "[SEP]"]
    assert window.token_type_ids.tolist() == [0, 0, 0, 1, 1, 1]


def test_roberta_joins_with_two_separators_and_no_types(build_encoder: BuildEncoder) -> None:
    encoder = build_encoder("roberta", WindowSizes())
    (window,) = encode(encoder, "?", "in river").windows
    tokens = [encoder._tokenizer.id_to_token(number) for number in window.input_ids]
    assert tokens == ["<s>", "?", "</s>", "</s>", "in", "Ġriver", "</s>"]
    assert window.token_type_ids.tolist() == [0] * 7


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_joining_equals_the_tokenizers_own_pair(build_encoder: BuildEncoder, family: str) -> None:
    encoder = build_encoder(family, WindowSizes())
    question, context = "who wrote it?", "The river of Egypt was 中国 é."
    (window,) = encode(encoder, question, context).windows
    pair = encoder._tokenizer.encode(question, context)
    assert window.input_ids.tolist() == pair.ids
    if FAMILIES[family].segments:
        assert window.token_type_ids.tolist() == pair.type_ids


@pytest.mark.parametrize(
    ("family", "text"), [("bert", "[SEP] [CLS] [PAD]"), ("roberta", "<s> </s> <pad> <mask>")]
)
def test_special_tokens_spelled_in_a_text_are_read_as_text(
    build_encoder: BuildEncoder, family: str, text: str
) -> None:
    encoder = build_encoder(family, WindowSizes())
    tokenizer = encoder._tokenizer
    special = {tokenizer.token_to_id(word) for word in text.split()}
    assert not special & set(encoder.tokenize_passage(text).ids.tolist())
    (window,) = encode(encoder, text, "x").windows
    ends = {0, *range(window.context_start - FAMILIES[family].separators, window.context_start)}
    question = [
        one for place, one in enumerate(window.input_ids[:-1].tolist()) if place not in ends
    ]
    assert not special & set(question)


def test_a_tokenizers_own_truncation_and_padding_are_switched_off(
    build_encoder: BuildEncoder,
) -> None:
    tokenizer = build_encoder("bert", WindowSizes())._tokenizer
    tokenizer.enable_truncation(10, stride=8)
    tokenizer.enable_padding(length=50)
    encoder = Encoder(tokenizer, FAMILIES["bert"], WindowSizes())
    assert len(encoder.tokenize_passage("the river " * 40)) == 80
    assert len(encoder.tokenize_passage("the river")) == 2


def test_a_tokenizer_of_another_family_is_refused() -> None:
    tokenizer = Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"))
    with pytest.raises(BundleError, match=r"no token \[CLS\]"):
        Encoder(tokenizer, FAMILIES["bert"], WindowSizes())


def test_a_context_of_5_mb_is_encoded_within_200_mib(build_encoder: BuildEncoder) -> None:
    encoder = build_encoder("bert", WindowSizes())
    context = "the river in the " * 300_000
    with peak_rss_mib() as peak:
        encoded = encode(encoder, "where is it?", context)
    assert len(encoded.passage) > 1_000_000
    assert peak[0] < 200, f"grew by {peak[0]:.0f} MiB"


@contextmanager
def peak_rss_mib() -> Iterator[list[float]]:
    """Give the most that this process's resident memory grew meanwhile, in MiB."""
    before, peak, done = _rss_mib(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            peak[0] = max(peak[0], _rss_mib() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        peak[0] = max(peak[0], _rss_mib() - before)
        done.set()
        watcher.join()


def _rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def test_default_sizes_leave_every_window_a_step_forward() -> None:
    sizes = WindowSizes()
    assert (sizes.max_window_tokens, sizes.overlap_tokens, sizes.max_question_tokens) == (
        384, 128, 64,
    )  # fmt: skip


@pytest.mark.parametrize(
    "sizes",
    [(10, 0, 6), (384, 320, 64), (384, 316, 64), (384, 128, 0), (384, -1, 64), (0, 0, 1)],
)
def test_sizes_without_a_step_forward_are_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="window"):
        WindowSizes(*sizes)


def test_the_tightest_sizes_still_read_to_the_end(build_encoder: BuildEncoder) -> None:
    encoder = build_encoder("roberta", WindowSizes(384, 315, 64))
    found = encode(encoder, "?" * 64, "?" * 400).windows
    assert [one.first_token for one in found] == list(range(len(found)))
    assert found[-1].first_token + found[-1].context_tokens == 400
