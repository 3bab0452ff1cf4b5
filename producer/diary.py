"""A running job's states, written into its folder as soon as the disk lets them."""

from collections import deque

from worker.contracts.errors import WorldError
from worker.contracts.folder import JobFolder
from worker.contracts.job import State


class Diary:
    """Writes events, later when the disk is full now, and hears when somebody cancels the job."""

    def __init__(self, folder: JobFolder) -> None:
        """Take the job; what its events say already is not heard."""
        self._folder = folder
        self._known = 0
        self._known = len(self._new_names())
        self._waiting: deque[tuple[State, str | None]] = deque()

    def note(self, state: State, reason: str | None = None) -> None:
        """Write an event, now or when that can be done."""
        self._waiting.append((state, reason))
        self.catch_up()

    def catch_up(self) -> None:
        """Write what could not be written before."""
        while self._waiting:
            try:
                self._folder.put_event(*self._waiting[0])
            except WorldError:
                return
            self._waiting.popleft()

    def read_state(self) -> State | None:
        """Return the job's state, or None when it cannot be read now."""
        try:
            return self._folder.read_state()
        except WorldError:
            return None

    def was_cancelled(self) -> bool:
        """Say whether somebody cancelled the job since this diary was begun.

        Not the last event alone: a pause may have been written after the wish to cancel. While the
        folder cannot be read nobody is heard.
        """
        try:
            return any(name.endswith(f"-{State.CANCELLING}.json") for name in self._new_names())
        except WorldError:
            return False

    def _new_names(self) -> list[str]:
        names = self._folder.store.names(f"{self._folder.job}/events")
        return sorted(names, key=lambda name: (len(name.split("-")[0]), name))[self._known :]
