"""Where jobs live: a folder of immutable objects, each put only if its name is free.

The order of a local put: temporary file, fsync, link under the final name, fsync of the folder. A
name is therefore either free or holds a whole object, whatever is killed when.
"""

import contextlib
import errno
import io
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from worker.contracts.errors import WorldError

TEMPORARY = ".tmp"


class Store(Protocol):
    """Objects by key; a key is a relative path with forward slashes.

    ``name`` is the root as a command line has it: a whole path, or a URL.
    """

    name: str

    def read(self, key: str) -> bytes | None:
        """Return an object, or None when there is none."""

    def read_tail(self, key: str, size_bytes: int) -> bytes | None:
        """Return an object's last bytes, all if it has fewer, or None when there is none."""

    def exists(self, key: str) -> bool:
        """Say whether there is such an object."""

    def put_new(self, key: str, raw: bytes) -> bool:
        """Put an object if its name is free; say whether it was. The first writer wins."""

    def put_file(self, key: str, source: Path) -> None:
        """Put a local file, in place of what has its name; for what can be made again."""

    def names(self, folder: str) -> list[str]:
        """Return the sorted names directly in a folder; an absent folder has none."""

    def open(self, key: str) -> io.BufferedReader | None:
        """Return an object as a stream, or None when there is none."""

    def remove(self, key: str) -> None:
        """Delete an object, or a folder with all that is in it."""

    def sweep(self, older_than_seconds: float, now: float) -> None:
        """Remove what a killed process left half written."""


class LocalStore:
    """A store on a local or shared disk.

    Raises from every method: WorldError when the disk fails, is full or forbids it.
    """

    def __init__(self, root: Path) -> None:
        """Take a root that need not exist yet."""
        self.root = root
        self.name = str(root)

    def read(self, key: str) -> bytes | None:
        """Return an object, or None when there is none."""
        try:
            return (self.root / key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _world_error(self.root / key, "read", error) from error

    def read_tail(self, key: str, size_bytes: int) -> bytes | None:
        """Return an object's last bytes, all if it has fewer, or None when there is none."""
        try:
            with (self.root / key).open("rb") as stream:
                stream.seek(max(0, stream.seek(0, os.SEEK_END) - size_bytes))
                return stream.read()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _world_error(self.root / key, "read", error) from error

    def exists(self, key: str) -> bool:
        """Say whether there is such an object."""
        try:
            (self.root / key).stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise _world_error(self.root / key, "read", error) from error
        return True

    def names(self, folder: str) -> list[str]:
        """Return the sorted names directly in a folder; an absent folder has none."""
        try:
            return sorted(name for name in os.listdir(self.root / folder) if name != TEMPORARY)  # noqa: PTH208
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise _world_error(self.root / folder, "list", error) from error

    def open(self, key: str) -> io.BufferedReader | None:
        """Return an object as a stream, or None when there is none."""
        try:
            return (self.root / key).open("rb")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _world_error(self.root / key, "read", error) from error

    def remove(self, key: str) -> None:
        """Delete an object, or a folder with all that is in it."""
        path = self.root / key
        try:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise _world_error(path, "delete", error) from error

    def put_new(self, key: str, raw: bytes) -> bool:
        """Put an object if its name is free; say whether it was. The first writer wins."""
        final = self.root / key
        temporary = self.root / TEMPORARY / uuid.uuid4().hex
        try:
            temporary.parent.mkdir(parents=True, exist_ok=True)
            make_folder(final.parent)
            try:
                with temporary.open("xb") as stream:
                    stream.write(raw)
                    stream.flush()
                    os.fsync(stream.fileno())
                return _link(temporary, final)
            finally:
                with contextlib.suppress(OSError):
                    temporary.unlink()
        except OSError as error:
            raise _world_error(final, "write", error) from error

    def put_file(self, key: str, source: Path) -> None:
        """Put a local file, in place of what has its name; for what can be made again."""
        final = self.root / key
        temporary = self.root / TEMPORARY / uuid.uuid4().hex
        try:
            temporary.parent.mkdir(parents=True, exist_ok=True)
            make_folder(final.parent)
            shutil.copyfile(source, temporary)
            with temporary.open("rb") as stream:
                os.fsync(stream.fileno())
            temporary.replace(final)
            sync_folder(final.parent)
        except OSError as error:
            raise _world_error(final, "write", error) from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()

    def sweep(self, older_than_seconds: float, now: float) -> None:
        """Remove temporary files that a killed process left behind."""
        for path in _listed(self.root / TEMPORARY):
            with contextlib.suppress(OSError):
                if now - path.stat().st_mtime > older_than_seconds:
                    path.unlink()


def _link(temporary: Path, final: Path) -> bool:
    try:
        os.link(temporary, final)
    except FileExistsError:
        return False
    sync_folder(final.parent)
    return True


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, so that their names survive a power cut too."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _listed(folder: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield from list(folder.iterdir())


_CURES = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room in the quota",
    errno.EFBIG: "raise the limit on the size of files",
    errno.EROFS: "use a --jobs-root that is writable",
    errno.EACCES: "allow this user to {verb} there, or use another --jobs-root",
    errno.EPERM: "allow this user to {verb} there, or use another --jobs-root",
}


def _world_error(path: Path, verb: str, error: OSError) -> WorldError:
    cure = None if error.errno is None else _CURES.get(error.errno)
    advice = "check the disk" if cure is None else cure.format(verb=verb)
    why = str(error) if error.strerror is None else error.strerror
    return WorldError(f"cannot {verb} {path} ({why}): {advice}")
