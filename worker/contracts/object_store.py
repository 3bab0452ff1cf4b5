"""Jobs in an object store: S3, GCS or Azure.

A put is conditional (If-None-Match) and atomic, so a name is free or holds a whole object here too.
A batch costs a look for its shard, a write, and a read when it is collected; in a fleet one more
look, whether the folder is that of the job's producer.
"""

import io
from pathlib import Path
from uuid import uuid4

from worker.contracts.bucket import Bucket, Stat, open_bucket
from worker.contracts.errors import UsageError, WorldError
from worker.contracts.object_file import open_object
from worker.contracts.store import LocalStore, Store
from worker.contracts.url import Url, is_url, parse_url, to_path

#: Of a bundle's model, which is read from its beginning to its end.
_BUFFER_BYTES = 8 * 1024 * 1024
_PROBE = ".spanmill-probe"


def open_store(root: str) -> Store:
    """Return the store of a jobs' folder, which need not exist.

    Raises:
        UsageError: it is empty, a URL of another kind, or the environment lacks what it needs.
    """
    path = to_path(root)
    if not path:
        raise UsageError("--jobs-root is empty: name a folder (. is this one) or a URL")
    if not is_url(path):
        return LocalStore(Path(path).absolute())
    url = parse_url(path)
    return ObjectStore(open_bucket(url.bucket), url.key)


class ObjectStore:
    """A store under a prefix of a bucket.

    Raises from every method: WorldError when the store is away, or refuses.
    """

    def __init__(self, bucket: Bucket, prefix: str) -> None:
        """Take the bucket; the prefix is a folder's key, or empty."""
        self._bucket = bucket
        self._prefix = prefix
        self.name = str(Url(bucket.name, prefix))

    def read(self, key: str) -> bytes | None:
        """Return an object, or None when there is none."""
        found = self._bucket.read(self._place(key))
        return None if found is None else found[0]

    def read_tail(self, key: str, size_bytes: int) -> bytes | None:
        """Return an object's last bytes, all if it has fewer, or None when there is none."""
        stat = self._bucket.stat(self._place(key))
        if stat is None or not stat.size_bytes:
            return None if stat is None else b""
        start = max(0, stat.size_bytes - size_bytes)
        return self._bucket.read_range(stat, start, stat.size_bytes)

    def open(self, key: str) -> io.BufferedReader | None:
        """Return an object as a stream, or None when there is none."""
        stat = self._bucket.stat(self._place(key))
        return None if stat is None else open_object(self._bucket, stat, buffer_bytes=_BUFFER_BYTES)

    def exists(self, key: str) -> bool:
        """Say whether there is such an object."""
        return self._bucket.stat(self._place(key)) is not None

    def names(self, folder: str) -> list[str]:
        """Return the sorted names directly in a folder; an absent folder has none."""
        return self._bucket.names(self._place(folder))

    def put_new(self, key: str, raw: bytes) -> bool:
        """Put an object if its name is free; say whether it was. The first writer wins."""
        return self._bucket.put_new(self._place(key), raw)

    def put_file(self, key: str, source: Path) -> None:
        """Put a local file, in place of what has its name; for what can be made again."""
        self._bucket.put(self._place(key), source)

    def remove(self, key: str) -> None:
        """Delete an object, or a folder with all that is in it."""
        place = self._place(key)
        self._bucket.delete(one.key for one in self._bucket.walk(place))
        self._bucket.delete((place,))  # apart: of a folder it is none, and the others are in bulk

    def sweep(self, older_than_seconds: float, now: float) -> None:
        """Remove nothing: what a killed upload leaves is for the bucket's life cycle rules."""

    def look(self, key: str) -> tuple[bytes, Stat] | None:
        """Return an object and what `replace` needs to put another one in its place."""
        return self._bucket.read(self._place(key))

    def replace(self, seen: Stat, raw: bytes) -> bool:
        """Put an object in place of what was seen; False when it is another one by now."""
        return self._bucket.replace(seen, raw)

    def prove(self) -> None:
        """Write something twice, and delete it.

        Raises:
            WorldError: it cannot be written, or the second time was not refused.
        """
        key = f"{_PROBE}-{uuid4().hex}"
        self.put_new(key, b"")
        try:
            if self.put_new(key, b""):
                raise WorldError(
                    f"{self.name} lets a name be written twice (it knows no If-None-Match): use"
                    " another store for the jobs"
                )
        finally:
            self.remove(key)

    def _place(self, key: str) -> str:
        return f"{self._prefix}/{key}".strip("/")
