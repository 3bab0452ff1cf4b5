"""Thawing: a bundle's weights are a checkpoint again, of every family and either kind of int8."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForQuestionAnswering

from tests.tiny import CALIBRATION, PASSAGES, QUESTIONS, SIZES, Tiny
from training import quantize as module
from training.bundle import Description, pack_bundle
from training.export import CONFIG, open_checkpoint, score_torch
from training.quantize import Mode, quantize
from training.smooth import smooth
from training.thaw import thaw
from worker.contracts.bundle import Bundle, find_bundle, load_bundle
from worker.contracts.errors import BundleError
from worker.contracts.family import FAMILIES
from worker.reading.reader import pad_windows
from worker.reading.windows import Window
from worker.session import OnnxScorer


def _cut(checkpoint: Path) -> list[Window]:
    encoder = open_checkpoint(str(checkpoint), SIZES).encoder
    return [
        window
        for question, context in zip(QUESTIONS, PASSAGES, strict=True)
        for window in encoder.encode(question, encoder.tokenize_passage(context)).windows
    ]


def _pack(graph: Path, checkpoint: Path, family: str, out: Path) -> Bundle:
    described = Description(out.name, family, "en", SIZES, 0.0, CALIBRATION, "int8", "Apache-2.0")
    return pack_bundle(out, graph, checkpoint / "tokenizer.json", described)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_an_fp32_bundle_thaws_to_the_very_checkpoint(
    family: str, tiny: Tiny, tmp_path: Path
) -> None:
    folder = thaw(load_bundle(tiny.bundle(family)), tmp_path / "thawed")
    found, expected = (
        load_file(one / "model.safetensors") for one in (folder, tiny.checkpoint(family))
    )
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    model = AutoModelForQuestionAnswering.from_pretrained(folder, local_files_only=True)
    assert type(model).__name__.endswith("ForQuestionAnswering")
    assert {path.name for path in folder.iterdir()} >= {"config.json", "tokenizer.json"}


@pytest.mark.parametrize("smoothed", [False, True])
@pytest.mark.parametrize(
    ("family", "mode"),
    [*((family, Mode.DYNAMIC) for family in sorted(FAMILIES)), ("bert", Mode.STATIC)],
)
def test_an_int8_bundle_thaws_to_its_own_logits(
    family: str,
    mode: Mode,
    smoothed: bool,
    tiny: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "TABLE_ROWS", 50)  # so that the tiny tables are quantized too
    checkpoint = tiny.checkpoint(family)
    windows = _cut(checkpoint)
    graph = tiny.bundle(family) / "model.onnx"
    if smoothed:
        smooth(graph, tmp_path / "smoothed.onnx", windows)
        graph = tmp_path / "smoothed.onnx"
    quantize(graph, tmp_path / "int8.onnx", mode, windows)
    name = open_checkpoint(str(checkpoint), SIZES).family.name
    bundle = _pack(tmp_path / "int8.onnx", checkpoint, name, tmp_path / "bundle")
    thawed = open_checkpoint(str(thaw(bundle, tmp_path / "thawed")), SIZES)
    scorer = OnnxScorer(bundle.model)
    for window in windows:
        expected = np.concatenate(scorer.score(pad_windows([window], thawed.encoder.pad)))
        found = np.concatenate(score_torch(thawed, [window]))
        assert np.abs(found - expected).max() < 0.3 * expected.std()
    original = load_file(checkpoint / "model.safetensors")
    weights = load_file(tmp_path / "thawed" / "model.safetensors")
    moved = [name for name in original if not torch.equal(original[name], weights[name])]
    assert moved
    for name in moved:
        step = original[name].abs().max() / 127
        most = 5 if smoothed else 0.51  # what smoothing made smaller was rounded more coarsely
        assert (original[name] - weights[name]).abs().max() <= most * step


def test_the_shipped_bundle_thaws_and_answers_its_sample_near_enough(tmp_path: Path) -> None:
    bundle = load_bundle(find_bundle("default"))
    thawed = open_checkpoint(str(thaw(bundle, tmp_path / "thawed")), bundle.manifest.sizes)
    asked = bundle.manifest.sample[0]
    encoder = thawed.encoder
    windows = encoder.encode(asked.question, encoder.tokenize_passage(asked.context)).windows
    expected = np.concatenate(OnnxScorer(bundle.model).score(pad_windows(windows, encoder.pad)))
    found = np.concatenate(score_torch(thawed, windows))
    assert np.abs(found - expected).mean() < 0.1 * expected.std()  # activations are int8 there
    assert np.array_equal(found.argmax(axis=-1), expected.argmax(axis=-1))


def test_a_graph_without_its_configuration_is_refused_unless_it_is_bert(
    tiny: Tiny, tmp_path: Path
) -> None:
    model = onnx.load(tiny.bundle("roberta") / "model.onnx")
    assert [note.key for note in model.metadata_props] == [CONFIG]
    model.ClearField("metadata_props")
    onnx.save(model, tmp_path / "old.onnx")
    checkpoint = tiny.checkpoint("roberta")
    bundle = _pack(tmp_path / "old.onnx", checkpoint, "roberta", tmp_path / "bundle")
    with pytest.raises(BundleError, match="roberta was made before"):
        thaw(bundle, tmp_path / "thawed")


def test_a_graph_that_lacks_weights_is_refused_and_nothing_is_written(
    tiny: Tiny, tmp_path: Path
) -> None:
    model = onnx.load(tiny.bundle("bert") / "model.onnx")
    for node in model.graph.node:
        node.name = node.name.replace("query", "mystery")
    onnx.save(model, tmp_path / "odd.onnx")
    checkpoint = tiny.checkpoint("bert")
    bundle = _pack(tmp_path / "odd.onnx", checkpoint, "bert", tmp_path / "bundle")
    with pytest.raises(BundleError, match=r"lacks the weights bert\.encoder.*query"):
        thaw(bundle, tmp_path / "thawed")
    assert not (tmp_path / "thawed").exists()
