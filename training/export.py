"""A checkpoint to an fp32 ONNX graph that gives the same logits, proven on windows."""

import contextlib
import inspect
import json
import logging
import warnings
from ast import literal_eval
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from safetensors import SafetensorError
from torch.export import Dim
from transformers import AttentionInterface, AutoModelForQuestionAnswering, PreTrainedModel
from transformers.utils import logging as transformers_logging

from training.checkpoint import (
    POSITIONS_AFTER_PADDING,
    check_fit,
    find_checkpoint,
    open_encoder,
    read_family,
)
from worker.contracts.errors import JobError, UsageError
from worker.contracts.family import Family, WindowSizes
from worker.reading.reader import pad_windows
from worker.reading.windows import Encoder, Window
from worker.session import OnnxScorer

#: From 20 on, GELU is one operator; from 23 on, attention is.
OPSET = 23
OUTPUTS = ("start_logits", "end_logits")
#: What a masked score gets. The smallest float would wreck the ranges of a quantized MobileBERT.
MASKED = -10_000.0
#: Largest difference of a logit that is still rounding: absolute, plus a share of the largest.
TOLERANCE = 1e-3
RELATIVE_TOLERANCE = 1e-4

#: What the names of the model's own weights begin with in the graph.
ROOT = "_model."
#: The graph's metadata under this key are the checkpoint's configuration, as JSON.
CONFIG = "spanmill.config"
#: Of a configuration, what is said of another place or another use.
_NOT_OF_THE_MODEL = ("_name_or_path", "transformers_version", "architectures", "dtype")

_ATTENTION = "spanmill_plain"
_SCOPES = "pkg.torch.onnx.name_scopes"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A reader with its head, ready for export, and the encoder for its windows."""

    folder: Path
    family: Family
    model: PreTrainedModel
    encoder: Encoder


def open_checkpoint(name: str, sizes: WindowSizes) -> Checkpoint:
    """Load a fine-tuned reader; nothing in it may be new.

    Raises:
        UsageError: a pickle, another family, no head for question answering, or a tokenizer that
            does not fit.
    """
    folder = find_checkpoint(name)
    family = read_family(folder)
    encoder = open_encoder(folder, family, sizes)
    AttentionInterface.register(_ATTENTION, _attend)
    model = _load(folder)
    check_fit(model, folder, sizes)
    return Checkpoint(folder, family, model, encoder)


def export_onnx(checkpoint: Checkpoint, path: Path, *, mask: bool = False) -> None:
    """Write the graph, its inputs named as the family's, windows and tokens of any number.

    Without ``mask`` a run takes windows of one length only: the graph then has no mask at all.
    """
    graph = _Graph(checkpoint.model, checkpoint.family)
    names = list_inputs(checkpoint.model, mask=mask)
    example = torch.full((2, 24), 5, dtype=torch.int64)
    shape = {0: Dim("windows"), 1: Dim("tokens")}
    with _quiet(), torch.inference_mode():
        torch.onnx.export(
            graph,
            kwargs={name: torch.ones_like(example) for name in names},
            f=path,
            input_names=names,
            output_names=list(OUTPUTS),
            dynamic_shapes=dict.fromkeys(names, shape),
            opset_version=OPSET,
            external_data=False,
            dynamo=True,
            verbose=False,
        )
    model = keep_norms_apart(tidy(onnx.load(path)))
    model.metadata_props.add(key=CONFIG, value=describe_model(checkpoint.model))
    onnx.save(model, path)


def describe_model(model: PreTrainedModel) -> str:
    """Return a model's configuration as JSON: with it, the graph's weights are a checkpoint."""
    config = model.config.to_diff_dict()
    kept = {name: value for name, value in config.items() if name not in _NOT_OF_THE_MODEL}
    return json.dumps(kept, sort_keys=True)


def list_inputs(model: PreTrainedModel, *, mask: bool) -> list[str]:
    """Return the names of what the graph is fed with."""
    taken = inspect.signature(model.forward).parameters
    names = ["input_ids"]
    if "token_type_ids" in taken and getattr(model.config, "type_vocab_size", 1) > 1:
        names.append("token_type_ids")
    return [*names, "attention_mask"] if mask else names


def tidy(model: onnx.ModelProto) -> onnx.ModelProto:
    """Name the nodes after the modules that they come from, and drop what the exporter noted.

    Its notes hold paths of the machine that it ran on.
    """
    taken: set[str] = set()
    for node in model.graph.node:
        node.name = _name_node(node, taken)
        taken.add(node.name)
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for values in (model.graph.value_info, model.graph.input, model.graph.output):
        for value in values:
            value.ClearField("metadata_props")
    for tensor in model.graph.initializer:
        tensor.ClearField("metadata_props")
        tensor.ClearField("doc_string")
    model.graph.ClearField("metadata_props")
    model.graph.ClearField("doc_string")
    model.ClearField("metadata_props")
    model.graph.name = "spanmill"
    return model


def keep_norms_apart(model: onnx.ModelProto) -> onnx.ModelProto:
    """Let a Sum, not an Add, feed each layer norm.

    ONNX Runtime fuses Add and LayerNormalization into SkipLayerNormalization, whose kernel takes
    six times as long as both on a CPU (1.31: 8.9 ms of 50 in an int8 window of 384 tokens).
    """
    makers = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        maker = makers.get(node.input[0]) if node.op_type == "LayerNormalization" else None
        if maker is not None and maker.op_type == "Add":
            maker.op_type = "Sum"
    return model


def check_parity(checkpoint: Checkpoint, path: Path, windows: Sequence[Window]) -> float:
    """Return the largest difference between a logit of torch and of the graph.

    A graph with a mask is proven on padded runs: alone, a window would hide a mask that does wrong.

    Raises:
        JobError: it is more than rounding explains.
    """
    scorer = OnnxScorer(path)
    largest = 0.0
    for group in _pair(windows) if scorer.takes_mask else [[window] for window in windows]:
        batch = pad_windows(group, checkpoint.encoder.pad)
        real = batch.attention_mask == 1
        for one, other in zip(score_torch(checkpoint, group), scorer.score(batch), strict=True):
            difference = float(np.abs(one - other)[real].max())
            largest = max(largest, difference)
            if not difference <= TOLERANCE + RELATIVE_TOLERANCE * float(np.abs(one[real]).max()):
                raise JobError(
                    f"a logit of the exported graph differs from torch's by {difference:.2g}:"
                    " the export is wrong, report it with the versions of torch and transformers"
                )
    return largest


def score_torch(
    checkpoint: Checkpoint, windows: Sequence[Window]
) -> tuple[np.ndarray[Any, np.dtype[np.float32]], np.ndarray[Any, np.dtype[np.float32]]]:
    """Score windows as transformers itself does, with its mask. Shapes: ``(windows, tokens)``."""
    batch = pad_windows(windows, checkpoint.encoder.pad)
    model = checkpoint.model
    feed = {name: getattr(batch, name) for name in list_inputs(model, mask=True)}
    model.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            output = model(**{name: torch.from_numpy(array) for name, array in feed.items()})
    finally:
        model.set_attn_implementation(_ATTENTION)
    return output.start_logits.numpy(), output.end_logits.numpy()


def _pair(windows: Sequence[Window]) -> list[list[Window]]:
    """Put the shortest window beside the longest, and so on; with an odd number one goes twice."""
    ordered = sorted(windows, key=len)
    half = (len(ordered) + 1) // 2
    return [[*pair] for pair in zip(ordered[:half], ordered[::-1][:half], strict=True)]


def _load(folder: Path) -> PreTrainedModel:
    try:
        with _quiet():
            loaded, report = AutoModelForQuestionAnswering.from_pretrained(
                folder,
                attn_implementation=_ATTENTION,
                use_safetensors=True,
                local_files_only=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise UsageError(
            f"the checkpoint {folder.name} cannot be loaded ({error}): save it again"
        ) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise UsageError(
            f"the checkpoint {folder.name} lacks the weights {', '.join(missing[:3])}, so it is no"
            " question-answering reader: fine-tune it first"
        )
    model: PreTrainedModel = loaded.eval()
    return model


class _Graph(torch.nn.Module):
    """What is exported: ids in, two logits a token out."""

    def __init__(self, model: PreTrainedModel, family: Family) -> None:
        super().__init__()
        self._model = model
        self._first_position = None
        if family.name in POSITIONS_AFTER_PADDING:
            self._first_position = model.config.pad_token_id + 1

    def forward(
        self,
        input_ids: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        more: dict[str, torch.Tensor] = {}
        if token_type_ids is not None:
            more["token_type_ids"] = token_type_ids
        if attention_mask is not None:
            more["attention_mask"] = (1.0 - attention_mask[:, None, None, :].float()) * MASKED
        if self._first_position is not None:
            # Padding is on the right: counting gives what the family derives from its padding id.
            positions = torch.arange(input_ids.shape[1]) + self._first_position
            more["position_ids"] = positions.unsqueeze(0)
        output = self._model(input_ids=input_ids, **more)
        return output.start_logits, output.end_logits


def _attend(
    _module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attend; a name without a mask maker keeps transformers from building one.

    Shapes: all but the mask are ``(windows, heads, tokens, head_width)``.
    """
    scale = query.size(-1) ** -0.5 if scaling is None else scaling
    if attention_mask is not None:
        return _attend_masked(query * scale, key, value, attention_mask), None
    heads = query.size(1)
    query, key, value = (one.transpose(1, 2).flatten(2) for one in (query, key, value))
    # One operator that splits the heads itself: with the transpositions and reshapes it saves, an
    # int8 MiniLM answers 3 % more rows (ONNX Runtime 1.31).
    attended = torch.onnx.ops.attention(
        query, key, value, q_num_heads=heads, kv_num_heads=heads, scale=scale
    )[0]
    return attended.reshape(*attended.shape[:2], heads, -1), None


def _attend_masked(
    scaled_query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Attend in plain operators: the single one takes no mask that all tokens share (1.31).

    Scaling the query costs tokens × width, scaling the scores tokens × tokens × heads.
    """
    scores = torch.matmul(scaled_query, key.transpose(2, 3)) + mask
    return torch.matmul(torch.softmax(scores, dim=-1), value).transpose(1, 2).contiguous()


def _name_node(node: onnx.NodeProto, taken: set[str]) -> str:
    notes = {note.key: note.value for note in node.metadata_props}
    scopes = literal_eval(notes[_SCOPES]) if _SCOPES in notes else []
    modules = [scope for scope in scopes[:-1] if scope not in ("", "_model")]
    module = modules[-1].removeprefix(ROOT) if modules else "graph"
    if module.startswith("_empty"):
        module = "graph"
    name = f"{module}/{node.op_type}"
    again = 2
    while name in taken:
        name = f"{module}/{node.op_type}_{again}"
        again += 1
    return name


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's and the loader's remarks about themselves from the terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "transformers")]
    levels = [logger.level for logger in loggers]
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
