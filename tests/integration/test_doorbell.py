"""The bell of trainings: what is lost is rung for again, and no queue grows without end."""

from pathlib import Path

import pytest

from tests.redis_server import RedisServer
from training.doorbell import QUEUE, Bell
from training.run_state import Order, RunFolder, Turn
from worker.contracts.errors import WorldError


def make_run(root: Path, name: str) -> RunFolder:
    run = RunFolder(root / name)
    run.folder.mkdir()
    order = Order(
        text="", settings=(), steps=("first",), data="/data", encoder=None, processes=None, cwd="/"
    )
    run.put_order(order)
    run.put_turn(Turn.SUBMITTED)
    return run


def test_what_was_lost_is_rung_for_again_and_what_waits_is_not(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    runs = [make_run(tmp_path, name) for name in ("a", "b", "c")]
    bell, other = Bell(redis_server.broker, tmp_path), Bell(redis_server.broker, tmp_path)
    for run in runs:
        bell.ring(run.name, "first")
    assert bell.ring_again() == []
    redis_server.client.delete(QUEUE)  # as a worker that dies between taking and noting it
    assert bell.ring_again() == []  # it was rung for just now: somebody may be at it
    redis_server.client.flushall()
    assert bell.ring_again() == ["a", "b", "c"]
    assert other.ring_again() == []
    assert redis_server.client.llen(QUEUE) == 3
    redis_server.client.flushall()
    runs[0].put_turn(Turn.CANCELLED)
    runs[1].put_turn(Turn.FAILED, "a loss is no number: lower the rate")
    (runs[2].folder / "order.json").write_text("{")  # damaged: whoever looks at it is told
    assert bell.ring_again() == []


def test_a_bell_without_a_broker_says_so(redis_server: RedisServer, tmp_path: Path) -> None:
    run = make_run(tmp_path, "a")
    redis_server.stop()
    bell = Bell(redis_server.broker, tmp_path)
    for ring in (bell.ring_again, lambda: bell.ring(run.name, "first")):
        with pytest.raises(WorldError, match="cannot be reached"):
            ring()
