"""A job's lock: one command runs it, and whoever asks can see whether one does."""

import fcntl
import os
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from worker.contracts.errors import JobError, WorldError

LOCK = "lock"
#: Longer than somebody who only looks whether the job is held keeps its lock.
PATIENCE_SECONDS = 0.5
_RETRY_SECONDS = 0.02


@contextmanager
def hold(root: Path, job: str) -> Iterator[None]:
    """Hold the job, so that two commands do not run it at once; death lets go of it.

    A job of which nothing has been written by then leaves nothing behind.

    Raises:
        JobError: another process holds it.
        WorldError: the lock cannot be made.
    """
    path = root / job / LOCK
    try:
        descriptor = _take(path)
    except OSError as error:
        raise WorldError(
            f"cannot write {path} ({error.strerror}): allow it, or use another --jobs-root"
        ) from error
    if descriptor is None:
        raise JobError(
            f"the job {job} is being run by another command: follow it with"
            f" `{name_command('watch', root, job)}`"
        )
    try:
        yield
    finally:
        _tidy(path)
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


def _take(path: Path) -> int | None:
    """Return the locked file's descriptor, or None when somebody else keeps it."""
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        with suppress(FileNotFoundError, BlockingIOError):  # tidied away just now, or held
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)
        if time.monotonic() > until:
            return None
        time.sleep(_RETRY_SECONDS)


def _tidy(path: Path) -> None:
    """Remove the lock of a job of which there is nothing else; it is still locked."""
    with suppress(OSError):
        if [one.name for one in path.parent.iterdir()] == [LOCK]:
            path.unlink()
            path.parent.rmdir()
            path.parent.parent.rmdir()
