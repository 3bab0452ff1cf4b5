"""Export: what is refused, and what is in the graph."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from tests.tiny import PASSAGES, QUESTIONS, SIZES, Tiny, copy_headless, make_tokenizer
from training.export import MASKED, check_parity, open_checkpoint, tidy
from worker.contracts.errors import JobError, UsageError
from worker.contracts.family import WindowSizes
from worker.reading.reader import ForwardBatch
from worker.session import OnnxScorer


@pytest.fixture
def checkpoint(tiny: Tiny, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny.checkpoint("bert"), tmp_path / "reader"))


def test_a_pickled_checkpoint_is_refused_unopened(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "pytorch_model.bin").write_bytes(b"not even a pickle")
    with pytest.raises(UsageError, match="safetensors"):
        open_checkpoint(str(checkpoint), SIZES)


def test_a_checkpoint_of_another_family_is_refused(checkpoint: Path) -> None:
    _change_config(checkpoint, model_type="gpt2")
    with pytest.raises(UsageError, match="gpt2"):
        open_checkpoint(str(checkpoint), SIZES)


def test_a_checkpoint_without_a_head_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    encoder = copy_headless(checkpoint, tmp_path / "encoder")
    with pytest.raises(UsageError, match="fine-tune it first"):
        open_checkpoint(str(encoder), SIZES)


def test_damaged_weights_are_refused(checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UsageError, match="cannot be loaded"):
        open_checkpoint(str(checkpoint), SIZES)


def test_windows_longer_than_the_positions_are_refused(checkpoint: Path) -> None:
    with pytest.raises(UsageError, match="reads 512 tokens"):
        open_checkpoint(str(checkpoint), WindowSizes(max_window_tokens=513))


def test_positions_of_roberta_begin_after_its_padding(tiny: Tiny) -> None:
    folder = str(tiny.checkpoint("roberta"))
    open_checkpoint(folder, WindowSizes(max_window_tokens=512))
    with pytest.raises(UsageError, match="reads 512 tokens"):
        open_checkpoint(folder, WindowSizes(max_window_tokens=513))


def test_a_tokenizer_larger_than_the_model_is_refused(checkpoint: Path) -> None:
    tokenizer = make_tokenizer("bert")
    tokenizer.add_tokens(["overflowing"])
    tokenizer.save(str(checkpoint / "tokenizer.json"))
    with pytest.raises(UsageError, match="tokenizer"):
        open_checkpoint(str(checkpoint), SIZES)


def test_a_changed_graph_does_not_pass_for_the_checkpoint(tiny: Tiny, tmp_path: Path) -> None:
    opened = open_checkpoint(str(tiny.checkpoint("bert")), SIZES)
    encoder = opened.encoder
    windows = encoder.encode(QUESTIONS[0], encoder.tokenize_passage(PASSAGES[0])).windows
    good = tiny.bundle("bert") / "model.onnx"
    assert check_parity(opened, good, windows) < 1e-4
    model = onnx.load(good)
    bias = next(one for one in model.graph.initializer if one.name.endswith("qa_outputs.bias"))
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + 0.01, bias.name))
    onnx.save(model, tmp_path / "changed.onnx")
    with pytest.raises(JobError, match=r"differs from torch's by 0\.01"):
        check_parity(opened, tmp_path / "changed.onnx", windows)


@pytest.mark.parametrize("family", ["bert", "mobilebert", "roberta"])
def test_a_graph_whose_mask_hides_nothing_does_not_pass_for_the_checkpoint(
    family: str, tiny: Tiny, tmp_path: Path
) -> None:
    opened = open_checkpoint(str(tiny.checkpoint(family)), SIZES)
    encoder = opened.encoder
    windows = [
        encoder.encode(question, encoder.tokenize_passage(passage)).windows[0]
        for question, passage in zip(QUESTIONS, PASSAGES, strict=True)
    ]
    assert len({len(window) for window in windows}) > 1
    good = tiny.bundle(family, mask=True) / "model.onnx"
    assert check_parity(opened, good, windows) < 1e-4
    model = onnx.load(good)
    (hides,) = [one for one in _tensors(model) if np.all(numpy_helper.to_array(one) == MASKED)]
    hides.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(hides) * 0, hides.name))
    onnx.save(model, tmp_path / "unmasked.onnx")
    with pytest.raises(JobError, match="differs from torch's"):
        check_parity(opened, tmp_path / "unmasked.onnx", windows)


def test_a_graph_takes_any_number_of_windows_and_tokens(tiny: Tiny) -> None:
    scorer = OnnxScorer(tiny.bundle("bert") / "model.onnx")
    for shape in ((1, 3), (3, 50), (2, 384)):
        ids = np.ones(shape, dtype=np.int64)
        starts, ends = scorer.score(ForwardBatch(ids, ids, ids))
        assert starts.shape == ends.shape == shape


def test_a_graph_tells_nothing_of_the_machine_it_was_made_on(tiny: Tiny) -> None:
    raw = (tiny.bundle("bert") / "model.onnx").read_bytes()
    for trace in (b"site-packages", b"stack_trace", str(Path.home()).encode() + b"/"):
        assert trace not in raw


@pytest.mark.parametrize("family", ["bert", "distilbert", "mobilebert", "roberta"])
def test_no_number_of_a_masked_graph_is_beyond_what_masks(family: str, tiny: Tiny) -> None:
    model = onnx.load(tiny.bundle(family, mask=True) / "model.onnx")
    floats = [numpy_helper.to_array(one) for one in _tensors(model) if one.data_type == one.FLOAT]
    assert max(float(np.abs(one).max()) for one in floats if one.size) == -MASKED


def test_no_layer_norm_is_fused_with_the_sum_before_it(tiny: Tiny, tmp_path: Path) -> None:
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    model = tiny.bundle("bert") / "model.onnx"
    ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert "SkipLayerNormalization" not in kinds
    assert kinds.count("LayerNormalization") == 5
    assert {"BiasGelu", "Attention"} <= set(kinds)


def test_nodes_are_named_after_their_modules_each_once(tiny: Tiny) -> None:
    model = onnx.load(tiny.bundle("bert") / "model.onnx")
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert "bert.encoder.layer.1.attention.self.query/MatMul" in names
    assert [node.name for node in tidy(model).graph.node] != []


def _tensors(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    constants = (one.t for node in model.graph.node for one in node.attribute if one.HasField("t"))
    return [one for one in [*model.graph.initializer, *constants] if 0 not in one.dims]


def _change_config(folder: Path, **values: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
