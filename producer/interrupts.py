"""What Ctrl-C, SIGTERM and a closed terminal do: first a wish, then an end at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Hears signals while entered.

    The first one while somebody listens is only remembered; any other raises KeyboardInterrupt.
    Signals that the caller's shell ignores, as nohup does, stay ignored.
    """

    def __init__(self) -> None:
        """Hear nothing yet."""
        self._asked = False
        self._listening = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interrupts":
        for one in _SIGNALS:
            if signal.getsignal(one) is not signal.SIG_IGN:
                self._before[one] = signal.signal(one, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        for one, handler in self._before.items():
            signal.signal(one, handler)

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
        if not self._listening or self._asked:
            raise KeyboardInterrupt
        self._asked = True
