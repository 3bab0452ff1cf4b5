"""A file to read, wherever it lies: a path, or an object by its URL."""

import errno
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

from worker.contracts.bucket import Bucket, Stat, open_bucket
from worker.contracts.errors import InputError, WorldError
from worker.contracts.object_file import Wait, give_up, insist, open_object
from worker.contracts.url import Url, is_url, parse_url, to_path

_GLOB = re.compile(r"[*?[]")


@dataclass(frozen=True, slots=True)
class ObjectPath:
    """An object, with as much of pathlib's Path as reading needs.

    ``wait`` is what its readers do when the store fails.
    """

    url: Url
    wait: Wait = field(default=give_up, compare=False)

    @property
    def name(self) -> str:
        """The last part of its key."""
        return PurePosixPath(self.url.key).name

    @property
    def stem(self) -> str:
        """Its name without the last ending."""
        return PurePosixPath(self.url.key).stem

    @property
    def suffix(self) -> str:
        """The last ending of its name."""
        return PurePosixPath(self.url.key).suffix

    def __str__(self) -> str:
        """Return its URL."""
        return str(self.url)

    def is_file(self) -> bool:
        """Say whether it is there."""
        return self.look() is not None

    def look(self) -> Stat | None:
        """Return what it is now, or None when there is none."""
        return insist(lambda: self._bucket().stat(self.url.key), self.wait)

    def need(self) -> Stat:
        """Return what it is now.

        Raises:
            FileNotFoundError: there is none.
        """
        stat = self.look()
        if stat is None:
            raise FileNotFoundError(errno.ENOENT, "there is no such object", str(self))
        return stat

    def open(self, mode: Literal["rb"] = "rb") -> io.BufferedReader:  # noqa: ARG002  as Path's
        """Return a stream of what it is now.

        Raises:
            FileNotFoundError: there is none.
        """
        return open_object(self._bucket(), self.need(), self.wait)

    def _bucket(self) -> Bucket:
        return open_bucket(self.url.bucket)


Place = Path | ObjectPath


def make_place(name: str, wait: Wait = give_up) -> Place:
    """Return the place of a name that is one file's.

    Raises:
        UsageError: it is a URL of an unknown kind.
    """
    path = to_path(name)
    return ObjectPath(parse_url(path), wait) if is_url(path) else Path(path)


def to_source(place: Place) -> Path | io.BufferedReader:
    """Return what Arrow reads a file from."""
    return place if isinstance(place, Path) else place.open()


def absolute(name: str) -> str:
    """Return the whole name of a file or folder; a slash at its end stays."""
    path = to_path(name)
    whole = str(parse_url(path)) if is_url(path) else os.path.abspath(path)  # noqa: PTH100
    return whole + ("/" if path.endswith("/") else "")


def resolve(name: str) -> str:
    """Return the whole name of a file or folder, without a slash at its end, links followed."""
    place = make_place(name)
    return str(place) if isinstance(place, ObjectPath) else str(place.resolve())


def list_objects(name: str) -> list[ObjectPath]:
    """Return the object of a URL, those of a folder (it ends in a slash), or those of a glob.

    In a folder, what begins with a dot or an underscore is passed over, as on a disk.

    Raises:
        InputError: the store refuses, or is away.
    """
    url = parse_url(name)
    bucket = open_bucket(url.bucket)
    try:
        keys = sorted(_list_keys(bucket, url.key, is_folder=name.endswith("/")))
    except WorldError as error:
        raise InputError(str(error)) from error
    return [ObjectPath(Url(url.bucket, key)) for key in keys]


def takes(given: str, name: str) -> bool:
    """Say whether an input takes what has this URL: an object, a folder's or a glob's."""
    if not is_url(given):
        return False
    wanted, url = parse_url(given), parse_url(name)
    if wanted.bucket != url.bucket:
        return False
    if given.endswith("/") or not wanted.key:
        return f"{url.key}/".startswith(f"{wanted.key}/") or not wanted.key
    return wanted.key == url.key or _translate(wanted.key).fullmatch(url.key) is not None


def _list_keys(bucket: Bucket, key: str, *, is_folder: bool) -> Iterator[str]:
    if is_folder or not key:
        for stat in bucket.walk(key):
            parts = PurePosixPath(stat.key[len(key) :].lstrip("/")).parts
            if not any(part[0] in "._" for part in parts):
                yield stat.key
    elif bucket.stat(key) is not None:
        yield key
    elif (magic := _GLOB.search(key)) is not None:
        pattern = _translate(key)
        folder = key[: magic.start()].rpartition("/")[0]
        yield from (one.key for one in bucket.walk(folder) if pattern.fullmatch(one.key))


def _translate(pattern: str) -> "re.Pattern[str]":
    """Return a glob as an expression: ** goes through folders, * and ? do not."""
    made, place = "", 0
    while place < len(pattern):
        rest = pattern[place:]
        taken, expression = 1, re.escape(rest[0])
        if rest.startswith("**/"):
            taken, expression = 3, r"(?:[^/]+/)*"
        elif rest.startswith("**"):
            taken, expression = 2, r".*"
        elif rest[0] in "*?":
            expression = r"[^/]*" if rest[0] == "*" else r"[^/]"
        elif (group := re.match(r"\[(!?)(\]?[^\]/]*)\]", rest)) is not None:
            taken = group.end()
            chars = group[2].replace("\\", r"\\")
            expression = f"[{'^' if group[1] else ''}{chars}]"
        made, place = made + expression, place + taken
    return re.compile(made, re.DOTALL)
