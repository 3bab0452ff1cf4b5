"""Whether what a job writes would be read as its input, now or when its command is given again."""

import glob
import os
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from producer.answers import FIRST_PART
from producer.place import takes
from producer.walk import walk
from worker.contracts.job import shard_key
from worker.contracts.url import is_url


def reads_output(inputs: Sequence[str], output: str) -> bool:
    """Say whether an input takes the output, be it there or not; by a link, too."""
    if is_url(output):
        return any(
            takes(one, f"{output}{FIRST_PART}" if output[-1] == "/" else output) for one in inputs
        )
    path = Path(output).resolve()
    return any(_takes(one, [path / FIRST_PART if output[-1] == "/" else path]) for one in inputs)


def reads_jobs(inputs: Sequence[str], root: str, job: str) -> bool:
    """Say whether an input takes what a job leaves in the jobs' folder."""
    left = (
        shard_key(job, 0),
        *(f"{job}/{name}" for name in ("errors.parquet", "manifest.json", "events/0001-x.json")),
        f"bundles/{'0' * 64}/bundle.json",
    )
    if is_url(root):
        return any(takes(one, f"{root}/{name}") for one in inputs for name in left)
    paths = [Path(root).resolve() / name for name in left]
    return any(_takes(one, paths) for one in inputs)


def _takes(given: str, paths: Sequence[Path]) -> bool:
    """Say whether a file, a folder or a glob takes one of some paths."""
    if is_url(given):
        return False
    there = Path(given)
    if there.is_dir():
        folders = [there, *(folder for folder, _ in walk(there) if folder.is_symlink())]
        return any(path.is_relative_to(one.resolve()) for one in folders for path in paths)
    if there.exists():
        return there.resolve() in paths
    parts = Path(os.path.abspath(given)).parts  # noqa: PTH100  it follows no link
    first = next((index for index, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    pattern = (*Path(*parts[:first]).resolve().parts, *parts[first:])
    return any(_matches(pattern, path.parts) for path in paths)


def _matches(pattern: tuple[str, ...], parts: tuple[str, ...]) -> bool:
    """Say whether a glob finds a path, as the library would: hidden names only if asked for."""
    if not pattern or not parts:
        return not parts and all(one == "**" for one in pattern)
    hidden = parts[0].startswith(".")
    if pattern[0] == "**":
        deeper = not hidden and _matches(pattern, parts[1:])
        return deeper or _matches(pattern[1:], parts)
    asked = not hidden or pattern[0].startswith(".")
    return asked and fnmatchcase(parts[0], pattern[0]) and _matches(pattern[1:], parts[1:])
