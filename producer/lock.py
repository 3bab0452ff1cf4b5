"""A job's lock: one command runs it, and whoever asks can see whether one does."""

import fcntl
import os
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from worker.contracts.errors import JobError, WorldError

LOCK = "lock"
#: Longer than somebody who only looks whether the job is held keeps its lock.
PATIENCE_SECONDS = 0.5
_RETRY_SECONDS = 0.02


@contextmanager
def hold(root: Path, job: str) -> Iterator[None]:
    """Hold the job, so that two commands do not run it at once; death lets go of it.

    Raises:
        JobError: another process holds it.
        WorldError: the lock cannot be made.
    """
    path = root / job / LOCK
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise WorldError(
            f"cannot write {path} ({error.strerror}): allow it, or use another --jobs-root"
        ) from error
    try:
        if not _lock(descriptor, PATIENCE_SECONDS):
            raise JobError(
                f"the job {job} is being run by another command: follow it with"
                f" `{name_command('watch', root, job)}`"
            )
        yield
    finally:
        os.close(descriptor)


def is_held(root: Path, job: str) -> bool:
    """Say whether a command runs the job right now; nothing is written."""
    try:
        descriptor = os.open(root / job / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def name_command(command: str, root: Path, job: str) -> str:
    """Return a command about a job as a line for the shell."""
    return f"spanmill {command} {job} --jobs-root {shlex.quote(str(root))}"


def _lock(descriptor: int, patience_seconds: float) -> bool:
    until = time.monotonic() + patience_seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(_RETRY_SECONDS)
        else:
            return True
