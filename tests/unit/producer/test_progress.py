"""The progress bar: seen on a terminal and nowhere else."""

import os
import pty
import subprocess
import sys

SHOW = """
from producer.progress import Progress
progress = Progress(1000)
with progress:
    progress.skip(400)
    progress.advance(100, 2)
    progress.say("paused: [the disk] is full")
    progress.advance(100, 0)
"""


def test_off_a_terminal_there_is_no_bar_but_what_must_be_said() -> None:
    done = subprocess.run([sys.executable, "-c", SHOW], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert done.stderr == "spanmill: paused: [the disk] is full\n"


def test_on_a_terminal_the_bar_counts_rows_and_errors() -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", SHOW],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            block = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not block:
            break
        shown += block
    os.close(ours)
    assert process.communicate()[0] == b""
    assert process.returncode == 0
    assert b"600/1000" in shown
    assert b"2 errors" in shown
    assert b"paused: [the disk] is full" in shown
