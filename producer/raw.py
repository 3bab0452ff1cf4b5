"""What each reader of a format hands on: columns as they are, and what is wrong with which row."""

from dataclasses import dataclass

import pyarrow as pa


def is_utf8(text: str) -> bool:
    """Say whether a text can be written as UTF-8; lone surrogates cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class RawChunk:
    """Some consecutive rows of a file.

    ``ids`` are strings (None: the input has none), ``questions`` and ``contexts`` large strings,
    nulls allowed; ``faults`` says in words why a row cannot be answered, null where it can.
    """

    ids: pa.Array | None
    questions: pa.Array
    contexts: pa.Array
    faults: pa.Array
    kept: pa.Table
