"""A job's lock: one holds it, others see that, and it leaves nothing behind."""

import fcntl
import multiprocessing
import os
import shlex
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from producer.lock import LOCK, hold, is_held, name_command
from worker.contracts.errors import JobError, WorldError
from worker.contracts.store import LocalStore


def _hold_until_told(root: Path, said: "multiprocessing.connection.Connection") -> None:
    with hold(LocalStore(root), "job"):
        said.send("held")
        said.recv()


def test_a_job_is_held_by_one_process_until_it_dies(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    other = context.Process(target=_hold_until_told, args=(tmp_path, theirs), daemon=True)
    other.start()
    assert ours.recv() == "held"
    assert is_held(store, "job")
    with (
        pytest.raises(JobError, match="is being run by another command"),
        hold(store, "job"),
    ):
        pass
    other.kill()
    other.join()
    assert not is_held(store, "job")
    with hold(store, "job"):
        assert is_held(store, "job")


def test_a_look_does_not_keep_the_job_from_being_held(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    with hold(store, "job"):
        (tmp_path / "job" / "manifest.json").touch()
    looking = os.open(tmp_path / "job" / LOCK, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    assert not is_held(store, "job"), "lookers do not see each other"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(_hold_once, tmp_path)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.1)
        os.close(looking)
        waiting.result()


def _hold_once(root: Path) -> None:
    with hold(LocalStore(root), "job"):
        pass


def test_a_job_of_which_nothing_was_written_leaves_nothing(tmp_path: Path) -> None:
    root = tmp_path / "jobs"
    with hold(LocalStore(root), "job"):
        pass
    assert not root.exists()
    with hold(LocalStore(root), "job"):
        (root / "job" / "events").mkdir()
    assert (root / "job" / LOCK).exists()


def test_a_lock_that_was_tidied_away_is_not_the_one_that_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path)
    """Who waited for a lock that is removed must lock the new one, not the old."""
    path = tmp_path / "job" / LOCK
    flock = fcntl.flock
    tidied = []

    def tidy_first(descriptor: int, operation: int) -> None:
        if not tidied:
            tidied.append(path)
            path.unlink()
            path.parent.rmdir()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", tidy_first)
    with hold(store, "job"):
        assert is_held(store, "job")


def test_a_folder_that_cannot_be_made_is_the_worlds_fault(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    (tmp_path / "job").write_text("in the way")
    with (
        pytest.raises(WorldError, match=r"cannot write .*job/lock"),
        hold(store, "job"),
    ):
        pass
    assert not is_held(store, "job")


def test_a_command_is_named_as_the_shell_wants_it() -> None:
    line = name_command("resume", LocalStore(Path("/a b/jobs")), "job")
    assert shlex.split(line) == ["spanmill", "resume", "job", "--jobs-root", "/a b/jobs"]
