"""Gold answers for `evaluate`: SQuAD JSON, or JSON lines with SQuAD's ``answers``."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from producer.json_source import iter_objects
from worker.contracts.errors import InputError


def read_gold(path: Path) -> dict[str, tuple[str, ...]]:
    """Return the gold texts of each question's id; none for an unanswerable question.

    Raises:
        InputError: the file cannot be read, or a question in it has no id or no answers.
    """
    if not path.is_file():
        raise InputError(f"the gold file {path} does not exist: check the path")
    gold: dict[str, tuple[str, ...]] = {}
    for number, row in enumerate(iter_objects(path)):
        try:
            gold[str(row["id"])] = tuple(_texts(row))
        except (KeyError, TypeError) as error:
            raise InputError(
                f"question {number} of {path} has no id or no answers as SQuAD has them: repair it"
            ) from error
    if not gold:
        raise InputError(f"the gold file {path} holds no questions: check it")
    return gold


def _texts(row: dict[str, Any]) -> Iterator[str]:
    if row.get("is_impossible"):
        return
    answers = row["answers"]
    if isinstance(answers, dict):
        yield from answers["text"]
    else:
        yield from (answer["text"] for answer in answers)
