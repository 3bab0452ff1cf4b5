"""What a process says of itself."""

import platform
import socket
from pathlib import Path

import pyarrow as pa
import pytest

from worker.telemetry import Machine, describe_machine, list_versions

X86 = """processor\t: 0
model name\t: Fancy(R) CPU @ 2.00GHz: Model 5
flags\t\t: fpu avx2 {flags}
processor\t: 1
"""


@pytest.mark.parametrize(
    ("flags", "best"),
    [("", "avx2"), ("avx512_vnni", "avx512_vnni"), ("avx_vnni amx_int8 avx512_vnni", "amx_int8")],
)
def test_a_processor_is_named_with_its_best_integer_instructions(
    tmp_path: Path, flags: str, best: str
) -> None:
    (tmp_path / "cpuinfo").write_text(X86.format(flags=flags))
    found = describe_machine(tmp_path / "cpuinfo")
    assert found == Machine(socket.gethostname(), f"Fancy(R) CPU @ 2.00GHz: Model 5 ({best})")


def test_a_processor_that_tells_little_is_named_by_its_architecture(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor: 0\nFeatures: fp asimd\n")
    architecture = platform.machine()
    assert describe_machine(tmp_path / "cpuinfo").cpu == f"{architecture} (no vector flags known)"
    assert describe_machine(tmp_path / "none").cpu == architecture


def test_versions_name_what_an_answer_passes_through() -> None:
    versions = list_versions()
    assert set(versions) == {"python", "spanmill", "onnxruntime", "tokenizers", "pyarrow", "numpy"}
    assert versions["pyarrow"] == pa.__version__
