"""The choice of an execution provider: the best that really runs, and a line on those that fail."""

from pathlib import Path

import pytest

from tests.tiny import Tiny
from worker.contracts.errors import BundleError, UsageError
from worker.session import Choice, OnnxScorer, choose_provider

CPU, CUDA, TENSORRT = (f"{name}ExecutionProvider" for name in ("CPU", "CUDA", "Tensorrt"))


@pytest.fixture
def model(tiny: Tiny) -> Path:
    return tiny.bundle() / "model.onnx"


def test_the_cpu_is_chosen_where_there_is_nothing_else(model: Path) -> None:
    assert choose_provider("auto", model, [CPU]) == Choice("cpu")
    assert choose_provider("cpu", model, [CUDA, CPU]) == Choice("cpu")


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_providers_that_do_not_start_are_named_and_passed_over(model: Path) -> None:
    """They are said to be built in, and are not: so it is where a driver is missing."""
    choice = choose_provider("auto", model, [CUDA, TENSORRT, CPU])
    assert choice.provider == "cpu"
    assert choice.note == "tensorrt and cuda did not start here: answering with cpu"


def test_whatever_a_provider_raises_is_passed_over(model: Path) -> None:
    """Here a warning, which is an error in tests, as ONNX Runtime's own are anywhere."""
    choice = choose_provider("auto", model, [CUDA, CPU])
    assert choice == Choice("cpu", "cuda (UserWarning) did not start here: answering with cpu")


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_is_named_and_does_not_start_is_refused(model: Path) -> None:
    with pytest.raises(UsageError, match="'cuda' did not start here: use another one") as caught:
        choose_provider("cuda", model, [CUDA, CPU])
    assert not isinstance(caught.value, BundleError), "the bundle is not to blame"
    with pytest.raises(UsageError, match="'tensorrt' is not installed here: use auto or cuda, cpu"):
        choose_provider("tensorrt", model, [CUDA, CPU])


def test_a_graph_that_cannot_be_loaded_is_the_bundles_fault(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"junk")
    with pytest.raises(BundleError, match="cannot be loaded by ONNX Runtime"):
        OnnxScorer(tmp_path / "model.onnx")
