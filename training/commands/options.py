"""The options that several commands share, each one meaning the same in all of them."""

from dataclasses import replace

import click

from worker.contracts.errors import UsageError
from worker.contracts.family import WindowSizes
from worker.reading.scores import ENGLISH, LANGUAGES
from worker.settings import count_cores

processes_option = click.option(
    "--processes",
    default=count_cores,
    type=click.IntRange(min=1),
    help="Processes that answer rows.  [default: the cores granted]",
)
language_option = click.option(
    "--language",
    default=ENGLISH,
    type=click.Choice(list(LANGUAGES)),
    show_default=True,
    help="How texts are compared: as SQuAD does (en), as MLQA does.",
)
range_rows_option = click.option(
    "--range-rows",
    default=300,
    show_default=True,
    type=click.IntRange(min=1),
    help="Training rows on which activation ranges are measured.",
)
max_window_tokens_option = click.option(
    "--max-window-tokens",
    type=int,
    help="The longest window, its question included: no longer than the model reads."
    "  [default: 384]",
)


def resize(sizes: WindowSizes, max_window_tokens: int | None) -> WindowSizes:
    """Return sizes with the longest window that was asked for, if one was.

    Raises:
        UsageError: it leaves no step forward.
    """
    if max_window_tokens is None:
        return sizes
    try:
        return replace(sizes, max_window_tokens=max_window_tokens)
    except ValueError as error:
        raise UsageError(f"--max-window-tokens {max_window_tokens} is too low: {error}") from error
