"""How a job stands with a fleet: what the ledger knows beyond the job's folder."""

from dataclasses import replace

from producer.status import LIVE, JobStatus
from worker.contracts.broker import parse_broker
from worker.contracts.flight import Counts, WorkerCard
from worker.contracts.job import State
from worker.contracts.ledger import Ledger


def ask_fleet(broker_url: str | None, found: JobStatus) -> JobStatus:
    """Add what the broker knows of the job; nothing where there is no broker.

    Raises:
        UsageError: the broker refuses.
        WorldError: the broker is away.
    """
    if broker_url is None:
        return found
    ledger = Ledger(parse_broker(broker_url))
    counts = ledger.count(found.job)
    return found if counts is None else add_counts(found, counts, ledger.list_workers())


def add_counts(found: JobStatus, counts: Counts, cards: list[WorkerCard]) -> JobStatus:
    """Return the status with what is in flight, and the reason why it does not go on."""
    state, reason = found.state, found.reason
    lonely = say_lonely(counts, cards)
    if state in LIVE and state not in (State.CANCELLING, State.COLLECTING):
        if counts.trouble is not None:
            state = str(State.PAUSED if counts.stuck else State.RUNNING)
            reason = counts.trouble
        elif lonely is not None:
            reason = f"{lonely}`"
        elif counts.in_flight:
            state, reason = str(State.RUNNING), None
    return replace(
        found, state=state, reason=reason, in_flight=counts.in_flight, workers=counts.busy
    )


def find_queue(broker_url: str, job: str) -> str | None:
    """Return the queue of a job that is known at a broker, as the command line has it.

    Raises:
        UsageError: the broker refuses.
        WorldError: the broker is away.
    """
    counts = Ledger(parse_broker(broker_url)).count(job)
    return None if counts is None else read_queue(counts.queue)


def read_queue(name: str) -> str:
    """Return a queue as the command line has it, from its name at the broker."""
    return name.rsplit("-v", 1)[0].removeprefix("spanmill-")


def say_lonely(counts: Counts | None, cards: list[WorkerCard]) -> str | None:
    """Say that batches wait and nobody takes them, up to the command that would help."""
    if counts is None or not counts.in_flight or counts.busy:
        return None
    if any(counts.queue in card.queues for card in cards):
        return None
    stem, wire = counts.queue.rsplit("-v", 1)
    names = {name for card in cards for name in card.queues}
    others = sorted(name.rsplit("-v", 1)[1] for name in names if name.startswith(f"{stem}-v"))
    name = read_queue(counts.queue)
    command = f"spanmill worker --queue {name}"
    if others:
        return (
            f"the workers of the queue {name} read version {', '.join(others)} of its messages, and"
            f" these have {wire}: install this release there, and run `{command}"
        )
    waiting = f"{counts.in_flight} batches wait"
    return f"{waiting}, and no worker reads the queue {name}: run `{command}"
