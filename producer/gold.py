"""Gold answers for `evaluate`: SQuAD JSON, or JSON lines with SQuAD's ``answers``."""

from collections.abc import Iterator
from typing import Any

from producer.json_source import is_json, iter_objects
from producer.place import Place
from worker.contracts.errors import InputError


def read_gold(path: Place) -> dict[str, tuple[str, ...]]:
    """Return the gold texts of each question's id; none for an unanswerable question.

    Raises:
        InputError: the file cannot be read, or a question in it has no id or no answers,
            or has another one's id.
    """
    if not path.is_file():
        raise InputError(f"the gold file {path} does not exist: check the path")
    if not is_json(path):
        raise InputError(f"the gold file {path} is not named .json or .jsonl: give SQuAD's format")
    gold: dict[str, tuple[str, ...]] = {}
    for number, row in enumerate(iter_objects(path)):
        try:
            name, texts = str(row["id"]), tuple(_texts(row))
        except (KeyError, TypeError) as error:
            raise InputError(
                f"question {number} of {path} has no id or no answers as SQuAD has them: repair it"
            ) from error
        if name in gold:
            raise InputError(f"{path} has the id {name!r} twice: ids must be unique here")
        gold[name] = texts
    if not gold:
        raise InputError(f"the gold file {path} holds no questions: check it")
    return gold


def _texts(row: dict[str, Any]) -> Iterator[str]:
    if row.get("is_impossible"):
        return
    answers = row["answers"]
    texts = answers["text"] if isinstance(answers, dict) else [one["text"] for one in answers]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise TypeError("the answers are no texts")
    yield from texts
