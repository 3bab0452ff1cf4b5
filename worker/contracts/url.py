"""Names of places: a path, or the URL of something in an object store."""

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from worker.contracts.errors import UsageError

#: S3, Google Cloud Storage, and Azure's two spellings.
SCHEMES = ("s3", "gs", "az", "abfs", "abfss")


@dataclass(frozen=True, slots=True)
class Url:
    """An object, or a folder of objects: ``bucket`` is a URL too, ``key`` has no slash around."""

    bucket: str
    key: str

    def __str__(self) -> str:
        """Return it as it is written."""
        return f"{self.bucket}/{self.key}" if self.key else self.bucket


def is_url(name: str) -> bool:
    """Say whether a name is a URL, of whatever kind."""
    return "://" in name


def parse_url(name: str) -> Url:
    """Take the URL of an object or folder apart. No character of a key means anything.

    Raises:
        UsageError: its kind is unknown, or it names no bucket.
    """
    scheme, rest = name.split("://", 1)
    if scheme not in SCHEMES:
        known = ", ".join(f"{one}://" for one in SCHEMES)
        raise UsageError(f"{name} is no URL that is known here: give a path, or one of {known}")
    bucket, _, key = rest.partition("/")
    if not bucket:
        raise UsageError(f"{name} names no bucket: write it as {scheme}://BUCKET/KEY")
    return Url(f"{scheme}://{bucket}", key.strip("/"))


def to_path(name: str) -> str:
    """Return the path that a file:// URL means, and every other name as it is."""
    if not name.startswith("file://"):
        return name
    parts = urlsplit(name)
    if parts.netloc not in ("", "localhost"):
        raise UsageError(f"{name} names another host: write it as file:///PATH")
    return unquote(parts.path)


def find_parent(name: str) -> str:
    """Return the folder that a file, a folder or an object lies in, absolute."""
    if not is_url(name):
        return str(Path(name.rstrip("/")).absolute().parent)
    url = parse_url(name)
    return str(Url(url.bucket, url.key.rpartition("/")[0]))
