"""A worker's metrics: counted from its events in the supervisor, whoever of its processes dies."""

from collections import OrderedDict

from prometheus_client import Counter, Gauge, Histogram

from worker.contracts.records import Status
from worker.contracts.shard import BatchStats
from worker.events import Event, Level, Outcome
from worker.exposition import PREFIX, SharedMetrics

BATCH_BUCKETS_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600)
STAGE_BUCKETS_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
WAIT_BUCKETS_SECONDS = (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 120, 300, 900, 3600)
#: Bundles that are told of, the latest; a process keeps two.
NAMED_BUNDLES = 8
DIGEST_CHARS = 12


class WorkerMetrics(SharedMetrics):
    """What a worker has done since it started."""

    def __init__(self, processes: int) -> None:
        """Begin at zero, with every series that can be named in advance."""
        super().__init__()
        self._count_rows()
        self._time()
        self._watch(processes)
        self._bundles: OrderedDict[str, None] = OrderedDict()

    def _count_rows(self) -> None:
        self._rows = self._counter("rows", "Rows of the shards that this worker put.", "status")
        self._batches = self._counter("batches", "Deliveries of batches, by outcome.", "outcome")
        self._windows = self._counter("windows", "Model inputs of those rows.")
        self._tokens = self._counter("tokens", "Tokens that the model read for them.")
        self._redelivered = self._counter(
            "redelivered", "Deliveries of batches that had been delivered before."
        )
        self._conflicts = self._counter(
            "commit_conflicts", "Batches answered in vain: another delivery committed first."
        )
        for status in Status:
            self._rows.labels(str(status))
        for outcome in Outcome:
            self._batches.labels(str(outcome))

    def _time(self) -> None:
        self._durations = Histogram(
            f"{PREFIX}_batch_duration_seconds",
            "From a batch's lease until its shard is committed.",
            buckets=BATCH_BUCKETS_SECONDS,
            registry=self.registry,
        )
        self._stages = Histogram(
            f"{PREFIX}_stage_duration_seconds",
            "Stages of a committed batch.",
            ["stage"],
            buckets=STAGE_BUCKETS_SECONDS,
            registry=self.registry,
        )
        self._waits = Histogram(
            f"{PREFIX}_queue_wait_seconds",
            "From a committed batch's last message until it was read.",
            buckets=WAIT_BUCKETS_SECONDS,
            registry=self.registry,
        )

    def _watch(self, processes: int) -> None:
        self._lost = self._counter("processes_lost", "Processes that died in a batch.", "how")
        self._restarts = self._counter(
            "worker_restarts", "Times that the Celery worker was started again."
        )
        wanted = self._gauge("worker_processes_wanted", "Answering processes asked for.")
        wanted.set(processes)
        self._processes = self._gauge("worker_processes", "Answering processes alive.")
        self._bundle = self._gauge("bundle_info", "Bundles that answered lately.", "digest")

    def hear(self, event: Event) -> None:
        """Count an event."""
        if event.level is not Level.INFO:
            self.errors.labels(event.name).inc()
        if event.name == "batch":
            self._hear_batch(event)
        elif event.name == "process-lost":
            self._lost.labels(str(event.facts["how"])).inc()
        elif event.name == "worker-ended":
            self._restarts.inc()
        elif event.name == "resent":
            self.reconciled.inc(float(event.facts["batches"]))

    def see_processes(self, count: int) -> None:
        """Take how many answering processes there are."""
        self._processes.set(count)

    def _hear_batch(self, event: Event) -> None:
        self._batches.labels(str(event.outcome)).inc()
        if event.again:
            self._redelivered.inc()
        if event.outcome == Outcome.CONFLICT:
            self._conflicts.inc()
        if event.stats is not None and event.duration_seconds is not None:
            self._durations.observe(event.duration_seconds)
            self._hear_stats(event.stats)

    def _hear_stats(self, stats: BatchStats) -> None:
        self._rows.labels(str(Status.ANSWERED)).inc(stats.answered)
        self._rows.labels(str(Status.UNANSWERABLE)).inc(stats.unanswerable)
        self._rows.labels(str(Status.ERROR)).inc(stats.errors)
        self._windows.inc(stats.windows)
        self._tokens.inc(stats.tokens)
        self._stages.labels("tokenize").observe(stats.tokenize_ms / 1e3)
        self._stages.labels("inference").observe(stats.inference_ms / 1e3)
        self._stages.labels("decode").observe(stats.decode_ms / 1e3)
        self._waits.observe(stats.queue_ms / 1e3)
        digest = stats.bundle_digest[:DIGEST_CHARS]
        self._bundles[digest] = None
        self._bundles.move_to_end(digest)
        self._bundle.labels(digest).set(1)
        while len(self._bundles) > NAMED_BUNDLES:
            self._bundle.remove(self._bundles.popitem(last=False)[0])

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(f"{PREFIX}_{name}", what, labels, registry=self.registry)

    def _gauge(self, name: str, what: str, *labels: str) -> Gauge:
        return Gauge(f"{PREFIX}_{name}", what, labels, registry=self.registry)
