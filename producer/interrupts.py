"""What Ctrl-C, SIGTERM and a closed terminal do: first a wish, then an end at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Hears signals while entered.

    The first one while somebody listens is only remembered; the next one, or one while nobody
    listens, raises KeyboardInterrupt. After that all are ignored: the command ends anyway, and who
    goes on pressing must see no traceback. Signals that the caller ignores, as nohup does, stay so.
    """

    def __init__(self) -> None:
        """Hear nothing yet."""
        self._asked = False
        self._listening = False
        self._raised = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interrupts":
        for one in _SIGNALS:
            if signal.getsignal(one) is not signal.SIG_IGN:
                self._before[one] = signal.signal(one, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        for one, handler in self._before.items():
            signal.signal(one, signal.SIG_IGN if self._raised else handler)

    def asked(self) -> bool:
        """Say whether the user wants to stop."""
        return self._asked

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Promise to ask often."""
        self._listening = True
        try:
            yield
        finally:
            self._listening = False

    def _hear(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self._raised:
            return
        if self._listening and not self._asked:
            self._asked = True
            return
        self._raised = True
        raise KeyboardInterrupt
