"""Who may write in a run's folder: the newest holder, and no earlier one.

Holders are numbered. ``fences/0000007.json`` says who the seventh is; it is put only if its name is
free, and its time is that holder's last sign of life. Whatever a run keeps (metrics, checkpoints,
notes) is written to a draft of the holder's own, and put in its place inside ``writing()``: under
the lock of the folder, once it is seen that there is no later holder. A later one comes to be under
the same lock.

So where locks reach all hosts (a local disk, NFS 4, NFS 3 with its lock daemon, CephFS), a holder
that was overtaken changes nothing any more, however long it slept. Where they do not, numbers still
go to one holder each, and what is left is the instant between the look and the rename: a checkpoint
that slips through then is whole, and holds what the new holder writes for that step too. Who sleeps
while it has the lock keeps it: others wait until it wakes or dies.
"""

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from threading import Event, Thread
from typing import NoReturn

import msgspec

from training.holds import (
    Hold,
    Holder,
    find_newest,
    locked,
    look,
    name_fence,
    read_number,
    write_number,
)
from worker.contracts.errors import JobError, WorldError
from worker.contracts.store import LocalStore

BEAT_SECONDS = 3.0
#: How often a holder that waits asks whether it is to stop.
ASK_SECONDS = 0.5
#: Others have the lock for an instant; longer holds it who sleeps there, or an older release.
TAKE_SECONDS = 3.0
WRITE_SECONDS = 60.0


class Wish(StrEnum):
    """Why a holder is to stop at the next step."""

    LEAVE = "leave"  # its worker ends
    CANCEL = "cancel"
    OVERTAKEN = "overtaken"


#: Says whether a holder is to stop.
Ask = Callable[[], Wish | None]


class StoppedError(JobError):
    """A holder stops because of a wish; what was written stays."""

    def __init__(self, wish: Wish, why: str) -> None:
        """Take the wish and the sentence."""
        super().__init__(why)
        self.wish = wish


def nobody_asks() -> Wish | None:
    """Wish for nothing."""
    return None


class Fence:
    """A hold of a run's folder, while entered: renewed, and the one that ``writing()`` looks at."""

    def __init__(self, folder: Path, number: int, lease_seconds: float, ask: Ask) -> None:
        """Take what ``take_fence`` found; ``ask`` says whether the holder is to stop."""
        self.folder, self.number = folder, number
        self._beat_seconds = min(BEAT_SECONDS, lease_seconds / 5)
        self._ask = ask
        self._path = folder / name_fence(number)
        self._depth = 0
        self._over = Event()
        self._thread = Thread(target=self._live, daemon=True)

    def __enter__(self) -> "Fence":
        """Begin to give signs of life."""
        _current.append(self)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the run to whoever comes next, at once."""
        self._over.set()
        self._thread.join()
        _current.remove(self)
        with suppress(OSError):  # it lapses
            os.utime(self._path, (0, 0))

    @property
    def wish(self) -> Wish | None:
        """Why this holder is to stop, None as long as it may go on."""
        with suppress(OSError, WorldError):  # the folder is away: who writes there hears of it
            if self._is_overtaken():
                return Wish.OVERTAKEN
            return self._ask()
        return None

    def wait(self, seconds: float) -> None:
        """Sleep, unless there is a wish to stop."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and self.wish is None:
            time.sleep(min(ASK_SECONDS, left))

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Keep others from taking over while something is put in its place.

        Raises:
            StoppedError: somebody has taken over already.
            WorldError: the folder is away, or its lock is held for long.
        """
        if self._depth:  # inside of another one
            yield
            return
        with locked(self.folder, WRITE_SECONDS) as lock:
            self._refuse_overtaken(lock)
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1

    def _refuse_overtaken(self, lock: int) -> None:
        if read_number(lock) > self.number or self._is_overtaken():
            raise StoppedError(Wish.OVERTAKEN, describe_wish(Wish.OVERTAKEN, self.folder.name))

    def _is_overtaken(self) -> bool:
        return (self.folder / name_fence(self.number + 1)).exists()

    def _live(self) -> None:
        while not self._over.wait(self._beat_seconds):
            with suppress(OSError):  # the folder is away: the lease may lapse
                os.utime(self._path)


#: The hold of this process; there is one at most, but for a moment of tests.
_current: list[Fence] = []


@contextmanager
def writing() -> Iterator[None]:
    """Put something in its place inside: nobody takes over meanwhile, or has taken over before.

    Without a hold, as of a command that no recipe called, everything may be written.

    Raises:
        StoppedError: somebody has taken over; this one writes nothing any more.
        WorldError: the folder is away, or its lock is held for long.
    """
    if not _current:
        yield
        return
    with _current[-1].writing():
        yield


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Be the only one inside for a run's folder, whether this process holds it or not.

    Raises:
        StoppedError: this process held it, and somebody has taken over.
        WorldError: the folder is away, or its lock is held for long.
    """
    if _current and _current[-1].folder == folder:
        with writing():
            yield
    else:
        with locked(folder, WRITE_SECONDS):
            yield


def draft_of(path: Path) -> Path:
    """Return where to write what becomes ``path``: no two holders write to the same draft."""
    number = f".{_current[-1].number}" if _current else ""
    return path.with_name(f".{path.name.lstrip('.')}{number}.part")


def sweep(folder: Path) -> None:
    """Remove what holders who died left half written; for who holds the run and begins."""
    drafts = [".*.part", "*/.*.part", ".cache/*/.*.part", ".ship-*"]
    with writing():
        for path in [one for pattern in drafts for one in folder.glob(pattern)]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):
                    path.unlink()


def find_wish() -> Wish | None:
    """Return why this process is to stop training, None as long as it may go on."""
    return _current[-1].wish if _current else None


def heed() -> None:
    """Stop here if that is wished; for places where nothing is lost by it.

    Raises:
        StoppedError: it is.
    """
    wish = find_wish()
    if wish is not None:
        stop(wish)


def stop(wish: Wish) -> NoReturn:
    """Stop because of a wish of this process's hold.

    Raises:
        StoppedError: always.
    """
    raise StoppedError(wish, describe_wish(wish, _current[-1].folder.name))


def describe_wish(wish: Wish, run: str) -> str:
    """Say why a run's holder stops."""
    if wish is Wish.OVERTAKEN:
        return (
            f"the run {run} was taken over by another process: this one stops, and writes nothing"
            " there any more"
        )
    if wish is Wish.CANCEL:
        return (
            f"the run {run} was cancelled: the command that began it goes on from its last"
            " checkpoint, or makes the bundle again"
        )
    return (
        f"the run {run} is left to another worker, which goes on from its last checkpoint, or makes"
        " the bundle again"
    )


def take_fence(folder: Path, holder: Holder, ask: Ask = nobody_asks) -> Fence | Hold:
    """Take a run's folder, which is there; return the hold of somebody who lives if there is one.

    Raises:
        UsageError: its lock is held for long.
        WorldError: the folder cannot be written.
    """
    with locked(folder, TAKE_SECONDS, patient=False) as lock:
        newest = find_newest(folder, lock)
        hold = None if newest == 0 else look(folder, newest, lock)
        if hold is not None and hold.lives:
            return hold
        number = newest + 1
        put = LocalStore(folder).put_new(name_fence(number), msgspec.json.encode(holder))
        if not put:  # locks do not reach all hosts here, but the name went to one
            return look(folder, number, lock)
        write_number(lock, number)
    return Fence(folder, number, holder.lease_seconds, ask)
