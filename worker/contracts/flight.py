"""What the ledger's callers ask and hear: admissions, turns, deaths, counts."""

from dataclasses import dataclass
from enum import StrEnum

#: The queue of workers that were given none.
DEFAULT_QUEUE = "default"
#: Enough for some hundred processes, and little of a server's memory.
MAX_BATCHES = 512
MAX_BYTES = 64 * 1024 * 1024


class Admission(StrEnum):
    """What became of a wish to publish a batch."""

    ADMITTED = "admitted"
    FULL = "full"
    IN_FLIGHT = "in-flight"
    DONE = "done"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"  # the ledger lost the job: open it again


class Turn(StrEnum):
    """What a worker is to do with a message."""

    RUN = "run"
    DONE = "done"
    LEASED = "leased"
    CANCELLED = "cancelled"
    GONE = "gone"  # no payload: it was asked for
    HELD = "held"  # said by the worker itself, which leaves the job alone just now


@dataclass(frozen=True, slots=True)
class Room:
    """The bounds of what is in flight at a broker, of all jobs together."""

    max_batches: int = MAX_BATCHES
    max_bytes: int = MAX_BYTES


@dataclass(frozen=True, slots=True)
class About:
    """What the ledger knows of a job beforehand.

    ``root`` is its jobs folder's token, ``made`` its manifest's time: a job that is begun anew has
    the same name, and is another.
    """

    job: str
    queue: str
    root: str
    made: str
    batches: int


@dataclass(frozen=True, slots=True)
class Death:
    """An attempt whose process died.

    ``exit_code`` is as ``subprocess`` has it, and None when nobody saw it die. ``rows`` were being
    read: empty for none, None for more than can be named. ``marked`` says that reading had begun.
    """

    exit_code: int | None
    rows: tuple[int, ...] | None
    hung: bool
    marked: bool


@dataclass(frozen=True, slots=True)
class Mark:
    """What a process is reading. ``number`` counts its marks: it moves as long as there is life.

    ``rows`` is empty between reading and storing, and None for more rows than can be named.
    """

    number: int
    rows: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Dying:
    """A death to be written down; ``how`` is an exit code, or "hung".

    ``trouble`` is the job's if that happens repeatedly before a row is read. Without ``mark`` the
    last one at the broker counts, if there is one.
    """

    how: str
    delay_seconds: float = 0.0
    trouble: str = ""
    mark: Mark | None = None


@dataclass(frozen=True, slots=True)
class Begun:
    """A worker's turn at a batch; all but ``turn`` is there when the turn is RUN."""

    turn: Turn
    attempt: int = 0
    payload: bytes = b""
    root: str = ""
    made: str = ""
    deaths: tuple[Death, ...] = ()


@dataclass(frozen=True, slots=True)
class Lapsed:
    """A batch whose message is to be sent again."""

    job: str
    batch: int
    attempt: int
    queue: str


@dataclass(frozen=True, slots=True)
class Counts:
    """How a job stands; ``root`` and ``made`` are as in About, ``busy`` counts its leases.

    ``trouble`` is what a worker complained of lately. The job is ``stuck`` from a complaint that
    comes more than STUCK_SECONDS after the first one until a batch of it is done: one complaint
    alone, and one that other batches get done after, stops no job, however young it is.
    """

    queue: str
    root: str
    made: str
    batches: int
    batches_done: int
    rows_done: int
    errors: int
    in_flight: int
    busy: int
    wanted: int
    cancelled: bool
    stuck: bool
    trouble: str | None


@dataclass(frozen=True, slots=True)
class Flight:
    """What is in flight at the broker, of all jobs: ``waiting`` for a worker, and ``begun``.

    ``oldest_seconds``: how long the batch that waits longest has waited, 0 if none does.
    """

    waiting: int
    begun: int
    payload_bytes: int
    oldest_seconds: float


@dataclass(frozen=True, slots=True)
class WorkerCard:
    """What a worker says of itself."""

    worker: str
    queues: tuple[str, ...]
    wire: int
    processes: int
    release: str
