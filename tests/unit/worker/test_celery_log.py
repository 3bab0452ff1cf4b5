"""Celery's words as events: the first line, and no word of a message."""

import logging
from collections.abc import Iterator

import pytest
from celery.worker.consumer.consumer import MESSAGE_DECODE_ERROR, UNKNOWN_TASK_ERROR

from worker.celery_log import EventHandler
from worker.events import Event, Level

SECRET = "where the treasure lies"


@pytest.fixture
def heard() -> Iterator[list[Event]]:
    events: list[Event] = []
    logger = logging.getLogger("celery.test")
    logger.handlers[:] = [EventHandler(events.append)]
    logger.propagate = False
    yield events
    logger.handlers.clear()


logger = logging.getLogger("celery.test")


def test_what_celery_says_is_an_event(heard: list[Event]) -> None:
    logger.warning("%s ready in %d steps.\nMore of it", "a worker", 3)
    (event,) = heard
    assert (event.name, event.level) == ("celery", Level.WARNING)
    assert event.message == "a worker ready in 3 steps."
    assert event.facts == {"logger": "celery.test"}


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (MESSAGE_DECODE_ERROR, (ValueError(SECRET), "json", "utf-8", {"argsrepr": SECRET}, SECRET)),
        (UNKNOWN_TASK_ERROR, (KeyError(SECRET), SECRET, SECRET, SECRET)),
        ("Could not restore message: %r", (SECRET,)),
        ("Unrecoverable error: %r", (UnicodeDecodeError("utf-8", SECRET.encode(), 0, 1, "x"),)),
    ],
)
def test_no_message_is_quoted(heard: list[Event], template: str, words: tuple[object, ...]) -> None:
    error = ValueError(SECRET)
    logger.error(template, *words, exc_info=(ValueError, error, error.__traceback__))
    (event,) = heard
    assert event.level == Level.ERROR
    assert event.message
    assert SECRET not in str(event)
