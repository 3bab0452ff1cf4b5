"""Smoothing: the same logits, and an int8 graph that stays nearer to them where channels differ."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.tiny import PASSAGES, QUESTIONS, SIZES, Tiny, make_tokenizer
from training.quantize import Mode, quantize
from training.smooth import SMOOTHING, smooth
from worker.contracts.family import FAMILIES
from worker.reading.reader import pad_windows
from worker.reading.windows import Encoder, Window
from worker.session import OnnxScorer


def _cut(family: str) -> list[Window]:
    encoder = Encoder(make_tokenizer(family), FAMILIES[family], SIZES)
    return [
        window
        for question, context in zip(QUESTIONS, PASSAGES, strict=True)
        for window in encoder.encode(question, encoder.tokenize_passage(context)).windows
    ]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_smoothed_graph_gives_the_same_logits(family: str, tiny: Tiny, tmp_path: Path) -> None:
    graph, windows = tiny.bundle(family) / "model.onnx", _cut(family)
    smooth(graph, tmp_path / "smoothed.onnx", windows)
    nodes = onnx.load(tmp_path / "smoothed.onnx").graph.node
    assert any(node.name.endswith(SMOOTHING) for node in nodes)
    expected = _logits(graph, windows)
    assert np.abs(_logits(tmp_path / "smoothed.onnx", windows) - expected).max() < 1e-4


@pytest.mark.parametrize("mode", list(Mode))
def test_int8_loses_less_where_a_channel_is_much_larger(
    mode: Mode, tiny: Tiny, tmp_path: Path
) -> None:
    windows = _cut("bert")
    graph = tmp_path / "graph.onnx"
    _enlarge_a_channel(tiny.bundle("bert") / "model.onnx", graph)
    smooth(graph, tmp_path / "smoothed.onnx", windows)
    expected = _logits(graph, windows)
    lost = []
    for source in (graph, tmp_path / "smoothed.onnx"):
        quantize(source, tmp_path / "int8.onnx", mode, windows)
        lost.append(np.square(_logits(tmp_path / "int8.onnx", windows) - expected).mean())
    assert lost[1] < lost[0] / 4


def _enlarge_a_channel(graph: Path, out: Path) -> None:
    """Let a value that an output layer is given be large, and matter no more than before."""
    model = onnx.load(graph)
    tensors = {one.name: one for one in model.graph.initializer}
    nodes = {node.name: node for node in model.graph.node}
    product = nodes["bert.encoder.layer.0.output.dense/MatMul"]
    weight = numpy_helper.to_array(tensors[product.input[1]]).copy()
    shares = np.ones(len(weight), np.float32)
    shares[3] = 200.0
    weight /= shares[:, None]
    given = product.input[0]
    model.graph.initializer.append(numpy_helper.from_array(shares, "shares"))
    model.graph.initializer.append(numpy_helper.from_array(weight, "lessened"))
    enlarged = onnx.helper.make_node("Mul", [given, "shares"], ["enlarged"], "enlarge")
    place = next(at for at, node in enumerate(model.graph.node) if node.name == product.name)
    product.input[0], product.input[1] = "enlarged", "lessened"
    model.graph.node.insert(place, enlarged)
    onnx.save(model, out)


def _logits(graph: Path, windows: list[Window]) -> np.ndarray:
    scorer = OnnxScorer(graph)
    return np.concatenate(
        [np.concatenate(scorer.score(pad_windows([window], pad=0))).ravel() for window in windows]
    )
