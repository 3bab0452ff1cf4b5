"""The README's fleet of five lines, run as it stands there, on a host where nothing else runs."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.deploy.composed import HOME
from tests.desk import PATIENCE_SECONDS
from tests.hosts import Network
from tests.redis_server import find_redis_server
from tests.tiny import PASSAGES, QUESTIONS

FIVE_LINES = re.compile(r"On one host, in five lines:\n\n```sh\n(.*?)```", re.DOTALL)
#: What the reader has to put in, and how the lines are ended here.
JOB = "$(ls spanmill-jobs | grep ^answers-)"
AROUND = "set -e\ntrap 'kill $(jobs -p); wait' EXIT\n{}"


def test_the_five_lines_are_a_fleet(network: Network, tmp_path: Path) -> None:
    (lines,) = FIVE_LINES.findall((HOME / "README.md").read_text())
    assert len(lines.splitlines()) == 5
    spanmill = tmp_path / "bin" / "spanmill"
    spanmill.parent.mkdir()
    spanmill.write_text(f'#!/bin/sh\nexec {sys.executable} -m producer.cli "$@"\n')
    spanmill.chmod(0o755)
    (tmp_path / "bin" / "redis-server").symlink_to(find_redis_server())
    rows = {"question": list(QUESTIONS), "context": list(PASSAGES)}
    pq.write_table(pa.table(rows), tmp_path / "questions.parquet")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SPANMILL")}
    script = AROUND.format(re.sub(r"\bJOB\b", JOB, lines))
    process = subprocess.Popen(
        network.add("one").line_here("bash", "-c", script),
        cwd=tmp_path,
        env=kept | {"PATH": f"{spanmill.parent}:{os.environ['PATH']}", "PYTHONPATH": str(HOME)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        told, said = process.communicate(timeout=2 * PATIENCE_SECONDS)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what a failure leaves
    assert process.returncode == 0, said
    assert ": completed, 3 of 3 rows, 0 errors, " in told
    assert pq.read_table(tmp_path / "answers.parquet").num_rows == len(QUESTIONS)
