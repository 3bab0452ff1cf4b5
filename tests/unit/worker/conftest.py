"""A fixed profile for property tests, and small real tokenizers of both kinds that models use."""

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from worker.contracts.family import FAMILIES, WindowSizes
from worker.reading.windows import Encoder

# The same cases in every run: a test that fails here fails everywhere.
settings.register_profile(
    "spanmill",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("spanmill")

#: Small enough that a sentence takes several windows.
SMALL = WindowSizes(max_window_tokens=24, overlap_tokens=5, max_question_tokens=8)

_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_SIGNS = ".,:;!?'\"()[]{}<>/-_+*&%$#@=~^`|\\"
_WORDS = ["the", "river", "in", "of", "was", "who", "wrote", "where", "is", "and"]
_SCRIPTS = "山水河南市中国مصرنهلكتابéüßñøदनी한😀🎉"
_MERGES = [
    ("Ġ", "Ġ"), ("Ċ", "Ċ"), ("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("i", "n"), ("Ġ", "in"),
    ("e", "r"), ("r", "i"), ("ri", "v"), ("riv", "er"), ("Ġ", "river"), ("Ã", "©"), ("Ġ", "w"),
]  # fmt: skip


def build_wordpiece() -> Tokenizer:
    """Return a lower-casing WordPiece tokenizer, as BERT's: accents are stripped, CJK is split."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_SIGNS, *_WORDS]
    pieces += [*_LETTERS, *_SCRIPTS, *(f"##{letter}" for letter in _LETTERS + _SCRIPTS)]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(
        ("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"])
    )
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    return tokenizer


def build_byte_level() -> Tokenizer:
    """Return a byte-level BPE tokenizer, as RoBERTa's: every byte of every text has a token."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    pieces += [left + right for left, right in _MERGES]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys([*pieces, "<mask>"]))}
    tokenizer = Tokenizer(models.BPE(vocabulary, _MERGES))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", vocabulary["</s>"]), ("<s>", vocabulary["<s>"]), add_prefix_space=False
    )
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    return tokenizer


@pytest.fixture(scope="session")
def build_encoder() -> Callable[[str, WindowSizes], Encoder]:
    """Make an encoder with a tokenizer of its own, by the family's name."""

    def build(family: str, sizes: WindowSizes) -> Encoder:
        byte_level = family == "roberta"
        tokenizer = build_byte_level() if byte_level else build_wordpiece()
        return Encoder(tokenizer, FAMILIES[family], sizes)

    return build


@pytest.fixture(scope="session", params=["bert", "roberta"])
def encoder(
    request: pytest.FixtureRequest, build_encoder: Callable[[str, WindowSizes], Encoder]
) -> Encoder:
    """An encoder with small windows, of each kind."""
    return build_encoder(request.param, SMALL)
