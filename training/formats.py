"""The formats of question-answering data: SQuAD JSON, JSON lines and Parquet to plain lines."""

import gzip
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pyarrow.parquet as pq

from worker.contracts.errors import InputError

#: Rows of Parquet that are turned to Python objects at once.
PARQUET_ROWS = 10_000


class Answers(msgspec.Struct):
    """A row's gold answers as two lists side by side, as published sets have them, not checked."""

    text: list[str | None] | None = []
    answer_start: list[int | None] | None = []


class Line(msgspec.Struct):
    """One row as it lies in a file, not yet checked: any cell of it may be null."""

    question: str | None
    context: str | None
    answers: Answers | None
    id: str | int | None = None
    title: str | None = None
    source: str | None = None
    is_impossible: bool | None = None


class _SquadAnswer(msgspec.Struct):
    text: str | None
    answer_start: int | None


class _SquadQuestion(msgspec.Struct):
    id: str | int | None
    question: str | None
    answers: list[_SquadAnswer] | None = []
    is_impossible: bool | None = None


class _SquadParagraph(msgspec.Struct):
    context: str | None
    qas: list[_SquadQuestion]


class _SquadArticle(msgspec.Struct):
    paragraphs: list[_SquadParagraph]
    title: str | None = None


class _Squad(msgspec.Struct):
    data: list[_SquadArticle]


def read_lines(path: Path) -> Iterator[Line]:
    """Read a file by its suffix: .json (SQuAD), .jsonl, both also with .gz, or .parquet.

    Raises:
        InputError: the file is missing, of another kind, or does not hold such rows.
    """
    reader = _READERS.get(path.name.removesuffix(".gz").rpartition(".")[2])
    if reader is None:
        raise InputError(
            f"{path.name} is not question-answering data by its name: give .json, .jsonl (both also"
            " .gz) or .parquet"
        )
    try:
        yield from reader(path)
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}: check the path") from error
    except (msgspec.MsgspecError, OSError, EOFError, ValueError, zlib.error) as error:
        raise InputError(
            f"{path.name} cannot be read as question-answering rows ({error}): check its format"
        ) from error


def _read_squad(path: Path) -> Iterator[Line]:
    for article in msgspec.json.decode(_read_bytes(path), type=_Squad).data:
        for paragraph in article.paragraphs:
            for asked in paragraph.qas:
                yield Line(
                    id=asked.id,
                    title=article.title,
                    question=asked.question,
                    context=paragraph.context,
                    answers=_turn(asked.answers),
                    is_impossible=asked.is_impossible,
                )


def _turn(answers: list[_SquadAnswer] | None) -> Answers | None:
    if answers is None:
        return None
    return Answers([one.text for one in answers], [one.answer_start for one in answers])


def _read_jsonl(path: Path) -> Iterator[Line]:
    yield from msgspec.json.Decoder(Line).decode_lines(_read_bytes(path))


def _read_parquet(path: Path) -> Iterator[Line]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(PARQUET_ROWS):
            for row in batch.to_pylist():
                yield msgspec.convert(row, type=Line)


def _read_bytes(path: Path) -> bytes:
    raw = path.read_bytes()
    return gzip.decompress(raw) if path.suffix == ".gz" else raw


_READERS: dict[str, Callable[[Path], Iterator[Line]]] = {
    "json": _read_squad,
    "jsonl": _read_jsonl,
    "parquet": _read_parquet,
}
