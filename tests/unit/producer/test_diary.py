"""A running job's diary: nothing is forgotten, and a wish to cancel is heard."""

from pathlib import Path

import pytest

from producer.diary import Diary
from worker.contracts.folder import JobFolder
from worker.contracts.job import State
from worker.contracts.store import LocalStore


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    return JobFolder(LocalStore(tmp_path), "job")


def states(folder: JobFolder) -> list[str]:
    return [str(event.state) for event in folder.read_events()]


def test_a_wish_to_cancel_is_heard_however_many_events_there_were(folder: JobFolder) -> None:
    folder.store.put_new("job/events/9999-running.json", b'{"state":"running","at":"now"}')
    diary = Diary(folder)
    assert not diary.was_cancelled()
    folder.put_event(State.CANCELLING)
    assert diary.was_cancelled()


def test_what_cannot_be_written_now_is_written_later_in_its_order(
    folder: JobFolder, tmp_path: Path
) -> None:
    diary = Diary(folder)
    (tmp_path / "job").write_text("in the way")
    diary.note(State.PAUSED, "the disk is full")
    diary.note(State.RUNNING)
    (tmp_path / "job").unlink()
    diary.catch_up()
    diary.catch_up()
    assert states(folder) == ["paused", "running"]
    assert folder.read_events()[0].reason == "the disk is full"


def test_a_wish_to_cancel_is_heard_though_a_pause_was_written_after_it(folder: JobFolder) -> None:
    diary = Diary(folder)
    assert not diary.was_cancelled()
    folder.put_event(State.CANCELLING)
    diary.note(State.PAUSED, "the disk is full")
    assert diary.was_cancelled()


def test_an_earlier_runs_cancel_is_not_heard(folder: JobFolder) -> None:
    folder.put_event(State.CANCELLING)
    diary = Diary(folder)
    diary.note(State.RUNNING)
    assert not diary.was_cancelled()
