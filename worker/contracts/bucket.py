"""A bucket of S3, GCS or Azure, and what goes wrong there in words. Only this file knows obstore.

Credentials and endpoints come from the environment: AWS_..., GOOGLE_..., AZURE_...
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import from_url

from worker.contracts.errors import UsageError, WorldError

if TYPE_CHECKING:
    from obstore import ObjectMeta, UpdateVersion
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

#: Tries of one request. What goes on for longer is the caller's to wait for: it can be interrupted.
_RETRY: "RetryConfig" = {
    "max_retries": 4,
    "retry_timeout": timedelta(seconds=15),
    "backoff": {
        "init_backoff": timedelta(milliseconds=200),
        "max_backoff": timedelta(seconds=3),
        "base": 2,
    },
}
_CONNECT_TIMEOUT = timedelta(seconds=5)
_TIMEOUT = timedelta(seconds=120)
#: Parts of an upload: S3 takes ten thousand of them.
_PART_BYTES = 8 * 1024 * 1024
_MOST_PARTS = 9_000
_PARTS_AT_ONCE = 4
#: As many as S3 deletes by one request.
_DELETED_AT_ONCE = 1000

_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AZURE_STORAGE_ENDPOINT")
_STATUS = re.compile(r"status code: (\d{3}[^:\n]*)|returned error response: (\d{3}[^:\n]*)")
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|bucket does not exist")
#: Where machines in a cloud get their credentials: asked when the environment has none.
_NO_CREDENTIALS = re.compile(r"169\.254\.(169\.254|170\.2)|metadata\.google|MissingCredential")


@dataclass(frozen=True, slots=True)
class Stat:
    """An object as it is now. ``version`` is its ETag, or its time where there is none.

    ``changed_at`` is in seconds since the epoch, by the store's clock. ``state`` is what a
    conditional write compares.
    """

    key: str
    size_bytes: int
    version: str
    changed_at: float
    state: "UpdateVersion"


class Bucket:
    """Objects by key.

    Raises from every method: WorldError when the store is away, or refuses.
    """

    def __init__(self, name: str, store: "ObjectStore") -> None:
        """Take the bucket's URL, for messages, and what obstore made of it."""
        self.name = name
        self._store = store

    def stat(self, key: str) -> Stat | None:
        """Return what an object is, or None when there is none."""
        with self._in_words("read", key):
            try:
                return _to_stat(obstore.head(self._store, key))
            except FileNotFoundError:
                return None

    def read(self, key: str) -> tuple[bytes, Stat] | None:
        """Return an object, or None when there is none."""
        with self._in_words("read", key):
            try:
                got = obstore.get(self._store, key)
                return bytes(got.bytes()), _to_stat(got.meta)
            except FileNotFoundError as error:
                if _NO_BUCKET.search(str(error)):
                    raise
                return None

    def read_range(self, stat: Stat, start: int, end: int) -> bytes | None:
        """Return some bytes of an object, or None when it has changed or is gone."""
        e_tag = stat.state.get("e_tag")
        with self._in_words("read", stat.key):
            try:
                if e_tag is None:
                    return bytes(obstore.get_range(self._store, stat.key, start=start, end=end))
                got = obstore.get(
                    self._store, stat.key, options={"range": (start, end), "if_match": e_tag}
                )
                return bytes(got.bytes())
            except (FileNotFoundError, PreconditionError):
                return None

    def put_new(self, key: str, raw: bytes) -> bool:
        """Put an object if its name is free; say whether it was."""
        with self._in_words("write", key):
            try:
                obstore.put(self._store, key, raw, mode="create", use_multipart=False)
            except AlreadyExistsError as error:
                if self.stat(key) is None:  # 409: somebody else writes or deletes it right now
                    raise self._complain("write", key, error) from error
                return False
            return True

    def replace(self, stat: Stat, raw: bytes) -> bool:
        """Put an object in place of what was seen; False when it is another one by now."""
        with self._in_words("write", stat.key):
            try:
                obstore.put(self._store, stat.key, raw, mode=stat.state, use_multipart=False)
            except (PreconditionError, AlreadyExistsError, FileNotFoundError):
                return False
            return True

    def put(self, key: str, source: Path) -> None:
        """Put a file in place of what has its name, at once, however many parts it takes."""
        part_bytes = max(_PART_BYTES, source.stat().st_size // _MOST_PARTS)
        with self._in_words("write", key):
            obstore.put(
                self._store, key, source, chunk_size=part_bytes, max_concurrency=_PARTS_AT_ONCE
            )

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, those that are there, as many at once as a request takes."""
        left = iter(keys)
        while some := list(islice(left, _DELETED_AT_ONCE)):
            with self._in_words("delete", some[0]):
                try:
                    obstore.delete(self._store, some)
                except FileNotFoundError:  # who says so may have stopped there
                    self._delete_singly(some)

    def _delete_singly(self, keys: Sequence[str]) -> None:
        for key in keys:
            with suppress(FileNotFoundError):
                obstore.delete(self._store, key)

    def names(self, folder: str) -> list[str]:
        """Return the sorted names directly in a folder, of objects and of folders."""
        with self._in_words("list", folder):
            found = obstore.list_with_delimiter(self._store, folder if folder else None)
            paths = [*found["common_prefixes"], *(one["path"] for one in found["objects"])]
            return sorted({path.rpartition("/")[2] for path in paths})

    def walk(self, folder: str) -> Iterator[Stat]:
        """Yield all objects in a folder and below it."""
        with self._in_words("list", folder):
            for page in obstore.list(self._store, folder if folder else None):
                yield from map(_to_stat, page)

    def name_object(self, key: str) -> str:
        """Return an object's URL."""
        return f"{self.name}/{key}"

    @contextmanager
    def _in_words(self, verb: str, key: str) -> Iterator[None]:
        try:
            yield
        except (BaseError, OSError, ValueError) as error:
            raise self._complain(verb, key, error) from error

    def _complain(self, verb: str, key: str, error: Exception) -> WorldError:
        told = str(error)
        found = _STATUS.search(told)
        status = None if found is None else (found[1] or found[2]).strip()
        place = self.name_object(key)
        if _NO_CREDENTIALS.search(told):
            why = "no credentials were found"
            cure = f"set those of {self.name} in the environment, as AWS_ACCESS_KEY_ID"
        elif _NO_BUCKET.search(told) or isinstance(error, FileNotFoundError):
            why = "there is no such bucket"
            cure = f"make the bucket {self.name}, or correct the URL"
        elif isinstance(error, PermissionDeniedError | UnauthenticatedError):
            why = "permission denied" if status is None else status
            cure = "check the credentials in the environment, and what they allow"
        elif status is not None:
            why, cure = status, "check the store, its region and its endpoint"
        else:
            why = told.strip().splitlines()[0].rpartition("HTTP error: ")[2][:200]
            cure = f"check that {self.name} can be reached"
        return WorldError(f"cannot {verb} {place} ({why}): {cure}")


@lru_cache(maxsize=64)
def open_bucket(name: str) -> Bucket:
    """Return the bucket of a URL like s3://bucket; nothing is asked of it yet.

    Raises:
        UsageError: the environment does not say enough about it.
    """
    client: ClientConfig = {"connect_timeout": _CONNECT_TIMEOUT, "timeout": _TIMEOUT}
    if any(os.environ.get(one, "").startswith("http://") for one in _ENDPOINTS):
        client["allow_http"] = True
    try:
        return Bucket(name, from_url(name, client_options=client, retry_config=_RETRY))
    except (BaseError, ValueError) as error:
        why = str(error).strip().splitlines()[0][:200]
        raise UsageError(
            f"{name} cannot be opened ({why}): check the URL and the environment"
        ) from error


def _to_stat(meta: "ObjectMeta") -> Stat:
    e_tag, version = meta["e_tag"], meta["version"]
    state: UpdateVersion = {}
    if e_tag is not None:
        state["e_tag"] = e_tag
    if version is not None:
        state["version"] = version
    changed_at = meta["last_modified"]
    return Stat(
        key=meta["path"],
        size_bytes=meta["size"],
        version=changed_at.isoformat() if e_tag is None else e_tag,
        changed_at=changed_at.timestamp(),
        state=state,
    )
