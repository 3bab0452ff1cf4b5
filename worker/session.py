"""The scorer on ONNX Runtime, and the choice of its execution provider.

A session must not cross a fork: open it in the process that uses it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from worker.contracts.errors import BundleError, UsageError
from worker.reading.reader import ForwardBatch

#: By preference, fastest first; the names that ``--provider`` takes.
PROVIDERS = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
#: Leaves the choice of a provider to this machine.
AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Choice:
    """The provider that a job will use, and a line for the user when another one failed."""

    provider: str
    note: str | None = None


class OnnxScorer:
    """A question-answering graph that takes token ids and gives start and end logits."""

    def __init__(self, model: Path, provider: str = "cpu", threads: int = 1) -> None:
        """Load the graph; the file is read here once and not kept open.

        Raises:
            BundleError: the graph cannot be loaded, or is not one of question answering.
            UsageError: the provider is not to be had.
        """
        self._session = _open_session(model, provider, threads)
        self._inputs = [one.name for one in self._session.get_inputs()]
        outputs = [one.name for one in self._session.get_outputs()]
        known = {"input_ids", "token_type_ids", "attention_mask"}
        if outputs != ["start_logits", "end_logits"] or not {"input_ids"} <= set(self._inputs):
            raise BundleError(
                f"{model} has outputs {outputs}, not start_logits and end_logits:"
                " export a question-answering model"
            )
        if not set(self._inputs) <= known:
            strange = ", ".join(sorted(set(self._inputs) - known))
            raise BundleError(f"{model} wants inputs unknown here ({strange}): export it again")

    @property
    def takes_mask(self) -> bool:
        """Whether windows of different lengths may share a run."""
        return "attention_mask" in self._inputs

    def score(self, batch: ForwardBatch) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Run the graph once, feeding it by its own input names.

        Shapes: both results are ``(windows, tokens)``.
        """
        arrays = {
            "input_ids": batch.input_ids,
            "token_type_ids": batch.token_type_ids,
            "attention_mask": batch.attention_mask,
        }
        starts, ends = self._session.run(None, {name: arrays[name] for name in self._inputs})
        return starts, ends


def choose_provider(wanted: str, model: Path, installed: Sequence[str] | None = None) -> Choice:
    """Return the provider to use: the wanted one, or with "auto" the best that really runs.

    ``installed`` is what ONNX Runtime was built with. Each accelerator is tried with the model
    itself: being built in does not mean that its driver is there.

    Raises:
        UsageError: the wanted provider is unknown or does not run here.
    """
    built_in = ort.get_available_providers() if installed is None else installed
    here = [name for name, long_name in PROVIDERS.items() if long_name in built_in]
    if wanted != AUTO:
        if wanted not in here:
            raise UsageError(
                f"the provider {wanted!r} is not installed here: use auto or {', '.join(here)}"
            )
        _try(model, wanted)
        return Choice(wanted)
    failed = []
    for name in here:
        try:
            _try(model, name)
        except UsageError as error:
            failed.append(f"{name} ({type(error.__cause__).__name__})" if error.__cause__ else name)
        else:
            return Choice(name, _note(failed, name))
    return Choice("cpu", _note(failed, "cpu"))


def _note(failed: Sequence[str], chosen: str) -> str | None:
    if not failed:
        return None
    return f"{' and '.join(failed)} did not start here: answering with {chosen}"


def _try(model: Path, provider: str) -> None:
    """Run a model once; the CPU's provider, which is everywhere, is taken at its word."""
    if provider == "cpu":
        return
    ids = np.ones((1, 8), dtype=np.int64)
    try:
        OnnxScorer(model, provider).score(ForwardBatch(ids, ids, ids))
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"the provider {provider!r} cannot run this model ({type(error).__name__}):"
            " use --provider cpu"
        ) from error


def _open_session(model: Path, provider: str, threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    # Every window has its own length: patterns of allocations never repeat, they only pile up.
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if provider == "cpu":
        # The fused kernel is scalar: it takes several times as long as the vectorized sum and
        # normalization that it stands for, a fifth of a MiniLM's whole run.
        options.add_session_config_entry(
            "optimization.disable_specified_optimizers", "SkipLayerNormFusion"
        )
    options.log_severity_level = 3
    name = PROVIDERS[provider]
    try:
        session = ort.InferenceSession(
            model.read_bytes(),
            options,
            providers=[name] if provider == "cpu" else [name, PROVIDERS["cpu"]],
        )
    except Exception as error:  # ONNX Runtime's exceptions have no common class of their own
        if provider != "cpu":
            raise _no_start(provider) from error
        raise BundleError(
            f"{model} cannot be loaded by ONNX Runtime ({type(error).__name__}):"
            " check it with `spanmill bundle check`"
        ) from error
    if session.get_providers()[0] != name:
        raise _no_start(provider)
    return session


def _no_start(provider: str) -> UsageError:
    return UsageError(f"the provider {provider!r} did not start here: use another one")
