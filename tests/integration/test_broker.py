"""Every way to a broker, and every way to be refused by one: a sentence, and nothing lost."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.desk import ROWS, Row, wait_for
from tests.fleet import FleetDesk
from tests.redis_server import RedisServer
from tests.tls_relay import CA, tls_relay
from worker.contracts.broker import parse_broker
from worker.contracts.errors import UsageError, WorldError
from worker.contracts.ledger import Ledger
from worker.contracts.queue import WORKER_KEYS, name_channel


@pytest.fixture
def tcp_server() -> Iterator[RedisServer]:
    """Give a server with a port; it may have a replica."""
    with TemporaryDirectory(prefix="spanmill-") as folder:
        server = RedisServer.with_port(Path(folder))
        server.start()
        yield server
        server.stop()


def answer_at(fleet: FleetDesk, url: str) -> list[Row]:
    """Answer the usual job through a broker with a worker of its own."""
    fleet.reopen(url)
    fleet.start_worker("--broker", url)
    ran = fleet.submit("--broker", url)
    assert ran.status == 0, ran.err
    return fleet.desk.answers()


def test_a_broker_behind_tls_is_trusted_by_its_authority(
    fleet: FleetDesk, undisturbed: list[Row]
) -> None:
    with tls_relay(fleet.server.socket) as port:
        url = f"rediss://localhost:{port}/0"
        refused = fleet.submit("--broker", url)
        assert refused.status == 2
        assert "certificate that is not trusted" in refused.complaint()
        Ledger(parse_broker(f"{url}?ssl_cert_reqs=none")).check()
        assert answer_at(fleet, f"{url}?ssl_ca_certs={CA}") == undisturbed
        where = ["--broker", f"{url}?ssl_ca_certs={CA}", "--jobs-root", fleet.desk.jobs]
        assert fleet.desk.run("worker", "--check", *where).status == 0


def test_a_password_and_a_database_of_a_broker_over_tcp(
    fleet: FleetDesk, tcp_server: RedisServer, undisturbed: list[Row]
) -> None:
    tcp_server.client.config_set("requirepass", "+s3:cr/et@")
    url = f"redis://:%2Bs3%3Acr%2Fet%40@127.0.0.1:{tcp_server.port}/5"
    assert answer_at(fleet, url) == undisturbed
    assert "s3" not in fleet.log()


def test_a_user_with_a_password_and_a_database_of_its_own_is_let_in(
    fleet: FleetDesk, undisturbed: list[Row]
) -> None:
    fleet.server.client.acl_setuser(
        "miller", enabled=True, passwords=["+s3:cr/et"], commands=["+@all", "-@dangerous", "+info"],
        keys=["spanmill*", "_kombu*", "*celery*"], channels=["*"],
    )  # fmt: skip
    fleet.server.client.acl_setuser("default", enabled=True, reset_passwords=True,
                                    passwords=["+other"])  # fmt: skip
    refused = fleet.submit()
    assert refused.status == 2
    assert "refuses this user or password" in refused.complaint()
    url = f"unix://miller:s3%3Acr%2Fet@{fleet.server.socket}?db=3"
    assert answer_at(fleet, url) == undisturbed


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("redis://localhost:1/0", "cannot be reached"),
        ("unix:///nowhere/redis.sock", "cannot be reached"),
        ("amqp://localhost", "does not begin with"),
        ("redis://localhost:1/x", "database"),
        ("redis://localhost:1/0?timeout=3", "unknown"),
    ],
)
def test_a_broker_that_is_none_is_refused_in_a_sentence(
    fleet: FleetDesk, url: str, told: str
) -> None:
    ran = fleet.submit("--broker", url)
    assert ran.status in (1, 2)
    assert told in ran.complaint()
    assert not fleet.desk.jobs.exists()


def test_a_user_who_may_too_little_is_told_so_before_any_work(fleet: FleetDesk) -> None:
    everything = {"commands": ["+@all"], "keys": ["*"], "channels": ["*"]}
    for number, less in enumerate(
        [
            {"commands": ["+@read", "+evalsha", "+eval", "+script", "+time"]},
            {"commands": ["+@all", "-@scripting"]},
            {"keys": ["spanmill:*"]},
            {"keys": ["spanmill*", "_kombu*"]},
            {"channels": ["/*"]},
        ]
    ):
        user = f"user{number}"
        fleet.server.client.acl_setuser(
            user, enabled=True, passwords=["+secret"], reset_channels=True, **everything | less
        )
        broker = replace(fleet.server.broker, user=user, password="secret")
        with pytest.raises(UsageError, match="does not let this user do what spanmill needs"):
            Ledger(broker).check(WORKER_KEYS, name_channel(broker))
    url = f"unix://user0:secret@{fleet.server.socket}"
    for words in (fleet.words(), ["worker", "--jobs-root", fleet.desk.jobs]):
        ran = fleet.desk.run(*words, "--broker", url)
        assert ran.status == 2
        assert "does not let this user" in ran.complaint()
    assert not fleet.desk.jobs.exists()


def test_a_replica_is_refused_by_name_until_it_is_the_master(
    fleet: FleetDesk, tcp_server: RedisServer, undisturbed: list[Row]
) -> None:
    with TemporaryDirectory(prefix="spanmill-") as folder:
        replica = RedisServer(Path(folder), "--replicaof", "127.0.0.1", str(tcp_server.port))
        replica.start()
        wait_for(
            lambda: replica.client.info("replication")["master_link_status"] == "up", "it follows"
        )
        ran = fleet.submit("--broker", replica.url)
        assert ran.status == 1
        assert "is a read-only replica: use its master's address" in ran.complaint()
        with pytest.raises(WorldError, match="read-only replica"):
            Ledger(replica.broker).commit("mill-1", 0, 1, 0)
        fleet.launch_worker("--broker", replica.url)
        wait_for(lambda: "replica: use its master's address; the worker" in fleet.log(), "it waits")
        replica.client.replicaof("NO", "ONE")  # the master has died
        assert fleet.submit("--broker", replica.url).status == 0
        assert fleet.desk.answers() == undisturbed
        replica.stop()


def test_a_password_that_changes_meanwhile_ends_worker_and_producer_and_loses_nothing(
    fleet: FleetDesk, undisturbed: list[Row]
) -> None:
    submitted = fleet.start("--queue", "urgent")
    wait_for(lambda: (one := fleet.counts()) and one.in_flight == ROWS // 4, "all is in flight")
    pid = fleet.start_worker("--queue", "other")
    client = fleet.server.client
    client.acl_setuser("default", enabled=True, reset_passwords=True, passwords=["+other"])
    client.client_kill_filter(skipme=True)  # who comes back has to sign in
    ran = submitted.finish()
    assert ran.status == 1
    assert "refuses this user or password: put the right ones into the URL, then" in ran.err
    assert f"`spanmill resume {fleet.desk.job()} " in ran.err
    assert fleet.end_worker(pid) == 2
    assert "refuses this user or password" in fleet.log()
    url = f"unix://:other@{fleet.server.socket}"
    fleet.reopen(url)
    fleet.start_worker("--broker", url, "--queue", "urgent")
    assert fleet.run("resume", "--broker", url).status == 0
    assert fleet.desk.answers() == undisturbed


def test_a_worker_waits_for_a_broker_that_is_not_there_yet(
    fleet: FleetDesk, undisturbed: list[Row]
) -> None:
    fleet.server.stop()
    fleet.launch_worker()
    wait_for(lambda: "the worker waits for it" in fleet.log(), "it says so")
    fleet.server.start()
    assert fleet.submit().status == 0
    assert fleet.desk.answers() == undisturbed
