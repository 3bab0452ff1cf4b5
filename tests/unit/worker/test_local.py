"""The embedded fleet with real processes, and a reader that answers at once."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pyarrow as pa
import pytest

from tests.benchmarks.instant import open_instant_tools
from worker.attempts import OutgoingBatch
from worker.contracts.errors import JobError, WorldError
from worker.contracts.job import shard_key
from worker.contracts.options import ForwardPolicy, ReadingOptions
from worker.contracts.shard import EXAMPLE_SCHEMA, encode_payload
from worker.local import HELD_BATCHES, FleetOptions, Hooks, run_fleet
from worker.task import Done, Tools
from worker.tools import JobTools

ROWS = 4


@dataclass
class Listener:
    """Writes down what a fleet says."""

    done: list[int] = field(default_factory=list)
    pids: list[int] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    stop_after: float = float("inf")
    when_done: Callable[[int], None] = lambda _: None

    def hooks(self) -> Hooks:
        return Hooks(
            done=self._done,
            paused=lambda reason: self.said.append(f"paused: {reason}"),
            resumed=lambda: self.said.append("resumed"),
            stopping=lambda: len(self.done) >= self.stop_after,
            draining=lambda: self.said.append("draining"),
        )

    def _done(self, batch: OutgoingBatch, done: Done) -> None:
        assert batch.number == done.batch
        self.done.append(done.batch)
        if done.stats is not None:
            self.pids.append(done.stats.pid)
        self.when_done(done.batch)


def batches(count: int, filler: str = "") -> Iterator[OutgoingBatch]:
    for number in range(count):
        rows = list(range(number * ROWS, (number + 1) * ROWS))
        table = pa.Table.from_arrays(
            [
                pa.array(rows),
                pa.array([str(row) for row in rows]),
                pa.array(["Who?"] * ROWS, pa.large_string()),
                pa.array([f"Somebody {filler}"] * ROWS, pa.large_string()),
                pa.nulls(ROWS, pa.string()),
                pa.nulls(ROWS, pa.string()),
            ],
            schema=EXAMPLE_SCHEMA,
        )
        yield OutgoingBatch(number, rows, encode_payload("job", number, table))


def options(root: Path, workers: int = 1, **more: float) -> FleetOptions:
    recipe = JobTools(str(root), "0" * 64, ReadingOptions(0.0), ForwardPolicy(), "cpu")
    return FleetOptions(workers, partial(open_instant_tools, recipe), **more)


def test_every_batch_is_done_once(tmp_path: Path) -> None:
    heard = Listener()
    assert run_fleet(batches(20), options(tmp_path, 2), heard.hooks())
    assert sorted(heard.done) == list(range(20))
    assert all((tmp_path / shard_key("job", number)).is_file() for number in range(20))
    assert heard.said == []


def test_no_more_batches_are_taken_than_processes_can_hold(tmp_path: Path) -> None:
    heard = Listener()
    taken = 0
    most = 0

    def counted() -> Iterator[OutgoingBatch]:
        nonlocal taken, most
        for batch in batches(12):
            taken += 1
            most = max(most, taken - len(heard.done))
            yield batch

    assert run_fleet(counted(), options(tmp_path, 2), heard.hooks())
    assert most == 2 * HELD_BATCHES


def test_each_process_has_a_batch_before_one_has_two(tmp_path: Path) -> None:
    heard = Listener()
    assert run_fleet(batches(2), options(tmp_path, 2), heard.hooks())
    assert len(set(heard.pids)) == 2


def test_no_process_is_started_for_no_batch(tmp_path: Path) -> None:
    def never() -> Tools:
        raise AssertionError

    heard = Listener()
    assert run_fleet(batches(0), FleetOptions(4, never), heard.hooks())


def test_a_run_that_is_stopped_says_so_and_leaves_no_process(tmp_path: Path) -> None:
    heard = Listener(stop_after=3)
    assert not run_fleet(batches(50), options(tmp_path, 2), heard.hooks())
    assert heard.said == ["draining"]
    assert 3 <= len(heard.done) < 50
    assert not _fleet()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_to_stop_are_not_for_the_answering_processes(
    tmp_path: Path, number: signal.Signals
) -> None:
    heard = Listener()

    def send(done: int) -> None:
        if done == 0:
            for child in _fleet():
                child.send_signal(number)

    heard.when_done = send
    assert run_fleet(batches(12), options(tmp_path), heard.hooks())
    assert len(set(heard.pids)) == 1, "it died, and another took its place"
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set(), "the parent hears them still"


def test_a_done_batch_is_not_done_again(tmp_path: Path) -> None:
    assert run_fleet(batches(3), options(tmp_path), Listener().hooks())
    heard = Listener()
    assert run_fleet(batches(3), options(tmp_path), heard.hooks())
    assert heard.done == [0, 1, 2]
    assert heard.pids == [], "no statistics: another delivery had committed it"


def test_a_process_that_takes_nothing_from_its_pipe_stops_nobody_else(tmp_path: Path) -> None:
    """Batches larger than a pipe's buffer wait in a thread, not in the parent."""
    heard = Listener()
    stopped: list[psutil.Process] = []

    def stop_the_other(_: int) -> None:
        if len(heard.done) == 4 and not stopped:
            stopped.extend(one for one in _fleet() if one.pid != heard.pids[-1])
            stopped[0].suspend()
        elif len(heard.done) == 30:
            stopped[0].resume()

    heard.when_done = stop_the_other
    noise = os.urandom(400_000).hex()
    assert run_fleet(batches(40, noise), options(tmp_path, 2), heard.hooks())
    assert sorted(heard.done) == list(range(40))


def test_a_store_that_fails_pauses_the_fleet_and_uses_up_no_attempt(tmp_path: Path) -> None:
    heard = Listener()
    blocked = tmp_path / "job"
    blocked.write_text("in the way")

    def make_room(reason: str) -> None:
        heard.said.append(reason)
        blocked.unlink()

    hooks = heard.hooks()
    hooks = Hooks(hooks.done, make_room, hooks.resumed, hooks.stopping, hooks.draining)
    assert run_fleet(batches(6), options(tmp_path), hooks)
    assert sorted(heard.done) == list(range(6))
    assert len(heard.said) == 2
    assert heard.said[0].startswith("cannot ")
    assert heard.said[1] == "resumed"


def test_a_store_that_keeps_failing_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "job").write_text("in the way")
    heard = Listener()
    began = time.monotonic()
    with pytest.raises(WorldError, match="cannot "):
        run_fleet(batches(6), options(tmp_path, 2, max_pause_seconds=1.0), heard.hooks())
    assert time.monotonic() - began >= 1.0
    assert len(heard.said) == 1
    assert not _fleet()


def _die() -> Tools:
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError


def test_processes_that_die_as_they_start_end_the_job_not_its_rows(tmp_path: Path) -> None:
    heard = Listener()
    with pytest.raises(JobError, match="5 answering processes in a row ended in a crash"):
        run_fleet(batches(3), FleetOptions(1, _die), heard.hooks())
    assert heard.done == []


def _fleet() -> list[psutil.Process]:
    children = psutil.Process().children()
    return [one for one in children if any("spawn_main" in word for word in one.cmdline())]
