"""Every family: transformers' own inputs and logits, from the worker's windows and the graph."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import transformers
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

from tests.tiny import PASSAGES, QUESTIONS, SIZES, Tiny
from training.export import Checkpoint, check_parity, open_checkpoint, score_torch
from worker.contracts.family import FAMILIES
from worker.reading.reader import pad_windows
from worker.reading.windows import Encoded
from worker.session import OnnxScorer

#: So long that passages take several windows, in every tokenizer.
REPEATED = 12

#: One of each kind: with token types, without, and with positions that follow from the padding.
#: Not MobileBERT: its embeddings mix neighbours, so its last token sees the padding.
MASKED = ("bert", "distilbert", "roberta")

families = pytest.mark.parametrize("family", sorted(FAMILIES))


@families
def test_the_graph_gives_torchs_logits(family: str, tiny: Tiny) -> None:
    checkpoint = open_checkpoint(str(tiny.checkpoint(family)), SIZES)
    encoded = _encode(checkpoint)
    windows = [window for one in encoded for window in one.windows]
    assert len(windows) > len(encoded)
    assert max(len(window) for window in windows) == SIZES.max_window_tokens
    difference = check_parity(checkpoint, tiny.bundle(family) / "model.onnx", windows)
    spread = np.std(score_torch(checkpoint, windows[:1])[0])
    assert difference < 1e-4 < spread


@pytest.mark.parametrize("family", MASKED)
def test_padding_changes_no_logit_of_a_masked_graph(family: str, tiny: Tiny) -> None:
    checkpoint = open_checkpoint(str(tiny.checkpoint(family)), SIZES)
    windows = [one.windows[-1] for one in _encode(checkpoint)]
    assert len({len(window) for window in windows}) > 1
    scorer = OnnxScorer(tiny.bundle(family, mask=True) / "model.onnx")
    assert scorer.takes_mask
    together = scorer.score(pad_windows(windows, checkpoint.encoder.pad))
    for row, window in enumerate(windows):
        alone = score_torch(checkpoint, [window])
        for padded, expected in zip(together, alone, strict=True):
            assert np.allclose(padded[row, : len(window)], expected[0], atol=1e-4)


@families
def test_a_window_is_what_transformers_makes_of_the_pair(family: str, tiny: Tiny) -> None:
    folder = tiny.checkpoint(family)
    checkpoint = open_checkpoint(str(folder), SIZES)
    reference = _tokenizer_of_transformers(folder)
    for question, context in zip(QUESTIONS, PASSAGES, strict=True):
        passage = checkpoint.encoder.tokenize_passage(context)
        (window,) = checkpoint.encoder.encode(question, passage).windows
        expected = reference(question, context, return_token_type_ids=True)
        assert window.input_ids.tolist() == expected["input_ids"]
        assert window.token_type_ids.tolist() == expected["token_type_ids"]


@families
def test_a_graph_takes_what_its_family_has(family: str, tiny: Tiny) -> None:
    typed = family not in ("distilbert", "roberta", "xlm-roberta")
    names = ["input_ids", "token_type_ids"] if typed else ["input_ids"]
    graph = onnx.load(tiny.bundle(family) / "model.onnx").graph
    assert [one.name for one in graph.input] == names
    assert [one.name for one in graph.output] == ["start_logits", "end_logits"]
    assert not OnnxScorer(tiny.bundle(family) / "model.onnx").takes_mask


@families
def test_a_graph_without_mask_builds_none(family: str, tiny: Tiny) -> None:
    graph = onnx.load(tiny.bundle(family) / "model.onnx").graph
    kinds = {node.op_type for node in graph.node}
    assert not kinds & {"Where", "Not", "Equal", "GreaterOrEqual", "IsNaN", "CumSum"}
    assert all(
        node.name.startswith(("graph/", "qa_outputs/")) or "." in node.name for node in graph.node
    )


def _encode(checkpoint: Checkpoint) -> list[Encoded]:
    encoder = checkpoint.encoder
    texts = [context * (REPEATED - 4 * number) for number, context in enumerate(PASSAGES)]
    return [
        encoder.encode(question, encoder.tokenize_passage(text))
        for question, text in zip(QUESTIONS, texts, strict=True)
    ]


def _tokenizer_of_transformers(folder: Path) -> transformers.PreTrainedTokenizerBase:
    """Return the family's own class, which joins pairs by itself, with the tiny vocabulary."""
    kind = json.loads((folder / "config.json").read_text())["model_type"]
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    parts = {"vocab": model["vocab"]}
    if model["type"] == "BPE":
        parts["merges"] = [tuple(merge) for merge in model["merges"]]
    elif model["type"] == "Unigram":
        parts["vocab"] = [tuple(piece) for piece in model["vocab"]]
    return getattr(transformers, TOKENIZER_MAPPING_NAMES[kind])(**parts)
