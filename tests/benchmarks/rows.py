"""Writes Parquet files of invented questions and passages, of any number of rows.

Run as a program, so that the memory it takes is not that of the process that measures.
"""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

MADE_ROWS = 10_000
GROUP_ROWS = 65_536
PASSAGE_WORDS = (85, 115)
QUESTION_WORDS = 9
VOCABULARY = 20_000

_HEADS = ("b", "br", "ch", "d", "f", "fl", "g", "h", "k", "l", "m", "n", "p", "qu", "s", "tr", "z")
_CORES = ("a", "e", "i", "o", "u", "ai", "ea", "ia", "ou", "é", "ø", "ü")
_TAILS = ("", "", "l", "n", "nd", "r", "rn", "s", "st", "t", "x")

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("question", pa.string()),
        ("context", pa.string()),
        ("year", pa.int32()),
    ]
)


def write_rows(path: Path, first_row: int, rows: int, group_rows: int) -> None:
    """Write rows of SCHEMA; ``group_rows`` make a row group."""
    generator = np.random.default_rng(first_row)
    words = _invent_words(generator)
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        for start in range(first_row, first_row + rows, group_rows):
            end = min(start + group_rows, first_row + rows)
            group = [
                _invent_rows(generator, words, number, min(MADE_ROWS, end - number))
                for number in range(start, end, MADE_ROWS)
            ]
            writer.write_table(pa.concat_tables(group), row_group_size=group_rows)


def _invent_words(generator: np.random.Generator) -> list[str]:
    """Return words of one to three syllables, the short ones first."""
    syllables = [head + core + tail for head in _HEADS for core in _CORES for tail in _TAILS]
    counts = np.sort(generator.integers(1, 4, VOCABULARY))
    return ["".join(generator.choice(syllables, count)) for count in counts]


def _invent_rows(
    generator: np.random.Generator, words: list[str], start: int, rows: int
) -> pa.Table:
    """Draw words as often as words are used: the share of rank r falls like 1 / r."""
    lengths = generator.integers(*PASSAGE_WORDS, rows)
    total = int(lengths.sum()) + rows * QUESTION_WORDS
    ranks = np.exp(generator.random(total) * np.log(len(words))).astype(np.int64) - 1
    drawn = [words[rank] for rank in ranks.tolist()]
    contexts, questions, place = [], [], 0
    for length in lengths.tolist():
        questions.append(" ".join(drawn[place : place + QUESTION_WORDS]) + "?")
        place += QUESTION_WORDS
        contexts.append(" ".join(drawn[place : place + length]) + ".")
        place += length
    ids = [f"row-{number:09d}" for number in range(start, start + rows)]
    years = generator.integers(1500, 2000, rows).astype(np.int32)
    return pa.table([ids, questions, contexts, years], schema=SCHEMA)


if __name__ == "__main__":
    write_rows(Path(sys.argv[1]), *(int(number) for number in sys.argv[2:5]))
