"""A broker's URL, and what its failures are called."""

import pytest
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoPermissionError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from worker.contracts.broker import Broker, parse_broker, translate
from worker.contracts.errors import SpanmillError, UsageError, WorldError

TLS = {"ssl_cert_reqs": "required"}


@pytest.mark.parametrize(
    ("url", "broker", "kombu_url"),
    [
        ("redis://", Broker(), "redis://localhost:6379/0"),
        ("redis://host", Broker("host"), "redis://host:6379/0"),
        ("redis://host:1/7", Broker("host", 1, 7), "redis://host:1/7"),
        ("redis://host:1?db=7", Broker("host", 1, 7), "redis://host:1/7"),
        ("redis://[::1]:1/0", Broker("::1", 1), "redis://[::1]:1/0"),
        ("redis://:p%40s@host", Broker("host", password="p@s"), "redis://:p%40s@host:6379/0"),
        (
            "redis://me:p%2Fs@host",
            Broker("host", user="me", password="p/s"),
            "redis://me:p%2Fs@host:6379/0",
        ),
        ("rediss://host:1", Broker("host", 1, tls=TLS), "rediss://host:1/0"),
        (
            "rediss://host?ssl_ca_certs=/ca.pem&ssl_cert_reqs=none",
            Broker("host", tls={"ssl_cert_reqs": "none", "ssl_ca_certs": "/ca.pem"}),
            "rediss://host:6379/0",
        ),
        (
            "unix:///run/redis.sock?db=2",
            Broker(socket="/run/redis.sock", database=2),
            "redis+socket:///run/redis.sock?virtual_host=2",
        ),
        (
            "unix://me:secret@/run/redis.sock",
            Broker(socket="/run/redis.sock", user="me", password="secret"),
            "redis+socket://me:secret@/run/redis.sock?virtual_host=0",
        ),
    ],
)
def test_a_url_is_read_and_told_to_celery(url: str, broker: Broker, kombu_url: str) -> None:
    assert parse_broker(url) == broker
    assert parse_broker(url).kombu_url == kombu_url


@pytest.mark.parametrize(
    "url",
    [
        "", "host:6379", "http://secret@host", "redis://:secret@host:port", "redis://:secret@host/x",
        "redis://:secret@host/1/2", "redis://:secret@host?db=-1", "redis://:secret@host?unknown=1",
        "redis://:secret@host?ssl_ca_certs=/ca.pem", "rediss://:secret@host?ssl_cert_reqs=maybe",
        "unix://", "unix://:secret@", "redis://:secret@host?db",
    ],
)  # fmt: skip
def test_what_is_no_url_is_refused_without_quoting_it(url: str) -> None:
    with pytest.raises(UsageError, match=r"the broker's URL .*: write redis://") as refused:
        parse_broker(url)
    assert "secret" not in str(refused.value)


def test_no_message_holds_a_password() -> None:
    broker = parse_broker("redis://me:secret@host:1/2")
    assert broker.name == "redis://host:1/2"
    assert "secret" not in repr(broker)
    assert "secret" not in str(translate(RedisConnectionError("away"), broker))


@pytest.mark.parametrize(
    ("error", "kind", "told"),
    [
        (AuthenticationError("WRONGPASS"), UsageError, "refuses this user or password"),
        (ResponseError("NOAUTH Authentication required."), UsageError, "refuses this user"),
        (NoPermissionError("no keys"), UsageError, "does not let this user do .* \\(no keys\\)"),
        (ResponseError("ACL failure in script"), UsageError, "does not let this user"),
        (ReadOnlyError("READONLY"), WorldError, "is a read-only replica"),
        (ResponseError("OOM command not allowed"), WorldError, "takes no more data"),
        (ResponseError("MISCONF cannot persist"), WorldError, "takes no more data"),
        (BusyLoadingError("LOADING"), WorldError, "is still reading its data"),
        (RedisTimeoutError("slow"), WorldError, "does not answer"),
        (RedisConnectionError("refused"), WorldError, "cannot be reached"),
        (
            RedisConnectionError("Error 1: [SSL: CERTIFICATE_VERIFY_FAILED] self-signed"),
            UsageError,
            "shows a certificate that is not trusted here",
        ),
        (ResponseError("unknown command"), WorldError, "use Redis 6.2 or newer"),
        (RedisError(""), WorldError, "no reason given"),
    ],
)
def test_a_failure_is_a_sentence_that_says_whether_waiting_helps(
    error: RedisError, kind: type[SpanmillError], told: str
) -> None:
    with pytest.raises(kind, match=told):
        raise translate(error, Broker())
