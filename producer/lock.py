"""A job's lock: one command runs it, and whoever asks can see whether one does."""

import fcntl
import os
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from producer.lease import Lease
from worker.contracts.errors import JobError, WorldError
from worker.contracts.object_store import ObjectStore
from worker.contracts.store import LocalStore, Store

IsLost = Callable[[], bool]

LOCK = "lock"
#: Longer than somebody who only looks whether the job is held keeps its lock.
PATIENCE_SECONDS = 0.5
_RETRY_SECONDS = 0.02


@contextmanager
def hold(store: Store, job: str) -> Iterator[IsLost]:
    """Hold the job, so that two commands do not run it at once; death lets go of it.

    A job of which nothing has been written by then leaves nothing behind. Gives a function that
    says whether the job was taken away, which can happen in an object store that was out of reach.

    Raises:
        JobError: another process holds it.
        WorldError: the lock cannot be made.
    """
    if isinstance(store, ObjectStore):
        with _lease(store, job) as is_lost:
            yield is_lost
    elif isinstance(store, LocalStore):
        with _lock(store, job):
            yield lambda: False


def is_held(store: Store, job: str) -> bool:
    """Say whether a command runs the job right now; nothing is written."""
    if isinstance(store, ObjectStore):
        return Lease(store, f"{job}/{LOCK}").find_holder() is not None
    return isinstance(store, LocalStore) and _is_locked(store.root / job / LOCK)


@contextmanager
def _lease(store: ObjectStore, job: str) -> Iterator[IsLost]:
    lease = Lease(store, f"{job}/{LOCK}")
    holder = lease.take()
    if holder is not None:
        raise JobError(
            f"the job {job} is being run by process {holder.pid} of {holder.host}: follow it with"
            f" `{name_command('watch', store, job)}`, or wait a minute if that was killed"
        )
    try:
        yield lease.is_lost
    finally:
        with suppress(WorldError):  # it lapses
            lease.release()
            if store.names(job) == [LOCK]:
                store.remove(f"{job}/{LOCK}")


@contextmanager
def _lock(store: LocalStore, job: str) -> Iterator[None]:
    path = store.root / job / LOCK
    try:
        descriptor = _take(path)
    except OSError as error:
        raise WorldError(
            f"cannot write {path} ({error.strerror}): allow it, or use another --jobs-root"
        ) from error
    if descriptor is None:
        raise JobError(
            f"the job {job} is being run by another command: follow it with"
            f" `{name_command('watch', store, job)}`"
        )
    try:
        yield
    finally:
        _tidy(path)
        os.close(descriptor)


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def name_command(command: str, store: Store, job: str) -> str:
    """Return a command about a job as a line for the shell."""
    return f"spanmill {command} {job} --jobs-root {shlex.quote(store.name)}"


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
