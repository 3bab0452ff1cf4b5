"""Tiny random readers of every family, with tokenizers of their own, and bundles made from them.

A pytest plugin: its fixture ``tiny`` makes each one once a test session, for all xdist processes.
Their answers are nonsense, but everything else about them is real.
"""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing

from worker.contracts.family import FAMILIES, WindowSizes
from worker.contracts.verdict import Calibration, Logistic

SIZES = WindowSizes()
CALIBRATION = Calibration(
    answer=Logistic(bias=0.2, null_odds=-0.5, margin=0.3),
    abstention=Logistic(bias=-0.4, null_odds=0.6),
)
NULL_THRESHOLD = 0.0

#: What the tokenizers are made from, and what tests may read: passages of our own.
PASSAGES = (
    "The mill at Arden was built in 1742 by Joan Whitlock, who paid 300 pounds for the stones. "
    "Its wheel, nine feet across, turned until the flood of 1868 carried the weir away.",
    "Saffron is harvested by hand in October. A picker gathers about 60 grams a day, and 150 "
    "flowers give a single gram; the threads are dried over charcoal within twelve hours.",
    "Captain Ruiz left Valparaíso with forty men, two cannons and a cat named Brújula. The ship "
    "reached Chiloé on 3 March; nobody had written down why the cat was given the chart room.",
)
QUESTIONS = (
    "Who built the mill at Arden?",
    "How many flowers give a single gram of saffron?",
    "What was the cat called?",
)


class Tiny:
    """Makes checkpoints and bundles under a folder; what is there already is used."""

    def __init__(self, root: Path) -> None:
        """Take the folder, which several processes may share."""
        self._root = root
        root.mkdir(parents=True, exist_ok=True)

    def checkpoint(self, family: str = "bert") -> Path:
        """Return a checkpoint folder: config.json, model.safetensors, tokenizer.json."""
        return self._once(f"checkpoint-{family}", lambda folder: write_checkpoint(family, folder))

    def bundle(self, family: str = "bert", *, mask: bool = False) -> Path:
        """Return a bundle folder; with ``mask`` its graph takes padded runs."""
        checkpoint = self.checkpoint(family)
        name = f"bundle-{family}{'-mask' if mask else ''}"
        return self._once(name, lambda folder: write_bundle(checkpoint, folder, mask=mask))

    def _once(self, name: str, make: Callable[[Path], None]) -> Path:
        folder = self._root / name
        with (self._root / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                make(folder)
        return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Give the session's tiny models."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    return Tiny(shared / "tiny")


def write_checkpoint(family: str, folder: Path, layers: int = 2, seed: int = 7) -> None:
    """Write a random reader of a family as transformers saves it."""
    import torch  # here, so that collecting tests stays quick
    from transformers import AutoConfig, AutoModelForQuestionAnswering
    from transformers.utils.logging import disable_progress_bar

    tokenizer = make_tokenizer(family)
    kind = {"minilm": "bert", "tinybert": "bert"}.get(family, family)
    vocabulary = tokenizer.get_vocab_size()
    config = AutoConfig.for_model(kind, **_shape(family, layers), vocab_size=vocabulary)
    if FAMILIES[family].name.endswith("roberta"):
        config.pad_token_id, config.bos_token_id, config.eos_token_id = 1, 0, 2
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForQuestionAnswering.from_config(config)
    draft = folder.with_name(f".{folder.name}.part")
    disable_progress_bar()
    model.save_pretrained(draft)
    tokenizer.save(str(draft / "tokenizer.json"))
    draft.rename(folder)


def copy_headless(checkpoint: Path, folder: Path) -> Path:
    """Copy a reader without its head for question answering: an encoder."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(checkpoint, folder)
    file = folder / "model.safetensors"
    kept = {name: one for name, one in load_file(file).items() if "qa_outputs" not in name}
    save_file(kept, file, {"format": "pt"})
    return folder


def write_bundle(checkpoint: Path, folder: Path, *, mask: bool = False) -> None:
    """Export a checkpoint in fp32 and pack it, without calibration or gates."""
    from training.bundle import Description, pack_bundle
    from training.export import export_onnx, open_checkpoint

    opened = open_checkpoint(str(checkpoint), SIZES)
    graph = folder.with_name(f".{folder.name}.onnx")
    export_onnx(opened, graph, mask=mask)
    described = Description(
        name=folder.name,
        family=opened.family.name,
        language="en",
        sizes=SIZES,
        null_threshold=NULL_THRESHOLD,
        calibration=CALIBRATION,
        quantization="none (fp32)",
        licence="Apache-2.0",
    )
    pack_bundle(folder, graph, checkpoint / "tokenizer.json", described)
    graph.unlink()


def make_tokenizer(family: str) -> Tokenizer:
    """Return a small tokenizer of the kind that the family uses.

    Its vocabulary is put together by hand: the library's trainers give another one each time.
    """
    if family == "roberta":
        tokenizer = _make_byte_level()
    elif family == "xlm-roberta":
        tokenizer = _make_unigram()
    else:
        tokenizer = _make_wordpiece()
    tokenizer.post_processor = _template(family, tokenizer)
    return tokenizer


def _make_wordpiece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    signs = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    inside = [f"##{sign}" for sign in signs if sign.isalnum()]
    words = [text for text, _ in tokenizer.pre_tokenizer.pre_tokenize_str(_normal(tokenizer))]
    pieces = dict.fromkeys([*special, *signs, *inside, *words])
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer.model = models.WordPiece(vocabulary, unk_token="[UNK]")
    tokenizer.add_special_tokens(special)
    return tokenizer


def _make_byte_level() -> Tokenizer:
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    merges = [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("i", "n"), ("e", "r"), ("Ġ", "a"), ("o", "w")]
    pieces = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, merges)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    return tokenizer


def _make_unigram() -> Tokenizer:
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    text = " ".join(PASSAGES + QUESTIONS)
    pieces = [(one, 0.0) for one in special]
    pieces += [(f"▁{word}", -4.0) for word in sorted(set(text.split()))]
    pieces += [(sign, -8.0) for sign in ["▁", *sorted(set(text) - {" "})]]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(special)
    return tokenizer


def _normal(tokenizer: Tokenizer) -> str:
    text: str = tokenizer.normalizer.normalize_str(" ".join(PASSAGES + QUESTIONS))
    return text


def _template(family: str, tokenizer: Tokenizer) -> TemplateProcessing:
    shape = FAMILIES[family]
    separators = f" {shape.sep}" * shape.separators
    second = ":1" if shape.segments else ""
    return TemplateProcessing(
        single=f"{shape.cls} $A {shape.sep}",
        pair=f"{shape.cls} $A{separators} $B{second} {shape.sep}{second}",
        special_tokens=[(one, tokenizer.token_to_id(one)) for one in (shape.cls, shape.sep)],
    )


def _shape(family: str, layers: int) -> dict[str, object]:
    """Return a small configuration; larger weights than usual, so that logits differ well."""
    if family == "distilbert":
        return {
            "dim": 32, "hidden_dim": 64, "n_layers": layers, "n_heads": 4,
            "max_position_embeddings": 512, "initializer_range": 0.2,
        }  # fmt: skip
    shape: dict[str, object] = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": layers,
        "num_attention_heads": 4, "max_position_embeddings": 512, "initializer_range": 0.2,
    }  # fmt: skip
    if family == "mobilebert":
        shape |= {"embedding_size": 16, "intra_bottleneck_size": 16, "num_feedforward_networks": 2}
    elif family == "minilm":
        shape |= {"num_attention_heads": 8}
    elif family == "tinybert":
        shape |= {"hidden_size": 24, "intermediate_size": 96}
    elif family.endswith("roberta"):
        shape |= {"max_position_embeddings": 514, "type_vocab_size": 1}
    return shape
