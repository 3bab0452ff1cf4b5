"""`make help`, `make demo`; and `make demo-fleet`: a whole fleet on this machine, proved, and gone
when it is interrupted.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from tests.deploy.composed import HOME
from tests.desk import PATIENCE_SECONDS, wait_for
from tests.tiny import Tiny

SHARDS = "demo/spanmill-jobs/*/shards/*/*.parquet"
#: Redis; and of each worker its supervisor, Celery's main process and an answering one.
BROKER_AND_WORKERS = 1 + 2 * 3


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
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  no threads
    )


def list_left(started: list[psutil.Process]) -> list[psutil.Process]:
    return [one for one in started if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def make(*words: str) -> str:
    done = subprocess.run(["make", "-C", HOME, *words], capture_output=True, text=True, check=True)
    return done.stdout


def test_make_help_tells_the_targets_and_nothing_else() -> None:
    lines = make("-s", "help").splitlines()
    assert lines
    assert all(line.startswith("make ") for line in lines)


def test_the_demonstration_puts_its_jobs_where_it_looks_for_them() -> None:
    """Whatever SPANMILL_JOBS_ROOT says."""
    assert "--jobs-root demo/spanmill-jobs\n" in make("--dry-run", "demo")


def test_both_fleets_give_the_same_answers_and_nothing_is_left(tmp_path: Path, tiny: Tiny) -> None:
    demo = start(tmp_path / "demo", tiny)
    wait_for(lambda: list(tmp_path.glob(SHARDS)), "the fleet answers")
    started = psutil.Process(demo.pid).children(recursive=True)
    told, _ = demo.communicate(timeout=2 * PATIENCE_SECONDS)
    assert demo.returncode == 0, told
    assert "the same answers in 426 of 426 rows" in told
    assert "A dozen of the answers" in told
    assert len(started) >= BROKER_AND_WORKERS
    assert not list_left(started)


def test_an_interrupt_leaves_nothing_running(tmp_path: Path, tiny: Tiny) -> None:
    demo = start(tmp_path / "demo", tiny)
    wait_for(lambda: list(tmp_path.glob(SHARDS)), "the fleet answers")
    started = psutil.Process(demo.pid).children(recursive=True)
    os.killpg(demo.pid, signal.SIGINT)
    told, _ = demo.communicate(timeout=PATIENCE_SECONDS)
    assert demo.returncode == 130, told
    assert "Traceback" not in told
    wait_for(lambda: not list_left(started), "all of it has ended")
