"""The options that `answer` and `submit` share, and the request they make."""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from producer.plan import Request
from producer.raw import is_utf8
from producer.source import choose_id_column, find_files
from worker.contracts.broker_url import broker_option
from worker.contracts.bundle import find_bundle, load_bundle
from worker.contracts.errors import InputError, UsageError
from worker.contracts.job import Columns
from worker.contracts.options import ReadingOptions
from worker.contracts.url import to_path

F = TypeVar("F", bound=Callable[..., Any])

#: Every option can come from the environment: SPANMILL_ and its name.
PREFIX = "SPANMILL"
#: Used where nobody names one and a file has it; else the row number is the id.
DEFAULT_ID_COLUMN = "id"
#: Answers are Parquet: under these names other programs would stumble over them.
OTHER_ENDINGS = (".csv", ".json", ".jsonl")


def read_threshold(text: str) -> float:
    """Return a number in logits, or infinity for "inf": answer always.

    Raises:
        click.BadParameter: it is neither; minus infinity means nothing here.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if math.isnan(number) or number == -math.inf:
        raise click.BadParameter(f"{text!r} is neither a number nor inf")
    return number


def option(*names: str, **settings: Any) -> Callable[[F], F]:
    """Return a click option that the environment can set too, with its default shown."""
    long_name = next(name for name in names if name.startswith("--")).split("/")[0]
    variable = f"{PREFIX}_{long_name.strip('-').replace('-', '_').upper()}"
    settings.setdefault("show_envvar", False)
    settings.setdefault("show_default", True)
    decorator: Callable[[F], F] = click.option(*names, envvar=variable, **settings)
    return decorator


def read_input(text: str) -> str:
    """Return an input; an empty one, as of a variable that is not set, would be this folder.

    Raises:
        InputError: it is empty.
    """
    if not to_path(text):
        raise InputError(
            "an INPUT is empty: name a file, a folder (. is this one), a glob or a URL"
        )
    return text


def read_output(text: str) -> str:
    """Return the output.

    Raises:
        UsageError: it is empty, or named as what it will not be.
    """
    if not to_path(text):
        raise UsageError("--out is empty: name a file, or a folder that ends in /")
    if text.lower().endswith(OTHER_ENDINGS):
        raise UsageError(f"--out {text} would be Parquet: end its name in .parquet")
    return text


def read_root(text: str) -> str:
    """Return the jobs' folder.

    Raises:
        UsageError: its name cannot be written down.
    """
    if not is_utf8(text):
        raise UsageError(f"the name of the jobs' folder {text} is not UTF-8: choose another one")
    return text


BROKER = broker_option()
JOBS_ROOT = option(
    "--jobs-root",
    type=read_root,
    metavar="DIR|URL",
    show_envvar=True,
    help="Folder of the jobs.  [default: ./spanmill-jobs]",
)
OUTPUT = option(
    "--out",
    "output",
    required=True,
    type=read_output,
    metavar="FILE",
    help="Parquet file, or a folder if it ends in /.",
)
JSON = option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")

_SHARED = (
    click.argument("inputs", nargs=-1, required=True, type=read_input, metavar="INPUT..."),
    OUTPUT,
    option("--bundle", metavar="PATH|NAME", help="Model bundle.  [default: the one shipped]"),
    option("--id-column", help="Column of ids; '' for none.  [default: id, if there is one]"),
    option("--question-column", default="question", help="Column of questions."),
    option("--context-column", default="context", help="Column of passages."),
    option("--keep", multiple=True, metavar="COLUMN", help="Carry a column through; repeatable."),
    option(
        "--null-threshold",
        type=read_threshold,
        metavar="NUMBER",
        help="Null odds above it are unanswerable; inf: answer always.  [default: the bundle's]",
    ),
    option("--top-k", default=0, type=click.IntRange(0, 20), help="Alternatives of each row."),
    option(
        "--max-answer-tokens", default=30, type=click.IntRange(1, 10_000), help="Longest answer."
    ),
    option(
        "--max-context-chars",
        default=1_000_000,
        type=click.IntRange(1, 2**31 - 1),  # offsets have four bytes
        help="Read no passage further than this.",
    ),
    option(
        "--batch-rows",
        type=click.IntRange(1, 100_000),
        help="Rows of a batch, which also ends at 2 MiB of text and kept columns."
        "  [default: 8 to 256, by the job's size]",
    ),
    option(
        "--max-error-ratio",
        type=click.FloatRange(0, 1),
        help="Fail when more of the rows are errors.  [default: never]",
    ),
    option(
        "--provider",
        default="auto",
        type=click.Choice(["auto", "cpu", "cuda", "tensorrt", "coreml", "openvino"]),
        help="Execution provider; auto: the best here for `answer`, cpu for `submit`.",
    ),
    option("--overwrite", is_flag=True, help="Replace the output, and begin the job anew."),
    option("--dry-run", is_flag=True, help="Check everything, say what would be done, and stop."),
    option(
        "--jobs-root",
        type=read_root,
        metavar="DIR|URL",
        show_envvar=True,
        help="Folder of the jobs.  [default: spanmill-jobs beside the output]",
    ),
    option("--job-id", "job", help="Name of the job.  [default: follows from the command]"),
)


def job_options(function: F) -> F:
    """Decorate a command with the options of a job."""
    for decorator in reversed(_SHARED):
        function = decorator(function)
    return function


def make_request(given: Mapping[str, Any], versions: dict[str, str]) -> Request:
    """Turn a command's options into a request; the bundle is loaded and checked here.

    Raises:
        BundleError: there is no such bundle, or it is damaged.
        InputError: no id column is named, and a file to look for one in cannot be read; or the name
            of a column is none.
    """
    _check_names(given["id_column"], given["question_column"], given["context_column"])
    _check_names(*given["keep"])
    bundle = load_bundle(find_bundle(given["bundle"]))
    threshold = given["null_threshold"]
    if threshold is None:
        threshold = bundle.manifest.null_threshold
    return Request(
        inputs=tuple(map(to_path, given["inputs"])),
        output=to_path(given["output"]),
        columns=Columns(
            id=_choose_id(given["id_column"], tuple(given["inputs"])),
            question=given["question_column"],
            context=given["context_column"],
            keep=tuple(dict.fromkeys(given["keep"])),
        ),
        reading=ReadingOptions(
            null_threshold=None if math.isinf(threshold) else threshold,
            top_k=given["top_k"],
            max_answer_tokens=given["max_answer_tokens"],
            max_context_chars=given["max_context_chars"],
        ),
        bundle=bundle,
        provider=given["provider"],
        batch_rows=given["batch_rows"],
        max_error_ratio=given["max_error_ratio"],
        job=given["job"],
        versions=versions,
    )


def _check_names(*names: str | None) -> None:
    for name in names:
        if name is not None and not is_utf8(name):
            raise InputError(f"the column's name {name!r} is not UTF-8: give it as it is written")


def _choose_id(named: str | None, inputs: tuple[str, ...]) -> str | None:
    if named is None:
        return choose_id_column(find_files(inputs), DEFAULT_ID_COLUMN)
    return named if named else None
