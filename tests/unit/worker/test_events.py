"""Events: what one process tells, another hears, whole."""

import os
from dataclasses import replace

import pytest

from tests.making import make_answer, make_stats
from worker.events import LONGEST_BYTES, Event, Level, receive, send_to

ANSWERS = [make_answer(row) for row in range(4)]
EVENT = Event(
    "batch", job="a-job", batch=7, attempt=2, outcome="answered", stats=make_stats(7, ANSWERS)
)


def hear(raw: bytes) -> list[Event]:
    """Return what comes out of a pipe into which these bytes were written."""
    ear, mouth = os.pipe()
    os.write(mouth, raw)
    os.close(mouth)
    return list(receive(ear))


def tell(*events: Event) -> bytes:
    """Return the bytes that are written for events."""
    ear, mouth = os.pipe()
    for event in events:
        send_to(mouth)(event)
    os.close(mouth)
    with os.fdopen(ear, "rb") as pipe:
        return pipe.read()


def test_what_is_told_is_heard() -> None:
    plain = Event("celery", Level.WARNING, "ready.", facts={"logger": "a.b", "count": 3})
    assert hear(tell(EVENT, plain)) == [EVENT, plain]


@pytest.mark.parametrize("message", ["ö" * 10_000, "\0" * 10_000])
def test_no_event_is_longer_than_a_pipe_takes_in_one_piece(message: str) -> None:
    raw = tell(replace(EVENT, message=message))
    assert len(raw) <= LONGEST_BYTES
    (heard,) = hear(raw)
    assert heard.stats == EVENT.stats


def test_half_an_event_of_a_process_that_was_killed_costs_no_other() -> None:
    raw = tell(EVENT)
    assert hear(raw[: len(raw) // 2] + b"\n" + raw + b"[1]\n\xff\n" + raw[:9]) == [EVENT]


def test_an_event_that_nobody_hears_stops_nobody() -> None:
    ear, mouth = os.pipe()
    os.close(ear)
    send_to(mouth)(EVENT)
    os.close(mouth)
    send_to(None)(EVENT)
