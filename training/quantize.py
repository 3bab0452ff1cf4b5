"""An fp32 graph to int8, dynamic or static, behind a gate that puts harmful nodes back to fp32.

Activations are unsigned and weights signed, the one pairing with fast x86 kernels; weights have a
scale a channel. Embedding tables have a scale a row, which is kept apart and gathered with it.
"""

import logging
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from training.fence import heed
from training.smooth import smooth
from worker.contracts.errors import JobError
from worker.reading.reader import pad_windows
from worker.reading.windows import Window
from worker.session import OnnxScorer

#: How much F1 int8 may cost, in points.
ALLOWED_LOSS = 0.5
#: A table with fewer rows is not worth the operators that read it.
TABLE_ROWS = 2_048
#: What a node that multiplies by a weight is called.
_PRODUCTS = ("MatMul", "Gemm")


class Mode(StrEnum):
    """When activations get their scales: at each run, or once from calibration windows."""

    DYNAMIC = "dynamic"
    STATIC = "static"


@dataclass(frozen=True, slots=True)
class Gated:
    """A quantized graph that passed the gate.

    ``kept`` are the nodes left in fp32, the most harmful first; F1 in percent.
    """

    mode: Mode
    kept: tuple[str, ...]
    fp32_f1: float
    int8_f1: float


def quantize_gated(
    graph: Path,
    out: Path,
    mode: Mode,
    windows: Sequence[Window],
    score: Callable[[Path], float],
) -> Gated:
    """Smooth and quantize; while F1 falls too far, put the node back that harms the logits most.

    ``score`` gives a graph's F1 in percent on held-out rows; ``windows`` show what products are
    given, calibrate a static graph and measure harm.

    Raises:
        JobError: even with every node back the loss is too large, so something else is wrong.
    """
    fp32_f1 = score(graph)
    kept: list[str] = []
    ranked: list[str] | None = None
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        smoothed = Path(folder) / "smoothed.onnx"
        smooth(graph, smoothed, windows)
        while True:
            quantize(smoothed, out, mode, windows, kept)
            int8_f1 = score(out)
            if int8_f1 >= fp32_f1 - ALLOWED_LOSS:
                return Gated(mode, tuple(kept), fp32_f1, int8_f1)
            if ranked is None:
                ranked = rank_harm(smoothed, mode, windows)
            if len(kept) == len(ranked):
                raise JobError(
                    f"the graph loses {fp32_f1 - int8_f1:.2f} F1 with no node quantized: the"
                    " held-out rows are read differently each time, report it"
                )
            kept = ranked[: len(kept) + 1]


def quantize(
    graph: Path, out: Path, mode: Mode, windows: Sequence[Window], kept: Collection[str] = ()
) -> None:
    """Write the int8 graph, the nodes of ``kept`` in fp32.

    Raises:
        StoppedError: the process is to stop.
    """
    heed()
    model = onnx.load(graph)
    tables = [node for node in find_tables(model) if node not in kept]
    products = [node for node in find_products(model) if node not in kept]
    quantize_tables(model, tables)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder, _quiet():
        draft = Path(folder) / "tables.onnx"
        onnx.save(model, draft)
        if products and mode is Mode.DYNAMIC:
            _quantize_dynamic(draft, out, products)
        elif products:
            _quantize_static(draft, out, products, windows)
        else:
            draft.replace(out)


def rank_harm(graph: Path, mode: Mode, windows: Sequence[Window]) -> list[str]:
    """Return the nodes, the most harmful first: how far logits move when it alone is int8."""
    harm = measure_harm(graph, mode, windows)
    return sorted(harm, key=lambda name: -harm[name])


def measure_harm(graph: Path, mode: Mode, windows: Sequence[Window]) -> dict[str, float]:
    """Return for each node the root mean square difference of logits when it alone is int8."""
    model = onnx.load(graph)
    names = [*find_tables(model), *find_products(model)]
    expected = list(_logits(graph, windows))
    harm = {}
    with tempfile.TemporaryDirectory(dir=graph.parent) as folder:
        alone = Path(folder) / "alone.onnx"
        for name in names:
            quantize(graph, alone, mode, windows, [other for other in names if other != name])
            squares = [
                np.square(found - right).mean()
                for found, right in zip(_logits(alone, windows), expected, strict=True)
            ]
            harm[name] = float(np.sqrt(np.mean(squares)))
    return harm


def find_products(model: onnx.ModelProto) -> list[str]:
    """Return the names of the nodes that multiply by a weight; attention's own products do not."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return [
        node.name
        for node in model.graph.node
        if node.op_type in _PRODUCTS and node.input[1] in weights
    ]


def find_tables(model: onnx.ModelProto) -> list[str]:
    """Return the names of the nodes that look up a large fp32 table."""
    rows = {
        tensor.name: tensor.dims[0]
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 2
    }
    return [
        node.name
        for node in model.graph.node
        if node.op_type == "Gather" and rows.get(node.input[0], 0) >= TABLE_ROWS
    ]


def quantize_tables(model: onnx.ModelProto, names: Collection[str]) -> None:
    """Replace tables by int8 ones with a scale a row; the nodes' outputs keep their names."""
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = list(model.graph.node)
    for place, node in [(nodes.index(node), node) for node in nodes if node.name in names][::-1]:
        table = initializers[node.input[0]]
        values, scales = quantize_rows(numpy_helper.to_array(table))
        name = table.name
        model.graph.initializer.remove(table)
        model.graph.initializer.extend(
            [
                numpy_helper.from_array(values, f"{name}.int8"),
                numpy_helper.from_array(scales, f"{name}.scale"),
            ]
        )
        rows, floats, scale = (f"{name}.{part}" for part in ("rows", "floats", "row_scales"))
        nodes[place : place + 1] = [
            helper.make_node("Gather", [f"{name}.int8", node.input[1]], [rows], node.name),
            helper.make_node("Cast", [rows], [floats], f"{node.name}.cast", to=1),
            helper.make_node(
                "Gather", [f"{name}.scale", node.input[1]], [scale], f"{node.name}.scales"
            ),
            helper.make_node("Mul", [floats, scale], [node.output[0]], f"{node.name}.scale"),
        ]
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)


def quantize_rows(table: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return int8 rows and their scales. Shapes: ``(rows, width)`` and ``(rows, 1)``.

    A row of numbers too small for a scale of full precision becomes zeros.
    """
    scales = np.abs(table).max(axis=1, keepdims=True) / np.float32(127.0)
    scales = np.where(scales < np.finfo(np.float32).tiny, np.float32(1.0), scales)
    return np.round(table / scales).astype(np.int8), scales


def _quantize_dynamic(graph: Path, out: Path, products: Sequence[str]) -> None:
    quantize_dynamic(
        graph,
        out,
        nodes_to_quantize=list(products),
        op_types_to_quantize=list(_PRODUCTS),
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=False,
    )


def _quantize_static(
    graph: Path, out: Path, products: Sequence[str], windows: Sequence[Window]
) -> None:
    quantize_static(
        graph,
        out,
        _Windows(graph, windows),
        quant_format=QuantFormat.QDQ,
        nodes_to_quantize=list(products),
        op_types_to_quantize=list(_PRODUCTS),
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
        per_channel=True,
        reduce_range=False,
        extra_options={
            "CalibMovingAverage": True,
            # What leaves a product stays in fp32, as the layer norms and sums that take it want it.
            "OpTypesToExcludeOutputQuantization": list(_PRODUCTS),
        },
    )


class _Windows(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime has no types
    """Windows one by one, at their real lengths, fed by the graph's input names."""

    def __init__(self, graph: Path, windows: Sequence[Window]) -> None:
        self._names = [one.name for one in onnx.load(graph, load_external_data=False).graph.input]
        self._windows = iter(windows)

    def get_next(self) -> dict[str, Any] | None:
        window = next(self._windows, None)
        if window is None:
            return None
        batch = pad_windows([window], pad=0)
        return {name: getattr(batch, name) for name in self._names}


def _logits(graph: Path, windows: Sequence[Window]) -> Iterator[NDArray[np.float32]]:
    scorer = OnnxScorer(graph)
    for window in windows:
        yield np.concatenate(scorer.score(pad_windows([window], pad=0)))


@contextmanager
def _quiet() -> Iterator[None]:
    """Drop the quantizer's advice to preprocess: it goes to the root logger, and is not meant."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
