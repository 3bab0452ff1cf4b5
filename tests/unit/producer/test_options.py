"""The options of a job: from the command line or the environment to one request."""

import math
import os
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from producer.options import job_options, make_request, read_threshold
from producer.plan import Request
from tests.making import make_bundle, write_input
from worker.contracts.bundle import Bundle
from worker.contracts.errors import BundleError, InputError, UsageError
from worker.contracts.job import Columns
from worker.contracts.options import ReadingOptions


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_bundle(tmp_path / "bundle")


def ask(*arguments: str, environment: dict[str, str] | None = None) -> dict[str, Any]:
    """Return what the options give."""
    given: dict[str, Any] = {}

    @click.command()
    @job_options
    def command(**values: Any) -> None:
        given.update(values)

    done = CliRunner().invoke(command, arguments, env=environment, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return given


def test_the_defaults_are_those_of_the_design() -> None:
    given = ask("in.parquet", "--out", "out.parquet")
    assert given == {
        "inputs": ("in.parquet",),
        "output": "out.parquet",
        "bundle": None,
        "id_column": None,
        "question_column": "question",
        "context_column": "context",
        "keep": (),
        "null_threshold": None,
        "top_k": 0,
        "max_answer_tokens": 30,
        "max_context_chars": 1_000_000,
        "batch_rows": None,
        "max_error_ratio": None,
        "provider": "auto",
        "overwrite": False,
        "dry_run": False,
        "jobs_root": None,
        "job": None,
    }


def test_every_option_can_come_from_the_environment() -> None:
    environment = {
        "SPANMILL_OUT": "o.parquet",
        "SPANMILL_BUNDLE": "b",
        "SPANMILL_ID_COLUMN": "i",
        "SPANMILL_QUESTION_COLUMN": "q",
        "SPANMILL_CONTEXT_COLUMN": "c",
        "SPANMILL_KEEP": "x y",
        "SPANMILL_NULL_THRESHOLD": "inf",
        "SPANMILL_TOP_K": "3",
        "SPANMILL_MAX_ANSWER_TOKENS": "9",
        "SPANMILL_MAX_CONTEXT_CHARS": "99",
        "SPANMILL_BATCH_ROWS": "7",
        "SPANMILL_MAX_ERROR_RATIO": "0.25",
        "SPANMILL_PROVIDER": "cpu",
        "SPANMILL_OVERWRITE": "1",
        "SPANMILL_DRY_RUN": "true",
        "SPANMILL_JOBS_ROOT": "/jobs",
        "SPANMILL_JOB_ID": "mine",
    }
    assert ask("in.parquet", environment=environment) == {
        "inputs": ("in.parquet",),
        "output": "o.parquet",
        "bundle": "b",
        "id_column": "i",
        "question_column": "q",
        "context_column": "c",
        "keep": ("x", "y"),
        "null_threshold": math.inf,
        "top_k": 3,
        "max_answer_tokens": 9,
        "max_context_chars": 99,
        "batch_rows": 7,
        "max_error_ratio": 0.25,
        "provider": "cpu",
        "overwrite": True,
        "dry_run": True,
        "jobs_root": "/jobs",
        "job": "mine",
    }
    assert ask("in.parquet", "--out", "mine", environment=environment)["output"] == "mine"


@pytest.mark.parametrize(
    ("text", "number"), [("-2.5", -2.5), ("0", 0.0), ("inf", math.inf), ("1e999", math.inf)]
)
def test_a_threshold_is_a_number_or_infinite(text: str, number: float) -> None:
    assert read_threshold(text) == number


@pytest.mark.parametrize("text", ["nan", "-inf", "", "high", "1,5"])
def test_what_means_nothing_is_no_threshold(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is neither a number nor inf"):
        read_threshold(text)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--out", "o"),
        ("in",),
        ("in", "--out", "o", "--null-threshold", "nan"),
        ("in", "--out", "o", "--batch-rows", "0"),
        ("in", "--out", "o", "--max-error-ratio", "2"),
        ("in", "--out", "o", "--top-k", "-1"),
        ("in", "--out", "o", "--max-context-chars", "1" + "0" * 30),
        ("in", "--out", "o", "--max-answer-tokens", "1" + "0" * 30),
        ("in", "--out", "o", "--provider", "abacus"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(arguments: tuple[str, ...]) -> None:
    @click.command()
    @job_options
    def command(**values: Any) -> None:
        raise AssertionError(values)

    assert CliRunner().invoke(command, arguments).exit_code == 2


def test_names_that_cannot_be_written_down_are_refused(tmp_path: Path, bundle: Bundle) -> None:
    path = write_input(tmp_path / "a.parquet")
    name = os.fsdecode(b"\xff")
    for option in ("--keep", "--id-column", "--question-column", "--context-column"):
        with pytest.raises(InputError, match="is not UTF-8"):
            request(path, bundle, option, name)
    with pytest.raises(UsageError, match="is not UTF-8"):
        ask("in", "--out", "o", "--jobs-root", name)


@pytest.mark.parametrize("empty", ["", "file://"])
def test_an_empty_name_is_not_this_folder(empty: str) -> None:
    with pytest.raises(InputError, match="an INPUT is empty"):
        ask("in", empty, "--out", "o")
    with pytest.raises(UsageError, match="--out is empty"):
        ask("in", "--out", empty)


@pytest.mark.parametrize("name", ["out.csv", "out.JSON", "s3://bucket/out.jsonl"])
def test_parquet_is_not_written_under_another_formats_ending(name: str) -> None:
    with pytest.raises(UsageError, match=f"--out {name} would be Parquet: end its name in .parq"):
        ask("in", "--out", name)
    assert ask("in", "--out", f"{name}/")["output"] == f"{name}/"  # a folder of parts


def request(path: Path, bundle: Bundle | Path, *more: str) -> Request:
    folder = bundle if isinstance(bundle, Path) else bundle.folder
    return make_request(ask(str(path), "--out", "o", "--bundle", str(folder), *more), {"x": "1"})


def test_a_request_holds_what_was_given(tmp_path: Path, bundle: Bundle) -> None:
    path = write_input(tmp_path / "a.parquet")
    found = request(
        path, bundle, "--keep", "k", "--keep", "l", "--keep", "k", "--null-threshold", "-1.5",
        "--top-k", "2", "--id-column", "x", "--batch-rows", "5",
    )  # fmt: skip
    assert found.columns == Columns(id="x", keep=("k", "l"))
    assert found.reading == ReadingOptions(null_threshold=-1.5, top_k=2)
    assert (found.bundle.digest, found.batch_rows, found.versions) == (bundle.digest, 5, {"x": "1"})


def test_a_threshold_is_the_bundles_unless_one_is_given(tmp_path: Path, bundle: Bundle) -> None:
    path = write_input(tmp_path / "a.parquet")
    assert request(path, bundle).reading.null_threshold == 0.0
    assert request(path, bundle, "--null-threshold", "inf").reading.null_threshold is None


def test_the_id_column_is_the_one_named_or_id_where_there_is_one(
    tmp_path: Path, bundle: Bundle
) -> None:
    path = write_input(tmp_path / "a.parquet")
    (tmp_path / "b.jsonl").write_text('{"question": "q", "context": "c"}\n')
    assert request(path, bundle).columns.id == "id"
    assert request(path, bundle, "--id-column", "").columns.id is None
    assert request(path, bundle, "--id-column", "other").columns.id == "other"
    assert request(tmp_path / "b.jsonl", bundle).columns.id is None
    with pytest.raises(InputError, match="does not exist"):
        request(tmp_path / "none.parquet", bundle)


def test_a_bundle_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="there is no bundle"):
        request(write_input(tmp_path / "a.parquet"), tmp_path / "none")
