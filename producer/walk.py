"""The files of a folder of inputs: none is left out without a word."""

import os
from collections.abc import Iterator
from pathlib import Path

from worker.contracts.errors import InputError


def walk(
    folder: Path, above: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[tuple[Path, list[Path]]]:
    """Yield a folder with its files, then the folders in it in the same way.

    Links to folders are followed, but for one to a folder that it lies in (``above`` knows those).
    What begins with a dot or an underscore is passed over.

    Raises:
        InputError: a folder cannot be read.
    """
    try:
        status = folder.stat()
        names = [name for name in os.listdir(folder) if name[0] not in "._"]  # noqa: PTH208
        inner = [one for one in (folder / name for name in names) if one.is_dir()]
    except OSError as error:
        raise InputError(
            f"the folder {folder} cannot be read ({error.strerror}): allow it, or name the others"
        ) from error
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return
    yield folder, [folder / name for name in {*names} - {one.name for one in inner}]
    for one in inner:
        yield from walk(one, above | {identity})
