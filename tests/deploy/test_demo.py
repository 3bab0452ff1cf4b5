"""`make demo-fleet`: a whole fleet on this machine, proved, and gone when it is interrupted."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from tests.deploy.composed import HOME
from tests.desk import PATIENCE_SECONDS, wait_for
from tests.tiny import Tiny


def start(folder: Path, tiny: Tiny) -> "subprocess.Popen[str]":
    """Start the demonstration with a tiny model, in a process group as a terminal gives it."""
    foreign = {name: value for name, value in os.environ.items() if not name.startswith("SPANMILL")}
    settings = {"PYTHONPATH": str(HOME), "SPANMILL_BUNDLE": str(tiny.bundle())}
    return subprocess.Popen(
        [sys.executable, HOME / "examples" / "fleet_demo.py", folder],
        env=foreign | settings,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def list_left(folder: Path) -> list[str]:
    """Return the programs that still have to do with a demonstration."""
    left = []
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
            if str(folder) in line and process.pid != os.getpid():
                left.append(line)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return left


def test_both_fleets_give_the_same_answers_and_nothing_is_left(tmp_path: Path, tiny: Tiny) -> None:
    demo = start(tmp_path / "demo", tiny)
    told, _ = demo.communicate(timeout=2 * PATIENCE_SECONDS)
    assert demo.returncode == 0, told
    assert "the same answers in 426 of 426 rows" in told
    assert "A dozen of the answers" in told
    assert not list_left(tmp_path)


def test_an_interrupt_leaves_nothing_running(tmp_path: Path, tiny: Tiny) -> None:
    demo = start(tmp_path / "demo", tiny)
    jobs = tmp_path / "demo" / "spanmill-jobs"
    wait_for(lambda: list(jobs.glob("*/shards/*/*.parquet")), "the fleet answers")
    os.killpg(demo.pid, signal.SIGINT)
    told, _ = demo.communicate(timeout=PATIENCE_SECONDS)
    assert demo.returncode == 130, told
    assert "Traceback" not in told
    wait_for(lambda: not list_left(tmp_path), "all of it has ended")
