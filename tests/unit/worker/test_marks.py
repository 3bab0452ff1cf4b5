"""Marks: which rows are named, and whose they are."""

import multiprocessing
import os

from worker.contracts.flight import Mark
from worker.contracts.options import NAMED_ROWS
from worker.marks import Marks, Slate


def test_marks_name_the_rows_and_move_with_each_reading() -> None:
    marks = Marks(multiprocessing.get_context("spawn"))
    assert marks.read().number == 0
    marks.write([7, 9])
    assert marks.read().rows == (7, 9)
    marks.write([])
    assert marks.read().rows == ()
    marks.write(range(NAMED_ROWS + 1))
    assert marks.read().rows is None
    assert marks.read().number == 3


def test_a_slate_tells_of_nobody_but_who_wrote_on_it_last() -> None:
    slate = Slate()
    assert slate.read("host-1/a") is None
    slate.write("host-1/a", [7])
    assert slate.read("host-1/a") == Mark(1, (7,))
    assert slate.read("host-1/b") is None
    slate.write("host-1/b", [])
    assert slate.read("host-1/a") is None
    assert slate.read("host-1/b") == Mark(2, ())
    assert slate.count() == 2


def test_a_slate_takes_a_name_of_any_length() -> None:
    slate = Slate()
    name = "å" * 1000
    slate.write(name, [7])
    assert slate.read(name) == Mark(1, (7,))


def test_a_slates_last_words_are_those_of_a_dead_process() -> None:
    slate = Slate()
    slate.write("host-1/a", [6])
    assert slate.read_dead("host-1/a") is None, "who wrote it lives"
    pid = os.fork()
    if pid == 0:
        slate.write("host-1/a", [7])
        os._exit(0)
    os.waitpid(pid, 0)
    assert slate.read_dead("host-1/a") == Mark(2, (7,))
    assert slate.read_dead("host-1/b") is None
