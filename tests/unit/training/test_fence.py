"""Fences: one holder at a time writes, whoever was overtaken writes nothing."""

import fcntl
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from training.fence import (
    Fence,
    StoppedError,
    Wish,
    draft_of,
    find_wish,
    heed,
    sweep,
    take_fence,
    writing,
)
from training.holds import LOCK, Hold, Holder, count_deaths, find_hold, name_self
from training.progress import Metrics
from training.run_state import write_whole
from worker.contracts.errors import UsageError, WorldError
from worker.contracts.process import ProcessName

ELSEWHERE = ProcessName("elsewhere", 1, "another machine", "1")
ME = Holder(who="me", process=name_self())
#: A holder of another machine, of which only its signs of life are known.
OTHER = Holder(who="other", process=ELSEWHERE, step="first", at="step-0000020")


def take(folder: Path, holder: Holder = ME) -> Fence:
    taken = take_fence(folder, holder)
    assert isinstance(taken, Fence)
    return taken


def grow_old(folder: Path, number: int) -> None:
    """Let a holder have given its last sign of life a minute ago."""
    path = folder / "fences" / f"{number:07d}.json"
    then = path.stat().st_mtime - 60
    os.utime(path, (then, then))


def test_a_run_that_is_held_is_not_taken(tmp_path: Path) -> None:
    take(tmp_path, OTHER)
    held = take_fence(tmp_path, ME)
    assert isinstance(held, Hold)
    assert (held.number, held.holder, held.lives) == (1, OTHER, True)
    assert find_hold(tmp_path) == held


def test_who_leaves_makes_room_at_once_and_who_is_silent_after_the_lease(tmp_path: Path) -> None:
    with take(tmp_path):
        pass
    with take(tmp_path) as second:
        assert second.number == 2
    assert count_deaths(tmp_path, "first", None) == 0
    take(tmp_path, OTHER)
    grow_old(tmp_path, 3)
    assert take(tmp_path).number == 4


def test_a_process_of_this_machine_that_ended_is_known_to_be_dead(tmp_path: Path) -> None:
    code = (
        "from training.holds import name_self; import msgspec, sys;"
        " sys.stdout.buffer.write(msgspec.json.encode(name_self()))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    process = msgspec.json.decode(done.stdout, type=ProcessName)
    take(tmp_path, replace(ME, process=process))
    assert take(tmp_path).number == 2


def test_who_was_overtaken_writes_nothing(tmp_path: Path) -> None:
    stale = take(tmp_path)
    with stale:
        write_whole(tmp_path / "note", "mine")
        # As it looks to another host when this one sleeps; but here it gives signs of life.
        other: Fence | Hold | None = None
        while not isinstance(other, Fence):
            grow_old(tmp_path, 1)
            other = take_fence(tmp_path, OTHER)
        for write in (
            lambda: write_whole(tmp_path / "note", "mine again"),
            lambda: Metrics(tmp_path / "metrics.jsonl", writes=True).write({"step": 1}),
        ):
            with pytest.raises(StoppedError, match="taken over by another process") as stopped:
                write()
            assert stopped.value.wish is Wish.OVERTAKEN
        assert find_wish() is Wish.OVERTAKEN
    assert (tmp_path / "note").read_text() == "mine\n"
    assert not (tmp_path / "metrics.jsonl").exists()
    held = find_hold(tmp_path)
    assert held is not None
    assert held.number == 2


def test_nobody_takes_over_while_something_is_put_in_its_place(tmp_path: Path) -> None:
    with take(tmp_path), writing():
        with (tmp_path / LOCK).open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with writing():  # as checkpoints do, which set links
            pass
        with pytest.raises(UsageError, match="another process works in"):
            take_fence(tmp_path, OTHER)


def test_holders_write_to_drafts_of_their_own(tmp_path: Path) -> None:
    alone = draft_of(tmp_path / "best")
    with take(tmp_path):
        first = draft_of(tmp_path / "best")
    with take(tmp_path):
        second = draft_of(tmp_path / "best")
    assert len({alone, first, second, tmp_path / "best"}) == 4


def test_a_wish_stops_a_holder_where_it_heeds_it(tmp_path: Path) -> None:
    heed()  # nobody holds anything
    wishes: list[Wish | None] = [None]
    fence = take_fence(tmp_path, ME, lambda: wishes[0])
    assert isinstance(fence, Fence)
    with fence:
        heed()
        wishes[0] = Wish.CANCEL
        fence.wait(3600)
        with pytest.raises(StoppedError, match="was cancelled"):
            heed()
        wishes[0] = None
        heed()


def test_deaths_are_counted_at_the_same_checkpoint_alone(tmp_path: Path) -> None:
    for number in range(1, 4):
        take(tmp_path, OTHER)
        grow_old(tmp_path, number)
    assert count_deaths(tmp_path, "first", "step-0000020") == 3
    assert count_deaths(tmp_path, "first", "step-0000040") == 0
    with take(tmp_path):
        pass  # somebody submitted it again
    assert count_deaths(tmp_path, "first", "step-0000020") == 0


def test_what_died_half_written_is_swept_by_the_next_holder(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    left = [tmp_path / ".run.json.1.part", tmp_path / "first" / ".latest.1.part"]
    for path in left:
        path.touch()
    for path in (tmp_path / "first" / ".step-0000020.1.part", tmp_path / ".ship-abc"):
        path.mkdir()
        (path / "model.safetensors").touch()
        left.append(path)
    (tmp_path / "first" / "metrics.jsonl").touch()
    with take(tmp_path):
        sweep(tmp_path)
    assert not [path for path in left if path.exists()]
    assert (tmp_path / "first" / "metrics.jsonl").exists()


def test_metrics_that_a_full_disk_does_not_take_anew_stay_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {number}}}\n' for number in range(1, 100)))
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(WorldError, match="make room"):
            Metrics(path, writes=True).forget_after(50)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    Metrics(path, writes=True).forget_after(50)
    assert len(path.read_text().splitlines()) == 50
    Metrics(path, writes=True).forget_after(0)
    assert path.read_text() == ""
