"""A disk that does not take what is written: the world's fault, whichever library wrote."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from worker.contracts.errors import WorldError


@contextmanager
def keeping(place: Path) -> Iterator[None]:
    """Make files at a place inside; what is drafted there and breaks stays a draft.

    Raises:
        WorldError: the disk does not take it.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None)
        raise WorldError(
            f"{place} could not be written ({error if why is None else why}): make room there and"
            " run again"
        ) from error
