"""What a fleet's producer measures: its job, what it publishes, and how the broker stands."""

from prometheus_client import Counter, Gauge, Info

from worker.contracts.flight import Counts, Flight
from worker.contracts.job import JobManifest
from worker.events import Event
from worker.exposition import PREFIX, BrokerView, SharedMetrics
from worker.log import Log

DIGEST_CHARS = 12


class Meter(SharedMetrics):
    """One producer's metrics, served or not; what is no sentence for people it logs as well."""

    def __init__(self, log: Log) -> None:
        """Begin at zero; the job is not known yet."""
        super().__init__()
        self._log = log
        self._job = Info(f"{PREFIX}_job", "The job of this producer.", registry=self.registry)
        self._published = self._counter("published_batches", "Batches put at the broker.")
        self._published_bytes = self._counter("published_bytes", "Bytes of their payloads.")
        self._waited = self._counter("publish_wait_seconds", "Time spent waiting for room.")
        self._rows = self._gauge("job_rows", "Rows of the job.")
        self._batches = self._gauge("job_batches", "Batches of the job.")
        self._rows_done = self._gauge(
            "job_done_rows", "Rows that have an answer, or an error; of earlier runs too.", "status"
        )
        self._batches_done = self._gauge("job_done_batches", "Batches that have their shard.")
        self._paused = self._gauge("job_paused", "Whether the job cannot go on just now.")
        #: Whether somebody may ask: what costs the broker work is measured only then.
        self.is_served = False

    def serve(self, host: str, port: int) -> int:
        """Answer scrapes from now on, and log the port."""
        chosen = super().serve(host, port)
        self.is_served = True
        self._log.tell(
            Event("metrics-served", message=f"metrics at port {chosen}", facts={"port": chosen})
        )
        return chosen

    def begin(self, manifest: JobManifest, queue: str) -> None:
        """Take the job."""
        digest = manifest.bundle[:DIGEST_CHARS]
        self._job.info({"job_id": manifest.job, "queue": queue, "bundle": digest})
        self._rows.set(manifest.rows)
        self._batches.set(manifest.batches)
        self._paused.set(0)
        facts: dict[str, str | int | float] = {
            "rows": manifest.rows,
            "batches": manifest.batches,
            "queue": queue,
            "bundle": digest,
        }
        self._log.note(Event("job-begun", job=manifest.job, facts=facts))

    def publish(self, payload_bytes: int) -> None:
        """Count a batch that was put at the broker."""
        self._published.inc()
        self._published_bytes.inc(payload_bytes)

    def wait(self, seconds: float) -> None:
        """Count time without room."""
        self._waited.inc(seconds)

    def count(self, counts: Counts) -> None:
        """Take how the job stands."""
        self._rows_done.labels("ok").set(counts.rows_done - counts.errors)
        self._rows_done.labels("error").set(counts.errors)
        self._batches_done.set(counts.batches_done)

    def resend(self, job: str, batches: int) -> None:
        """Count what was sent again."""
        if batches:
            self.reconciled.inc(batches)
            self._log.note(Event("resent", job=job, facts={"batches": batches}))

    def see(self, flight: Flight | None, workers: int) -> None:
        """Take how the broker stands."""
        self.see_broker(BrokerView(is_up=True, flight=flight, workers=workers))

    def miss_broker(self) -> None:
        """Take down that the broker is away."""
        self.see_broker(BrokerView(is_up=False))

    def warn(self, event: str) -> None:
        """Count a trouble; it is logged by who speaks with the user."""
        self.errors.labels(event).inc()

    def pause(self) -> None:
        """Take down that the job cannot go on just now."""
        self._paused.set(1)

    def go_on(self) -> None:
        """Take down that the trouble is over."""
        self._paused.set(0)

    def _counter(self, name: str, what: str) -> Counter:
        return Counter(f"{PREFIX}_{name}", what, registry=self.registry)

    def _gauge(self, name: str, what: str, *labels: str) -> Gauge:
        return Gauge(f"{PREFIX}_{name}", what, labels, registry=self.registry)
