"""Answers in an object store: what lies there already, and putting them there in one step each.

They are made on this machine's disk first. An upload appears when its last part has come.
"""

from pathlib import Path
from uuid import uuid4

from producer.place import ObjectPath
from worker.contracts.bucket import open_bucket
from worker.contracts.errors import UsageError, WorldError
from worker.contracts.url import Url, parse_url

_PROBE = ".spanmill-probe"


def check_object(url: Url, *, is_folder: bool) -> None:
    """Refuse an output that is no object, or no folder, as its name says.

    Raises:
        UsageError: it is a folder and does not end in a slash, or the reverse.
    """
    if not url.key:
        raise UsageError(f"the output {url} is a whole bucket: name an object or a folder in it")
    bucket = open_bucket(url.bucket)
    try:
        if not is_folder and bucket.names(url.key):
            raise UsageError(f"the output {url} is a folder: end it in / for a folder of parts")
        if is_folder and bucket.stat(url.key) is not None:
            raise UsageError(f"the output {url} is an object: leave out the / at its end")
    except WorldError as error:
        raise UsageError(str(error)) from error


def prove_writable(folder: str) -> None:
    """Put an object into a folder, and delete it.

    Raises:
        UsageError: that failed.
    """
    url = parse_url(folder)
    bucket, key = open_bucket(url.bucket), f"{url.key}/{_PROBE}-{uuid4().hex}".lstrip("/")
    try:
        bucket.put_new(key, b"")
        bucket.delete([key])
    except WorldError as error:
        raise UsageError(str(error)) from error


def list_output(output: str) -> list[ObjectPath]:
    """Return what lies at an output: an object, or a folder's objects, all of them."""
    url = parse_url(output)
    bucket = open_bucket(url.bucket)
    if not output.endswith("/"):
        return [] if bucket.stat(url.key) is None else [ObjectPath(url)]
    return [ObjectPath(Url(url.bucket, one.key)) for one in bucket.walk(url.key)]


def upload(made: Path, output: str) -> None:
    """Put a folder of parts, or its only part, where the user wants it.

    A folder's parts appear one after the other, the first one first; then older ones go.
    """
    url = parse_url(output)
    bucket = open_bucket(url.bucket)
    parts = sorted(made.iterdir())
    if not output.endswith("/"):
        bucket.put(url.key, parts[0])
        return
    put = [f"{url.key}/{part.name}" for part in parts]
    for part, key in zip(parts, put, strict=True):
        bucket.put(key, part)
    bucket.delete([one.key for one in bucket.walk(url.key) if one.key not in set(put)])
