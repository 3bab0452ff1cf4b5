"""Metrics over HTTP, in Prometheus's text format; and the metrics that every process has."""

from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Info,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
)
from prometheus_client.core import GaugeMetricFamily, Metric

from worker.contracts.errors import UsageError
from worker.contracts.flight import Flight
from worker.telemetry import list_versions

PREFIX = "spanmill"


@dataclass(frozen=True, slots=True)
class BrokerView:
    """What was last seen of the broker: ``flight`` and ``workers`` are None while it is away."""

    is_up: bool
    flight: Flight | None = None
    workers: int | None = None


class SharedMetrics:
    """What workers and producers measure alike, and the registry for the rest."""

    def __init__(self) -> None:
        """Begin at zero."""
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        version = list_versions()["spanmill"]
        Info(f"{PREFIX}_build", "The release.", registry=self.registry).info({"version": version})
        self.reconciled = Counter(
            f"{PREFIX}_reconciled",
            "Batches whose message this process has sent again, because it was lost.",
            registry=self.registry,
        )
        self.errors = Counter(
            f"{PREFIX}_errors",
            "Warnings and errors in this process's log.",
            ["event"],
            registry=self.registry,
        )
        self._view: BrokerView | None = None
        self.registry.register(_BrokerCollector(self))

    def see_broker(self, view: BrokerView) -> None:
        """Take what was seen of the broker."""
        self._view = view

    def describe_broker(self) -> Iterable[Metric]:
        """Yield what is known: nothing is better than what was true once."""
        view = self._view
        if view is None:
            return
        yield _gauge("broker_up", "Whether the broker answers.", float(view.is_up))
        if view.workers is not None:
            yield _gauge("workers", "Workers that the broker has heard lately.", view.workers)
        if view.flight is None:
            return
        batches = GaugeMetricFamily(
            f"{PREFIX}_in_flight_batches",
            "Batches in flight at the broker, of all jobs; the same from every process.",
            labels=["state"],
        )
        batches.add_metric(["waiting"], view.flight.waiting)
        batches.add_metric(["begun"], view.flight.begun)
        yield batches
        yield _gauge("in_flight_bytes", "Bytes of their payloads.", view.flight.payload_bytes)
        yield _gauge(
            "oldest_waiting_seconds",
            "How long the batch that waits longest has waited, 0 if none does.",
            view.flight.oldest_seconds,
        )

    def serve(self, host: str, port: int) -> int:
        """Answer scrapes in a thread from now on; return the port, which for 0 is any free one.

        Raises:
            UsageError: the port cannot be had.
        """
        try:
            server, _ = start_http_server(port, host, self.registry)
        except OSError as error:
            raise UsageError(
                f"no metrics can be served at {host}:{port} ({error.strerror}): choose another"
                " --metrics-port or --metrics-host"
            ) from error
        return int(server.server_port)


class _BrokerCollector:
    """Asks for what is known when it is scraped."""

    def __init__(self, shared: SharedMetrics) -> None:
        self._shared = shared

    def collect(self) -> Iterable[Metric]:
        return self._shared.describe_broker()

    def describe(self) -> Iterable[Metric]:
        return ()


def _gauge(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{PREFIX}_{name}", what, value=value)
