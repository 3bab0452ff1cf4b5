"""Quantization: int8 where it may be, fp32 where it must be, and a gate that finds out."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import numpy_helper

from tests.tiny import PASSAGES, QUESTIONS, SIZES, Tiny, make_tokenizer
from training import quantize as module
from training.quantize import (
    Mode,
    find_products,
    find_tables,
    measure_harm,
    quantize,
    quantize_gated,
    quantize_rows,
    rank_harm,
)
from training.smooth import smooth
from worker.contracts.errors import JobError
from worker.contracts.family import FAMILIES
from worker.reading.reader import pad_windows
from worker.reading.windows import Encoder, Window
from worker.session import OnnxScorer

modes = pytest.mark.parametrize("mode", list(Mode))


@pytest.fixture(autouse=True)
def small_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny models have tiny tables."""
    monkeypatch.setattr(module, "TABLE_ROWS", 100)


@pytest.fixture(scope="module")
def graph(tiny: Tiny) -> Path:
    return tiny.bundle("bert") / "model.onnx"


@pytest.fixture(scope="module")
def windows() -> list[Window]:
    encoder = Encoder(make_tokenizer("bert"), FAMILIES["bert"], SIZES)
    return [
        window
        for question, context in zip(QUESTIONS, PASSAGES, strict=True)
        for window in encoder.encode(question, encoder.tokenize_passage(context)).windows
    ]


@modes
def test_int8_logits_stay_near_fp32(
    mode: Mode, graph: Path, windows: list[Window], tmp_path: Path
) -> None:
    out = tmp_path / "int8.onnx"
    quantize(graph, out, mode, windows)
    expected = _logits(graph, windows)
    difference = np.abs(_logits(out, windows) - expected).max()
    assert 0 < difference < 0.3 * expected.std()
    assert out.stat().st_size < 0.6 * graph.stat().st_size


@modes
def test_every_weight_and_table_is_signed_int8_and_no_range_is_reduced(
    mode: Mode, graph: Path, windows: list[Window], tmp_path: Path
) -> None:
    quantize(graph, tmp_path / "int8.onnx", mode, windows)
    tensors = onnx.load(tmp_path / "int8.onnx").graph.initializer
    matrices = [one for one in tensors if len(one.dims) == 2 and min(one.dims) > 1]
    kinds = {one.data_type for one in matrices if one.dims[0] > 2}
    assert kinds == {onnx.TensorProto.INT8}
    weights = [numpy_helper.to_array(one) for one in matrices if one.dims[0] > 2]
    assert all(np.abs(one.astype(int)).max() == 127 for one in weights)


@modes
def test_weights_have_a_scale_a_channel(
    mode: Mode, graph: Path, windows: list[Window], tmp_path: Path
) -> None:
    quantize(graph, tmp_path / "int8.onnx", mode, windows)
    tensors = {one.name: one for one in onnx.load(tmp_path / "int8.onnx").graph.initializer}
    products = [name for name in tensors if name.endswith("_quantized")]
    assert products
    for name in products:
        scale = tensors[name.removesuffix("_quantized") + "_scale"]
        assert list(scale.dims) == [tensors[name].dims[1]]


def test_static_activations_are_unsigned(
    graph: Path, windows: list[Window], tmp_path: Path
) -> None:
    quantize(graph, tmp_path / "int8.onnx", Mode.STATIC, windows)
    model = onnx.load(tmp_path / "int8.onnx")
    kinds = {one.name: one.data_type for one in model.graph.initializer}
    points = {kinds[node.input[2]] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    assert points == {onnx.TensorProto.UINT8}


@modes
def test_what_is_kept_stays_as_it_was(
    mode: Mode, graph: Path, windows: list[Window], tmp_path: Path
) -> None:
    model = onnx.load(graph)
    kept = [find_tables(model)[0], find_products(model)[3]]
    quantize(graph, tmp_path / "int8.onnx", mode, windows, kept)
    before = {node.name: node for node in model.graph.node}
    after = {node.name: node for node in onnx.load(tmp_path / "int8.onnx").graph.node}
    for name in kept:
        assert after[name].op_type == before[name].op_type
        assert after[name].input == before[name].input


def test_attention_multiplies_in_fp32(graph: Path) -> None:
    names = find_products(onnx.load(graph))
    assert len(names) == 2 * 6 + 1
    assert not any(name.endswith("self/MatMul") for name in names)


@modes
def test_with_everything_kept_the_graph_is_the_old_one(
    mode: Mode, graph: Path, windows: list[Window], tmp_path: Path
) -> None:
    model = onnx.load(graph)
    every = [*find_tables(model), *find_products(model)]
    quantize(graph, tmp_path / "same.onnx", mode, windows, every)
    assert np.array_equal(_logits(tmp_path / "same.onnx", windows), _logits(graph, windows))


def test_the_gate_puts_back_the_most_harmful_nodes_and_no_more(
    graph: Path, windows: list[Window], tmp_path: Path
) -> None:
    spoilt = tmp_path / "spoilt.onnx"
    victim = _spoil(graph, spoilt)
    expected = _logits(spoilt, windows)
    seen: list[float] = []

    def score(path: Path) -> float:
        seen.append(100.0 - 10.0 * float(np.abs(_logits(path, windows) - expected).max()))
        return seen[-1]

    gated = quantize_gated(spoilt, tmp_path / "int8.onnx", Mode.DYNAMIC, windows, score)
    assert gated.kept[0] == victim
    smooth(spoilt, tmp_path / "smoothed.onnx", windows)
    ranked = rank_harm(tmp_path / "smoothed.onnx", Mode.DYNAMIC, windows)
    assert list(gated.kept) == ranked[: len(gated.kept)]
    assert seen[0] == gated.fp32_f1 == 100.0
    assert seen[-1] == gated.int8_f1 >= 99.5
    assert all(one < 99.5 for one in seen[1:-1])


def test_a_graph_that_loses_little_is_quantized_whole(
    graph: Path, windows: list[Window], tmp_path: Path
) -> None:
    scores = iter([80.0, 79.5])
    out = tmp_path / "int8.onnx"
    gated = quantize_gated(graph, out, Mode.DYNAMIC, windows, lambda _: next(scores))
    assert (gated.kept, gated.fp32_f1, gated.int8_f1) == ((), 80.0, 79.5)


def test_a_loss_that_no_node_explains_is_an_error(
    graph: Path, windows: list[Window], tmp_path: Path
) -> None:
    def score(path: Path) -> float:
        return 80.0 if path == graph else 70.0

    with pytest.raises(JobError, match=r"10\.00 F1"):
        quantize_gated(graph, tmp_path / "int8.onnx", Mode.DYNAMIC, windows[:1], score)


def test_harm_is_largest_where_the_weights_have_outliers(
    graph: Path, windows: list[Window], tmp_path: Path
) -> None:
    victim = _spoil(graph, tmp_path / "spoilt.onnx")
    harm = measure_harm(tmp_path / "spoilt.onnx", Mode.DYNAMIC, windows)
    assert max(harm, key=lambda name: harm[name]) == victim
    assert harm[victim] > 2 * measure_harm(graph, Mode.DYNAMIC, windows)[victim]


@given(
    arrays(
        np.float32,
        st.tuples(st.integers(1, 6), st.integers(1, 8)),
        elements=st.floats(-1000, 1000, width=32),
    )
)
def test_a_row_loses_at_most_half_a_step(table: np.ndarray) -> None:
    values, scales = quantize_rows(table)
    assert values.dtype == np.int8
    assert scales.shape == (len(table), 1)
    assert (np.abs(values * scales - table) <= 0.5001 * scales).all()


def test_a_mask_does_not_widen_the_ranges_of_a_static_mobilebert(
    tiny: Tiny, tmp_path: Path
) -> None:
    encoder = Encoder(make_tokenizer("mobilebert"), FAMILIES["mobilebert"], SIZES)
    windows = [
        window
        for question in QUESTIONS
        for context in PASSAGES
        for window in encoder.encode(question, encoder.tokenize_passage(context)).windows
    ]
    masked, plain = (tiny.bundle("mobilebert", mask=mask) / "model.onnx" for mask in (True, False))
    for graph in (masked, plain):
        quantize(graph, tmp_path / graph.parent.name, Mode.STATIC, windows)
    found, without = (tmp_path / graph.parent.name for graph in (masked, plain))
    assert _widest_step(found) == pytest.approx(_widest_step(without), rel=1e-4)
    assert np.allclose(_logits(found, windows), _logits(without, windows), atol=1e-3)
    expected = _logits(masked, windows)
    assert np.sqrt(np.square(_logits(found, windows) - expected).mean()) < 0.15 * expected.std()
    alone = OnnxScorer(found).score(pad_windows(windows[:1], encoder.pad))[0][0]
    padded = OnnxScorer(found).score(pad_windows([*windows[:1], _lengthen(windows[0])], 0))[0][0]
    assert np.allclose(padded[: len(alone)], alone, atol=1e-3)


def _widest_step(graph: Path) -> float:
    """Return the largest scale: a masked score that got into a range would make it huge."""
    tensors = onnx.load(graph).graph.initializer
    return max(
        float(numpy_helper.to_array(one).max()) for one in tensors if one.name.endswith("_scale")
    )


def _lengthen(window: Window) -> Window:
    return replace(
        window,
        input_ids=np.concatenate([window.input_ids, window.input_ids]),
        token_type_ids=np.concatenate([window.token_type_ids, window.token_type_ids]),
    )


def _spoil(graph: Path, out: Path) -> str:
    """Let one input of a layer be so loud that its weights' other rows have no bits left."""
    model = onnx.load(graph)
    (victim,) = [
        node for node in model.graph.node if node.name == "bert.encoder.layer.0.output.dense/MatMul"
    ]
    (weight,) = [one for one in model.graph.initializer if one.name == victim.input[1]]
    values = numpy_helper.to_array(weight).copy()
    values[3] *= 30
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(model, out)
    return victim.name


def _logits(graph: Path, windows: Sequence[Window]) -> np.ndarray:
    scorer = OnnxScorer(graph)
    scored = [np.concatenate(scorer.score(pad_windows([one], pad=0)), axis=1) for one in windows]
    return np.concatenate(scored, axis=1)
