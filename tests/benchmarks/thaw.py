"""A bundle's own weights as an fp32 checkpoint, so that every contender reads with the same ones.

Int8 weights are multiplied by their scales again; the graph's nodes are named after the modules
whose weights they hold. For the BERT family, whose checkpoints all peers know.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from safetensors.numpy import save_file

from worker.contracts.bundle import Bundle

_ROOT = "_model."


def thaw(bundle: Bundle, folder: Path) -> Path:
    """Write config.json, model.safetensors and tokenizer.json; return the folder."""
    graph = onnx.load(bundle.model).graph
    tensors = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
    weights = _read_plain(tensors) | _read_tables(tensors) | _read_products(graph, tensors)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: np.ascontiguousarray(value, np.float32) for name, value in weights.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    config = _describe(weights, _count_heads(graph, tensors))
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_bytes(bundle.tokenizer.read_bytes())
    return folder


Tensors = dict[str, Any]


def _read_plain(tensors: Tensors) -> Tensors:
    """Biases, layer norms, and tables that were not quantized."""
    return {
        name.removeprefix(_ROOT): value
        for name, value in tensors.items()
        if name.startswith(_ROOT) and name.endswith((".weight", ".bias"))
    }


def _read_tables(tensors: Tensors) -> Tensors:
    return {
        name.removeprefix(_ROOT).removesuffix(".int8"): value * tensors[_scale(name)]
        for name, value in tensors.items()
        if name.endswith(".int8")
    }


def _scale(name: str) -> str:
    return name.removesuffix(".int8") + ".scale"


def _read_products(graph: onnx.GraphProto, tensors: Tensors) -> Tensors:
    """Weights of linear modules; ONNX multiplies by their transposes."""
    found: Tensors = {}
    for node in graph.node:
        if node.op_type not in ("MatMul", "MatMulInteger") or node.input[1] not in tensors:
            continue
        weight = tensors[node.input[1]]
        if node.op_type == "MatMulInteger":
            weight = weight * tensors[node.input[1].removesuffix("_quantized") + "_scale"]
        found[node.name.split("/")[0] + ".weight"] = weight.T
    return found


def _count_heads(graph: onnx.GraphProto, tensors: Tensors) -> int:
    """Read the number off an attention node, or off what the queries are scaled by."""
    for node in graph.node:
        if node.op_type == "Attention":
            return int(next(one.i for one in node.attribute if one.name == "q_num_heads"))
        if node.op_type == "Mul" and node.name.endswith("layer.0.attention.self/Mul"):
            scale = float(tensors[node.input[1]])
            width = tensors["_model.bert.embeddings.LayerNorm.weight"].shape[0]
            return round(float(width) * scale**2)
    raise SystemExit("the bundle's graph shows no attention heads: give --checkpoint")


def _describe(weights: Tensors, heads: int) -> dict[str, object]:
    vocabulary, width = weights["bert.embeddings.word_embeddings.weight"].shape
    layers = {name.split(".")[3] for name in weights if name.startswith("bert.encoder.layer.")}
    return {
        "architectures": ["BertForQuestionAnswering"],
        "model_type": "bert",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": len(layers),
        "num_attention_heads": heads,
        "intermediate_size": len(weights["bert.encoder.layer.0.intermediate.dense.bias"]),
        "max_position_embeddings": len(weights["bert.embeddings.position_embeddings.weight"]),
        "type_vocab_size": len(weights["bert.embeddings.token_type_embeddings.weight"]),
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
    }
