"""Evens out what a graph's products are given, so that int8 loses less; its outputs stay."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from worker.reading.reader import pad_windows
from worker.reading.windows import Window

#: How much of a channel's size moves from activations to weights (the source's alpha).
SHARE = 0.8
#: A channel that is hardly ever used counts as this part of the largest one: it may be used later.
FLOOR = 0.01
#: What the node that divides is called, after its first product's module.
SMOOTHING = "/Smooth"


def smooth(graph: Path, out: Path, windows: Sequence[Window]) -> None:
    """Divide each product's input, channel by channel, and multiply its weights by the same.

    One scale serves all of an activation, so a few large channels leave the others few steps; of
    weights each column has its own. ``windows`` show how large the channels are. Source: Xiao et
    al. 2023, "SmoothQuant", equation 4. Here a node of the graph divides: a model that normalizes
    after its sums uses what goes into a product elsewhere too, so no earlier weight can.
    """
    model = onnx.load(graph)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    products = defaultdict(list)
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in tensors:
            products[node.input[0]].append(node)
    peaks = measure_peaks(model, list(products), windows)
    for name, nodes in products.items():
        weights = [numpy_helper.to_array(tensors[node.input[1]]) for node in nodes]
        factors = _choose_factors(peaks[name], weights)
        _divide(model, nodes, factors)
        for node, weight in zip(nodes, weights, strict=True):
            node.input[1] = f"{node.name}.smoothed"
            scaled = numpy_helper.from_array(weight * factors[:, None], node.input[1])
            model.graph.initializer.append(scaled)
    _drop_unused(model)
    onnx.save(model, out)


def measure_peaks(
    model: onnx.ModelProto, names: Sequence[str], windows: Sequence[Window]
) -> dict[str, NDArray[np.float32]]:
    """Return the largest magnitude of each channel; shapes ``(channels,)``."""
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    for name in names:
        probe.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = ort.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
    inputs = [one.name for one in session.get_inputs()]
    peaks: dict[str, NDArray[np.float32]] = {}
    for window in windows:
        batch = pad_windows([window], pad=0)
        found = session.run(list(names), {name: getattr(batch, name) for name in inputs})
        for name, values in zip(names, found, strict=True):
            most = np.abs(values).reshape(-1, values.shape[-1]).max(axis=0)
            peaks[name] = np.maximum(peaks.get(name, most), most)
    return peaks


def _choose_factors(
    peaks: NDArray[np.float32], weights: Sequence[NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Return what each channel is divided by; their geometric mean is 1."""
    sizes = np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0)
    active, weighty = (np.maximum(one, FLOOR * one.max() + 1e-30) for one in (peaks, sizes))
    logs = SHARE * np.log(active) - (1.0 - SHARE) * np.log(weighty)
    factors: NDArray[np.float32] = np.exp(logs - logs.mean()).astype(np.float32)
    return factors


def _divide(
    model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], factors: NDArray[np.float32]
) -> None:
    """Put a node before the first of these, which divides what all of them are given."""
    given = nodes[0].input[0]
    name = f"{nodes[0].name.split('/')[0]}{SMOOTHING}"
    shares = f"{name}.smooth"
    model.graph.initializer.append(numpy_helper.from_array(1.0 / factors, shares))
    place = next(at for at, node in enumerate(model.graph.node) if node.name == nodes[0].name)
    divided = f"{name}.divided"
    for node in nodes:
        node.input[0] = divided
    model.graph.node.insert(place, helper.make_node("Mul", [given, shares], [divided], name))


def _drop_unused(model: onnx.ModelProto) -> None:
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    model.graph.ClearField("initializer")
    model.graph.initializer.extend(kept)
