"""What this process is: host, processor, versions; recorded with every batch."""

import platform
import socket
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

#: Instruction sets that change what int8 costs, and on older processors what it answers.
_FLAGS = ("amx_int8", "avx_vnni", "avx512_vnni", "avx2")
_PACKAGES = ("spanmill", "onnxruntime", "tokenizers", "pyarrow", "numpy")


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine that answers, as statistics name it."""

    host: str
    cpu: str


def describe_machine(cpuinfo: Path = Path("/proc/cpuinfo")) -> Machine:
    """Return host name and processor, with its best integer instruction set."""
    return Machine(socket.gethostname(), _describe_cpu(cpuinfo))


def list_versions() -> dict[str, str]:
    """Return the versions of what an answer passes through."""
    return {"python": platform.python_version()} | {
        name: metadata.version(name) for name in _PACKAGES
    }


def _describe_cpu(cpuinfo: Path) -> str:
    try:
        lines = [line.split(":", 1) for line in cpuinfo.read_text().splitlines() if ":" in line]
    except OSError:
        return platform.machine()
    facts = {key.strip(): value.strip() for key, value in lines}
    flags = set(facts.get("flags", facts.get("Features", "")).split())
    best = next((flag for flag in _FLAGS if flag in flags), "no vector flags known")
    return f"{facts.get('model name', platform.machine())} ({best})"
