"""What tells a process from all others, on whatever machine."""

import os
import socket
from dataclasses import dataclass
from pathlib import Path

#: States of what has ended and was not yet waited for.
_ENDED = ("Z", "X")


@dataclass(frozen=True, slots=True)
class ProcessName:
    """A process; ``kernel`` names a machine and its process numbers, ``born`` is in ticks."""

    host: str
    pid: int
    kernel: str
    born: str


def name_process(pid: int) -> ProcessName:
    """Return the name of the process that has a number now; ``born`` is empty if none has."""
    host = socket.gethostname()
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return ProcessName(host, pid, host, "")
    return ProcessName(host, pid, f"{boot}/{space}", _find_birth(pid))


def is_known_dead(process: ProcessName) -> bool:
    """Say whether it was a process of this machine and has ended; of others nothing is known."""
    here = name_process(os.getpid())
    if here.kernel != process.kernel or not here.born:
        return False
    return _find_birth(process.pid) != process.born


def _find_birth(pid: int) -> str:
    try:
        facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if facts[0] in _ENDED else facts[19]
