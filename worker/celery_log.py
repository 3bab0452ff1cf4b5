"""What Celery logs, as events. Messages are never quoted: foreign ones may hold anything."""

import logging
from typing import Any

from celery.worker.consumer.consumer import MESSAGE_DECODE_ERROR

from worker.events import Event, Hear, Level

#: Templates of which only the words before the first argument are kept: they quote messages.
_QUOTING = frozenset({MESSAGE_DECODE_ERROR, "Could not restore message: %r"})
#: They say of every message what the event of its batch says better.
_CHATTY = ("celery.app.trace", "celery.worker.strategy")
#: The process pool's own logger, which passes nothing on.
_POOL = "multiprocessing"
#: What Python's warnings are logged as: advice to programmers, no trouble.
_ADVICE = "py.warnings"


class EventHandler(logging.Handler):
    """Turns log records into events: the first line, and of an exception its name."""

    def __init__(self, hear: Hear) -> None:
        """Take who hears them."""
        super().__init__(logging.INFO)
        self._hear = hear

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a record on."""
        level = Level.INFO
        if record.levelno >= logging.WARNING and record.name != _ADVICE:
            level = Level.ERROR if record.levelno >= logging.ERROR else Level.WARNING
        self._hear(Event("celery", level, _describe(record), facts={"logger": record.name}))


def log_to(hear: Hear) -> None:
    """Send the log of this process, and of those that it forks, to ``hear`` alone."""
    logging.captureWarnings(capture=True)
    for name in (None, _POOL):
        logger = logging.getLogger(name)
        logger.handlers[:] = [EventHandler(hear)]
        logger.setLevel(logging.INFO)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)


def _describe(record: logging.LogRecord) -> str:
    template = str(record.msg)
    if template in _QUOTING:
        return template.split("%", 1)[0].strip()
    args = record.args
    if isinstance(args, tuple):
        record = logging.makeLogRecord({**record.__dict__, "args": tuple(map(_name, args))})
    try:
        text = record.getMessage()
    except (TypeError, ValueError):  # a template that wants a number, not a name
        text = template
    return text.strip().split("\n", 1)[0]


def _name(value: Any) -> Any:
    """Return an exception's name: its words may quote what it failed at."""
    return type(value).__name__ if isinstance(value, BaseException) else value
