"""Who holds a run's folder, and who held it before: one small file each, and a lock.

The file's time is the holder's last sign of life; a holder that leaves sets it to zero. Times are
compared by the folder's own clock, never by two hosts'.
"""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from worker.contracts.errors import UsageError, WorldError
from worker.contracts.process import ProcessName, is_known_dead, name_process
from worker.contracts.store import LocalStore

LOCK = ".lock"
FENCES = "fences"
LEASE_SECONDS = 30.0
#: What file systems without locks say.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who holds a run. ``at`` is the checkpoint that it went on from, so that deaths are counted.

    ``step`` is None for who follows a whole recipe.
    """

    who: str
    process: ProcessName
    step: str | None = None
    at: str | None = None
    lease_seconds: float = LEASE_SECONDS


@dataclass(frozen=True, slots=True)
class Hold:
    """A holder with its number, and whether it lives: was not released, and gave signs of life."""

    number: int
    holder: Holder
    lives: bool
    released: bool


def find_hold(folder: Path) -> Hold | None:
    """Return the newest hold of a run, None if there was none yet."""
    try:
        lock = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:
        return None
    try:
        newest = find_newest(folder, lock)
        return None if newest == 0 else look(folder, newest, lock)
    finally:
        os.close(lock)


def count_deaths(folder: Path, step: str, at: str | None) -> int:
    """Return how many holders in a row, up to now, died in a step that went on from ``at``."""
    numbers = sorted(_list_numbers(folder), reverse=True)
    count = 0
    for number in numbers:
        path = folder / name_fence(number)
        holder = _read(path)
        died = path.stat().st_mtime != 0
        if holder is None or not died or (holder.step, holder.at) != (step, at):
            break
        count += 1
    return count


def describe_hold(hold: Hold) -> str:
    """Say who holds a run."""
    return f"{hold.holder.who} (process {hold.holder.process.pid} on {hold.holder.process.host})"


def name_self() -> ProcessName:
    """Return this process's name."""
    return name_process(os.getpid())


def look(folder: Path, number: int, lock: int) -> Hold:
    """Return what is known of a holder; ``lock`` is the open lock file."""
    path = folder / name_fence(number)
    holder = _read(path)
    if holder is None:
        nobody = Holder(who="nobody", process=ProcessName("", 0, "", ""))
        return Hold(number, nobody, lives=False, released=False)
    seen = path.stat().st_mtime
    released = seen == 0
    fresh = _now(lock) - seen <= holder.lease_seconds
    lives = not released and fresh and not is_known_dead(holder.process)
    return Hold(number, holder, lives=lives, released=released)


def _read(path: Path) -> Holder | None:
    try:  # opened and not only looked at: network file systems give its newest time then
        return msgspec.json.decode(path.read_bytes(), type=Holder)
    except (OSError, msgspec.MsgspecError):
        return None


def name_fence(number: int) -> str:
    """Return the name of a holder's file in the folder."""
    return f"{FENCES}/{number:07d}.json"


def _list_numbers(folder: Path) -> list[int]:
    names = LocalStore(folder).names(FENCES)
    return [int(name.removesuffix(".json")) for name in names if name[:-5].isdecimal()]


def find_newest(folder: Path, lock: int) -> int:
    """Return the number of the newest holder, 0 before the first."""
    return max([0, read_number(lock), *_list_numbers(folder)])


def _now(lock: int) -> float:
    """Return the time as the folder's file system has it; who may not write there takes his own."""
    try:
        os.utime(lock)
    except OSError:
        return time.time()
    return os.fstat(lock).st_mtime


def read_number(lock: int) -> int:
    """Return the number of the newest holder as the lock file has it."""
    # Locking makes a network file system read the file anew, which it need not do for a folder.
    text = os.pread(lock, 32, 0).split(b"\n", 1)[0]
    return int(text) if text.isdigit() else 0


def write_number(lock: int, number: int) -> None:
    """Put the number of the newest holder into the lock file."""
    with suppress(OSError):  # a full disk: the fence's own file says it too
        os.pwrite(lock, b"%d\n" % number, 0)
        os.fsync(lock)


@contextmanager
def locked(folder: Path, seconds: float, *, patient: bool = True) -> Iterator[int]:
    """Hold the folder's lock; give its open file.

    Raises:
        UsageError: it is held for longer than this; WorldError where the caller is patient.
        WorldError: the folder cannot be written.
    """
    try:
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise WorldError(
            f"the folder {folder} cannot be written ({error.strerror}): make room, or give another"
            " one"
        ) from error
    try:
        _lock(lock, folder, seconds, patient=patient)
        yield lock
    finally:
        os.close(lock)


def _lock(lock: int, folder: Path, seconds: float, *, patient: bool) -> None:
    until = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > until:
                kind = WorldError if patient else UsageError
                raise kind(
                    f"another process works in {folder}: wait for it, or give another folder by"
                    " --out"
                ) from error
            time.sleep(0.02)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return  # see ``training.fence`` for what holds without
        else:
            return
