"""What a producer writes and says of its job while the world changes, with a real broker."""

import time
from dataclasses import replace

import pytest

from producer.diary import Diary
from producer.follow import Follower
from producer.meter import Meter
from producer.progress import Progress
from producer.run import Run
from tests.desk import make_rows, wait_for
from tests.fleet import FleetDesk
from worker.contracts import scripts
from worker.contracts.folder import JobFolder
from worker.contracts.ledger import Ledger
from worker.contracts.object_store import open_store
from worker.contracts.queue import name_queue
from worker.contracts.resend import Resender
from worker.log import Log


def follow(fleet: FleetDesk, user: str) -> Follower:
    """Follow the only job as a user of the broker."""
    broker = replace(fleet.server.broker, user=user, password="secret")
    folder = JobFolder(open_store(str(fleet.desk.jobs)), fleet.desk.job())
    manifest = folder.need_manifest()
    run = Run(folder, manifest, lambda *_: None, 600.0, Progress(manifest.rows), lambda: False)
    ledger = Ledger(broker)
    return Follower(run, Diary(folder), ledger, Resender(broker, ledger), Meter(Log()))


def test_a_pause_of_a_producer_that_leaves_is_over(fleet: FleetDesk) -> None:
    fleet.desk.write(make_rows(8))
    assert fleet.submit("--no-wait").status == 0
    everything = {"keys": ["*"], "channels": ["*"], "passwords": ["+secret"], "enabled": True}
    fleet.server.client.acl_setuser("all", commands=["+@all"], **everything)
    follower = follow(fleet, "all")
    before = fleet.desk.states()
    follower.suffer("the broker takes no message")
    assert fleet.desk.states() == [*before, "paused"]
    follower.leave()
    assert fleet.desk.states() == [*before, "paused", "running"]


def lose_messages(fleet: FleetDesk) -> None:
    """Let what waits be lost, and that long ago."""
    fleet.server.client.delete(name_queue("default"))
    waiting = fleet.server.client.zrange(scripts.WAITING, 0, -1)
    fleet.server.client.zadd(scripts.WAITING, dict.fromkeys(waiting, 1.0))


def test_a_job_is_paused_once_while_messages_cannot_be_sent_and_goes_on_once(
    fleet: FleetDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producer.follow.CALM_SECONDS", 4.0)
    fleet.desk.write(make_rows(8))
    assert fleet.submit("--no-wait").status == 0
    everything = {"keys": ["*"], "channels": ["*"], "passwords": ["+secret"], "enabled": True}
    fleet.server.client.acl_setuser("mute", commands=["+@all", "-lpush"], **everything)
    follower = follow(fleet, "mute")
    before = fleet.desk.states()
    for _ in range(4):  # its messages are tried once a second, and the ledger answers meanwhile
        lose_messages(fleet)
        until = time.monotonic() + 1.2
        while time.monotonic() < until:
            follower.look()
            time.sleep(0.05)
    assert fleet.desk.states() == [*before, "paused"]
    fleet.server.client.acl_setuser("mute", commands=["+@all"], **everything)
    lose_messages(fleet)

    def goes_on() -> bool:
        follower.look()
        return fleet.desk.states()[-1] == "running"

    wait_for(goes_on, "it goes on")
    assert fleet.server.client.llen(name_queue("default")) == 2
    assert fleet.desk.states() == [*before, "paused", "running"]
