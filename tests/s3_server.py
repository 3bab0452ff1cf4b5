"""A server that speaks S3, as a real process, and a relay before it that can fail.

A pytest plugin: ``s3`` gives a bucket of its own to each test, in an environment that reaches it.
"""

import contextlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import obstore
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from obstore.store import S3Store

PATIENCE_SECONDS = 120.0
_REQUEST = re.compile(rb"(?:GET|HEAD|PUT|POST|DELETE) \S+(?= HTTP/1\.1\r\n)")
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "miller",
    "AWS_SECRET_ACCESS_KEY": "grist",
    "AWS_REGION": "us-east-1",
}


class Relay:
    """Passes connections on to a port, or cuts them, or answers them with an error of its own."""

    def __init__(self, port: int) -> None:
        """Listen on a port of our own."""
        self._target = port
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._answer: bytes | None = None
        self._is_cut = False
        self._open: set[socket.socket] = set()
        #: What the other side has sent so far, and what it was asked.
        self.passed_bytes = 0
        self.asked: list[str] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def cut(self) -> None:
        """End all connections, and every new one at once."""
        self._is_cut = True
        for one in list(self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def refuse(self, status: str) -> None:
        """Answer every request with this status, as an overloaded store does."""
        self._answer = (
            f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()
        )
        self.cut()

    def mend(self) -> None:
        """Pass everything on again."""
        self._answer, self._is_cut = None, False

    def close(self) -> None:
        """Stop listening."""
        self.cut()
        self._socket.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                ours, _ = self._socket.accept()
                threading.Thread(target=self._pass, args=(ours,), daemon=True).start()

    def _pass(self, ours: socket.socket) -> None:
        with ours, contextlib.suppress(OSError):
            if self._answer is not None:
                ours.recv(65536)
                ours.sendall(self._answer)
                return
            if self._is_cut:
                return
            with socket.create_connection(("127.0.0.1", self._target)) as theirs:
                self._open |= {ours, theirs}
                back = threading.Thread(target=self._copy_back, args=(theirs, ours), daemon=True)
                back.start()
                for raw in _copy(ours, theirs):
                    self.asked += [found.decode() for found in _REQUEST.findall(raw)]
                back.join()
                self._open -= {ours, theirs}

    def _copy_back(self, theirs: socket.socket, ours: socket.socket) -> None:
        for raw in _copy(theirs, ours):
            self.passed_bytes += len(raw)


class S3:
    """A bucket, and what a test looks at in it."""

    def __init__(self, endpoint: str) -> None:
        """Make a bucket at the server."""
        self.endpoint = endpoint
        self.bucket = f"mill-{uuid4().hex[:12]}"
        self.url = f"s3://{self.bucket}"
        self._ask("PUT", f"/{self.bucket}")
        self._store = S3Store(
            self.bucket,
            endpoint=endpoint,
            access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
            secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            region=CREDENTIALS["AWS_REGION"],
            client_options={"allow_http": True},
        )

    def put(self, key: str, source: Path | bytes) -> str:
        """Put an object, and return its URL."""
        obstore.put(self._store, key, source)
        return f"{self.url}/{key}"

    def list(self, prefix: str = "") -> list[str]:
        """Return all keys under a folder."""
        pages = obstore.list(self._store, prefix if prefix else None)
        return sorted(one["path"] for page in pages for one in page)

    def read(self, key: str) -> bytes:
        """Return an object."""
        return bytes(obstore.get(self._store, key).bytes())

    def delete(self, key: str) -> None:
        """Delete an object."""
        obstore.delete(self._store, key)

    def etag(self, key: str) -> str | None:
        """Return an object's ETag."""
        return obstore.head(self._store, key)["e_tag"]

    def table(self, key: str) -> pa.Table:
        """Return a Parquet object."""
        return pq.read_table(pa.BufferReader(self.read(key)))

    def demand_credentials(self, *, yes: bool) -> None:
        """Let the server check who asks, or let everybody in."""
        self._ask("POST", "/moto-api/reset-auth", b"0" if yes else b"Infinity")

    def _ask(self, method: str, path: str, raw: bytes | None = None) -> None:
        asked = urllib.request.Request(f"{self.endpoint}{path}", raw, method=method)  # noqa: S310
        asked.add_header("Content-Type", "text/plain")
        with urllib.request.urlopen(asked, timeout=PATIENCE_SECONDS) as told:  # noqa: S310
            told.read()


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """Start the server, once a test process."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
    )
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            break
        assert process.poll() is None, "the S3 server ended"
        assert time.monotonic() < until, "the S3 server does not listen"
        time.sleep(0.1)
    yield f"http://127.0.0.1:{port}"
    process.kill()
    process.wait()


@pytest.fixture
def s3(
    s3_endpoint: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> S3:
    """Give a bucket; this process and every command of the test reach it."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": s3_endpoint}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    return S3(s3_endpoint)


@pytest.fixture
def relay(s3: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    """Put a relay between the server and everybody but the test itself."""
    made = Relay(int(s3.endpoint.rpartition(":")[2]))
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{made.port}")
    yield made
    made.close()


def _copy(source: socket.socket, target: socket.socket) -> Iterator[bytes]:
    with contextlib.suppress(OSError):
        while raw := source.recv(65536):
            target.sendall(raw)
            yield raw
        target.shutdown(socket.SHUT_WR)
