"""A bundle's weights as a checkpoint again: int8 weights times their scales, in fp32 safetensors.

The graph's nodes are named after the modules whose weights they hold, and its metadata hold the
model's configuration. Graphs from before that are read as BERT, the one family that was shipped.
"""

import json
import shutil
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from transformers import AutoConfig, AutoModelForQuestionAnswering, PreTrainedModel
from transformers.utils import logging as transformers_logging

from training.disk import keeping
from training.export import CONFIG, ROOT
from training.fence import draft_of, writing
from training.smooth import SMOOTHING
from worker.contracts.bundle import Bundle
from worker.contracts.errors import BundleError

Tensors = dict[str, NDArray[Any]]
_PRODUCTS = ("MatMul", "MatMulInteger", "Gemm")
#: What may stand between a product and the node that smooths its input.
_ROUNDINGS = ("DynamicQuantizeLinear", "QuantizeLinear", "DequantizeLinear")


def thaw(bundle: Bundle, folder: Path) -> Path:
    """Write config.json, model.safetensors and tokenizer.json, whole or not at all.

    Raises:
        BundleError: the graph does not show every weight of its model.
        WorldError: the disk does not take it.
    """
    graph = onnx.load(bundle.model)
    weights = read_weights(graph.graph)
    model = _build(_find_config(graph, bundle.manifest.family, weights))
    _fill(model, weights, bundle)
    draft = draft_of(folder)
    with keeping(folder):
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        save_quietly(model, draft)
        shutil.copyfile(bundle.tokenizer, draft / "tokenizer.json")
        with writing():
            shutil.rmtree(folder, ignore_errors=True)
            return draft.rename(folder)


def read_weights(graph: onnx.GraphProto) -> Tensors:
    """Return all that a graph shows of weights, by the names that its modules give them."""
    tensors = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    return _read_modules(graph, tensors) | _read_named(tensors) | _read_tables(tensors)


def _read_named(tensors: Tensors) -> Tensors:
    return {
        name.removeprefix(ROOT): value for name, value in tensors.items() if name.startswith(ROOT)
    }


def _read_tables(tensors: Tensors) -> Tensors:
    return {
        name.removeprefix(ROOT).removesuffix(".int8"): _multiply(
            value, tensors[f"{name.removesuffix('.int8')}.scale"]
        )
        for name, value in tensors.items()
        if name.endswith(".int8")
    }


def _read_modules(graph: onnx.GraphProto, tensors: Tensors) -> Tensors:
    """Read weights off the nodes that use them: equal ones share a name, products have none."""
    makers = {output: node for node in graph.node for output in node.output}
    found: Tensors = {}
    for node in graph.node:
        module = node.name.split("/")[0]
        if node.op_type in _PRODUCTS:
            weight = _read_product(node, makers, tensors)
            shares = _find_smoothing(node, makers, tensors)
            if weight is not None and shares is not None:
                weight = weight * shares[:, None]
            if weight is not None:
                found[f"{module}.weight"] = weight.T  # a graph multiplies by the transpose
        elif node.op_type == "LayerNormalization":
            found |= _take(tensors, zip(node.input[1:], ("weight", "bias"), strict=False), module)
        elif node.op_type in ("Add", "Sum", "Mul") and not node.name.endswith(SMOOTHING):
            part = "weight" if node.op_type == "Mul" else "bias"
            found |= _take(tensors, ((name, part) for name in node.input), module)
    return found


def _take(tensors: Tensors, parts: Iterable[tuple[str, str]], module: str) -> Tensors:
    return {f"{module}.{part}": tensors[name] for name, part in parts if name in tensors}


def _read_product(
    node: onnx.NodeProto, makers: dict[str, onnx.NodeProto], tensors: Tensors
) -> NDArray[Any] | None:
    """Return what a product multiplies by: fp32, dynamic int8, or static int8 behind its scales."""
    name = node.input[1]
    maker = makers.get(name)
    if maker is not None and maker.op_type == "DequantizeLinear" and maker.input[0] in tensors:
        return _multiply(tensors[maker.input[0]], tensors[maker.input[1]])
    if name not in tensors:
        return None
    if node.op_type == "MatMulInteger":
        return _multiply(tensors[name], tensors[f"{name.removesuffix('_quantized')}_scale"])
    return tensors[name]


def _find_smoothing(
    node: onnx.NodeProto, makers: dict[str, onnx.NodeProto], tensors: Tensors
) -> NDArray[Any] | None:
    """Return what a product's input was multiplied by when it was smoothed, None if it was not."""
    maker = makers.get(node.input[0])
    while maker is not None and maker.op_type in _ROUNDINGS:
        maker = makers.get(maker.input[0])
    if maker is None or not maker.name.endswith(SMOOTHING):
        return None
    return tensors[maker.input[1]]


def _multiply(values: NDArray[Any], scales: NDArray[Any]) -> NDArray[Any]:
    """Return int8 weights as numbers; they are symmetric, so that their zero is 0."""
    product: NDArray[Any] = values.astype(np.float32) * scales
    return product


def _find_config(model: onnx.ModelProto, family: str, weights: Tensors) -> dict[str, Any]:
    for note in model.metadata_props:
        if note.key == CONFIG:
            config: dict[str, Any] = json.loads(note.value)
            return config
    if family != "bert":
        raise BundleError(
            f"this bundle of the family {family} was made before graphs held their configuration:"
            " make it again from its checkpoint"
        )
    return _derive_bert(model.graph, weights)


def _derive_bert(graph: onnx.GraphProto, weights: Tensors) -> dict[str, Any]:
    vocabulary, width = weights["bert.embeddings.word_embeddings.weight"].shape
    layers = {name.split(".")[3] for name in weights if name.startswith("bert.encoder.layer.")}
    return {
        "model_type": "bert",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": len(layers),
        "num_attention_heads": _count_heads(graph, width),
        "intermediate_size": len(weights["bert.encoder.layer.0.intermediate.dense.bias"]),
        "max_position_embeddings": len(weights["bert.embeddings.position_embeddings.weight"]),
        "type_vocab_size": len(weights["bert.embeddings.token_type_embeddings.weight"]),
    }


def _count_heads(graph: onnx.GraphProto, width: int) -> int:
    """Read the number off an attention node, or off what the queries are scaled by."""
    scales = {one.name: one for one in graph.initializer}
    for node in graph.node:
        if node.op_type == "Attention":
            return int(next(one.i for one in node.attribute if one.name == "q_num_heads"))
        if node.name.endswith("attention.self/Mul") and node.input[1] in scales:
            return round(width * float(numpy_helper.to_array(scales[node.input[1]])) ** 2)
    raise BundleError("the bundle's graph shows no attention heads: make the bundle again")


def save_quietly(model: PreTrainedModel, folder: Path) -> None:
    """Save a model without transformers' progress bar."""
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model.save_pretrained(folder)
    finally:
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _build(config: dict[str, Any]) -> PreTrainedModel:
    given = dict(config)
    with torch.device("meta"):
        made: PreTrainedModel = AutoModelForQuestionAnswering.from_config(  # type: ignore[no-untyped-call]
            AutoConfig.for_model(given.pop("model_type"), **given)
        )
    return made


def _fill(model: PreTrainedModel, weights: Tensors, bundle: Bundle) -> None:
    wanted = model.state_dict()
    wrong = defaultdict(list)
    for name, tensor in wanted.items():
        if name not in weights:
            wrong["lacks"].append(name)
        elif weights[name].shape != tuple(tensor.shape):
            wrong["has another shape of"].append(name)
    for what, names in wrong.items():
        raise BundleError(
            f"the graph of {bundle.folder} {what} the weights {', '.join(names[:3])}, so they"
            " cannot be thawed: make the bundle again from its checkpoint"
        )
    model.load_state_dict(
        {name: torch.from_numpy(np.array(weights[name], np.float32, order="C")) for name in wanted},
        assign=True,
    )
