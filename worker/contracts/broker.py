"""The broker's URL, a connection made of it, and what its failures are called.

Takes redis://, rediss:// (TLS) and unix:// URLs, with user, password and database.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    NoPermissionError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from worker.contracts.errors import SpanmillError, UsageError, WorldError

CONNECT_SECONDS = 5.0
#: Long enough for a large payload over a slow line, short enough to notice a dead one.
ANSWER_SECONDS = 30.0
_TLS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")


@dataclass(frozen=True, slots=True)
class Broker:
    """A Redis server and how to sign in. ``socket`` is a path, in place of host and port."""

    host: str = "localhost"
    port: int = 6379
    database: int = 0
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    socket: str | None = None
    tls: Mapping[str, str] | None = None

    @property
    def name(self) -> str:
        """The broker as messages name it: without user and password."""
        if self.socket is not None:
            return f"unix://{self.socket} (database {self.database})"
        scheme = "redis" if self.tls is None else "rediss"
        return f"{scheme}://{self.host}:{self.port}/{self.database}"

    @property
    def kombu_url(self) -> str:
        """The same as a URL that Celery takes, which differs for sockets."""
        secret = ""
        if self.password is not None:
            secret = f"{quote(self.user or '', safe='')}:{quote(self.password, safe='')}@"
        if self.socket is not None:
            return f"redis+socket://{secret}{self.socket}?virtual_host={self.database}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        scheme = "redis" if self.tls is None else "rediss"
        return f"{scheme}://{secret}{host}:{self.port}/{self.database}"


def parse_broker(url: str) -> Broker:
    """Read a broker's URL.

    Raises:
        UsageError: it is none.
    """
    try:
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
        port = parts.port
    except ValueError as error:
        raise _wrong("has a port or a query that cannot be read") from error
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise _wrong("does not begin with redis://, rediss:// or unix://")
    is_socket = parts.scheme == "unix"
    database = query.pop("db", None)
    if database is None:
        database = "0" if is_socket or parts.path in ("", "/") else parts.path[1:]
    if not database.isdecimal():
        raise _wrong("names a database that is not a number")
    if is_socket and not parts.path:
        raise _wrong("names no socket")
    return Broker(
        host="localhost" if parts.hostname is None else unquote(parts.hostname),
        port=6379 if port is None else port,
        database=int(database),
        user=unquote(parts.username) if parts.username else None,
        password=None if parts.password is None else unquote(parts.password),
        socket=unquote(parts.path) if is_socket else None,
        tls=_read_tls(parts.scheme, query),
    )


def _read_tls(scheme: str, query: dict[str, str]) -> Mapping[str, str] | None:
    """Take the options of TLS; the server's certificate is checked unless told otherwise."""
    tls = None
    if scheme == "rediss":
        tls = {"ssl_cert_reqs": query.pop("ssl_cert_reqs", "required").lower()}
        tls |= {name: query.pop(name) for name in _TLS if name in query}
        if tls["ssl_cert_reqs"] not in ("required", "none"):
            raise _wrong("has an ssl_cert_reqs that is neither required nor none")
    if query:
        raise _wrong(f"has an option that is unknown here ({sorted(query)[0]})")
    return tls


def _wrong(what: str) -> UsageError:
    # The URL itself is not quoted: it may hold a password.
    return UsageError(
        f"the broker's URL {what}: write redis://[user:password@]host[:port][/database],"
        " rediss://... for TLS, or unix:///path[?db=number]"
    )


def connect(broker: Broker, answer_seconds: float = ANSWER_SECONDS) -> Redis:
    """Return a client; it connects when it is used, and again after each failure."""
    options: dict[str, Any] = {
        "db": broker.database,
        "username": broker.user,
        "password": broker.password,
        "socket_timeout": answer_seconds,
        "socket_connect_timeout": CONNECT_SECONDS,
        # One more try, for a connection that the server closed while it idled. What the ledger
        # does may be done twice.
        "retry": Retry(NoBackoff(), 1),
        "health_check_interval": 25,
    }
    if broker.socket is not None:
        return Redis(unix_socket_path=broker.socket, **options)
    if broker.tls is not None:
        options |= {"ssl": True, **broker.tls}
    return Redis(host=broker.host, port=broker.port, socket_keepalive=True, **options)


@dataclass(frozen=True, slots=True)
class _Failure:
    """A kind of failure: known by its exception or by a word in its text."""

    kind: type[SpanmillError]
    exceptions: tuple[type[RedisError], ...]
    words: tuple[str, ...]
    told: str


#: In this order: an error inside a script is a ResponseError, told apart by its words.
_FAILURES = (
    _Failure(
        UsageError,
        (AuthenticationError,),
        ("NOAUTH", "WRONGPASS"),
        "refuses this user or password: put the right ones into the URL",
    ),
    _Failure(
        UsageError,
        (NoPermissionError, AuthorizationError),
        ("NOPERM", "ACL failure", "user executing the script can't"),
        "does not let this user do what spanmill needs ({}): allow it scripts, the keys spanmill*,"
        " _kombu* and *celery*, and all channels",
    ),
    _Failure(
        UsageError,
        (),
        ("CERTIFICATE_VERIFY_FAILED", "certificate verify failed"),
        "shows a certificate that is not trusted here: put ?ssl_ca_certs=FILE of its authority"
        " behind the URL",
    ),
    _Failure(
        WorldError,
        (ReadOnlyError,),
        ("READONLY",),
        "is a read-only replica: use its master's address",
    ),
    _Failure(
        WorldError, (), ("OOM", "MISCONF", "maxmemory"), "takes no more data ({}): give it room"
    ),
    _Failure(
        UsageError,
        (),
        ("DB index is out of range",),
        "has no database of this number: name another one in the URL",
    ),
    _Failure(WorldError, (BusyLoadingError,), ("LOADING",), "is still reading its data: wait"),
    _Failure(
        WorldError,
        (RedisTimeoutError,),
        (),
        "does not answer: check the network and the server",
    ),
    _Failure(WorldError, (ResponseError,), (), "refuses a command ({}): use Redis 6.2 or newer"),
    _Failure(WorldError, (RedisError,), (), "cannot be reached ({}): start it, or correct the URL"),
)


def translate(error: RedisError, broker: Broker) -> SpanmillError:
    """Say in one sentence what a failure means; its class says whether waiting can help."""
    text = str(error)
    last = text.splitlines()[-1][-120:] if text else "no reason given"
    failure = next(
        one
        for one in _FAILURES
        if isinstance(error, one.exceptions) or any(word in text for word in one.words)
    )
    return failure.kind(f"the broker {broker.name} {failure.told.format(last)}")
