"""A graph's parameters and layers, as its checkpoint has them, quantized or not."""

from pathlib import Path

import onnx
import pytest
from safetensors.numpy import load_file

from tests.tiny import PASSAGES, QUESTIONS, SIZES, Tiny, make_tokenizer
from training import quantize as module
from training.graph_facts import count_layers, count_parameters
from training.quantize import Mode, quantize
from worker.contracts.family import FAMILIES
from worker.reading.windows import Encoder

families = pytest.mark.parametrize("family", ["bert", "distilbert", "mobilebert", "roberta"])


@families
def test_a_graph_has_the_parameters_of_its_checkpoint(family: str, tiny: Tiny) -> None:
    weights = load_file(tiny.checkpoint(family) / "model.safetensors")
    kept = [one for name, one in weights.items() if not _is_left_out(name)]
    # What training has not told apart yet, like zero biases, the exporter keeps once.
    learned = sum({(one.shape, one.tobytes()): one.size for one in kept}.values())
    assert count_parameters(tiny.bundle(family) / "model.onnx") == learned


@families
def test_a_graph_has_the_layers_of_its_checkpoint(family: str, tiny: Tiny) -> None:
    assert count_layers(tiny.bundle(family) / "model.onnx") == 2


@pytest.mark.parametrize("mode", list(Mode))
def test_quantizing_adds_no_parameter_and_loses_no_layer(
    mode: Mode, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TABLE_ROWS", 100)
    graph = tiny.bundle("bert") / "model.onnx"
    encoder = Encoder(make_tokenizer("bert"), FAMILIES["bert"], SIZES)
    windows = encoder.encode(QUESTIONS[0], encoder.tokenize_passage(PASSAGES[0])).windows
    quantize(graph, tmp_path / "int8.onnx", mode, windows)
    assert count_parameters(tmp_path / "int8.onnx") == count_parameters(graph)
    assert count_layers(tmp_path / "int8.onnx") == 2


def test_a_graph_that_names_no_layers_has_an_unknown_number(tiny: Tiny, tmp_path: Path) -> None:
    model = onnx.load(tiny.bundle("bert") / "model.onnx")
    for number, node in enumerate(model.graph.node):
        node.name = f"node{number}"
    onnx.save(model, tmp_path / "plain.onnx")
    assert count_layers(tmp_path / "plain.onnx") is None


def _is_left_out(name: str) -> bool:
    return "pooler" in name or name.endswith("position_ids")
