"""Where a worker's events go: into its log, and into its metrics where those are wanted."""

from pathlib import Path

from worker.contracts.ledger import Ledger
from worker.events import Event, Outcome
from worker.exposition import BrokerView
from worker.log import Log
from worker.metrics import WorkerMetrics


class Observer:
    """One worker's eyes and ears; it lives in the supervisor, which outlives the others."""

    def __init__(self, log: Log, metrics: WorkerMetrics | None = None) -> None:
        """Take the log, and the metrics if there are any."""
        self._log = log
        self._metrics = metrics

    def hear(self, event: Event) -> None:
        """Write an event down, and count it; batches of held jobs, which come often, only count."""
        if event.outcome != Outcome.HELD:
            self._log.write(event)
        if self._metrics is not None:
            self._metrics.hear(event)

    def look(self, ledger: Ledger, main: int) -> None:
        """See how the broker stands, and the answering processes of the main one.

        Raises:
            WorldError: the broker is away; `miss_broker` takes that down.
        """
        if self._metrics is None:
            return
        self._metrics.see_processes(count_children(main))
        flight, cards = ledger.flight(), ledger.list_workers()
        self._metrics.see_broker(BrokerView(is_up=True, flight=flight, workers=len(cards)))

    def miss_broker(self) -> None:
        """Take down that the broker is away."""
        if self._metrics is not None:
            self._metrics.see_broker(BrokerView(is_up=False))


def count_children(pid: int) -> int:
    """Return how many children a process has, none if it has ended."""
    found = 0
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += len(path.read_text().split())
        except OSError:  # the thread has ended
            continue
    return found
