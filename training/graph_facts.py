"""What a graph tells of its model: how many parameters, how many layers."""

import re
from pathlib import Path

import numpy as np
import onnx

#: What quantizing adds to a weight; it is no parameter.
_ADDED = re.compile(r"(?:_scale|_zero_point|\.scale|\.smooth)$")
_WEIGHTS = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.INT8,
    onnx.TensorProto.UINT8,
)
#: Exported nodes are named after the modules that they come from.
_LAYER = re.compile(r"\blayer\.(\d+)\.")


def count_parameters(path: Path) -> int:
    """Return how many numbers of the graph were learned; single numbers are constants."""
    return sum(
        int(np.prod(tensor.dims))
        for tensor in onnx.load(path).graph.initializer
        if tensor.data_type in _WEIGHTS and tensor.dims and not _ADDED.search(tensor.name)
    )


def count_layers(path: Path) -> int | None:
    """Return how many layers its nodes name, None where they name none."""
    nodes = onnx.load(path, load_external_data=False).graph.node
    numbers = [int(found[1]) for node in nodes if (found := _LAYER.search(node.name))]
    return max(numbers) + 1 if numbers else None
