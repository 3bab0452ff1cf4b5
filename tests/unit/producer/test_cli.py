"""The command line: what goes wrong becomes one sentence and an exit status."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import pytest

from producer import cli
from producer.cli import COMMANDS, main
from worker.contracts.errors import BundleError, InputError, JobError, RowError, WorldError


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert isinstance(caught.value.code, int)
    return caught.value.code


def give(monkeypatch: pytest.MonkeyPatch, outcome: BaseException | int | None) -> None:
    """Let the command `jobs` end so."""

    @click.command()
    def jobs() -> int | None:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    monkeypatch.setattr("producer.commands.jobs.jobs", jobs)


def test_help_names_every_command_in_the_order_of_their_use(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run("--help") == 0
    text = capsys.readouterr().out
    places = [text.index(f"  {name} ") for name in COMMANDS]
    assert places == sorted(places)
    assert run("-h") == 0


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "training"])
def test_every_command_can_be_loaded_and_has_help(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(name, "--help") == 0
    assert f"spanmill {name}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("worker", "[env var: SPANMILL_BROKER_URL]"),
        ("worker", "[env var: SPANMILL_PROCESSES; 1<=x<=512]"),
        ("status", "[env var: SPANMILL_BROKER_URL]"),
        ("jobs", "[default: ./spanmill-jobs] [env var: SPANMILL_JOBS_ROOT]"),
        ("submit", "[env var: SPANMILL_JOBS_ROOT]"),
        ("submit", "auto: the best here for `answer`, cpu for `submit`."),
        ("resume", "[default: the job's, else default]"),
    ],
)
def test_help_tells_what_holds_where_nothing_is_given(
    command: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run(command, "--help")
    assert told in " ".join(capsys.readouterr().out.split())


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.strip()[0].isdigit()


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (None, 0),
        (0, 0),
        (3, 3),
        (130, 130),
        (InputError("no"), 2),
        (BundleError("no"), 2),
        (JobError("no"), 1),
        (WorldError("no"), 1),
        (RowError("no"), 1),
        (click.UsageError("no"), 2),
        (KeyboardInterrupt(), 130),
        (click.Abort(), 130),
        (ZeroDivisionError("no"), 1),
    ],
)
def test_each_end_has_its_status(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    outcome: BaseException | int | None,
    status: int,
) -> None:
    give(monkeypatch, outcome)
    assert run("jobs") == status
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err
    if isinstance(outcome, JobError | WorldError | InputError):
        assert said.err == "spanmill: error: no\n"


@pytest.mark.parametrize("arguments", [("--debug", "jobs"), ("jobs", "--debug")])
def test_a_traceback_is_shown_only_with_debug_wherever_it_stands(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: Sequence[str],
) -> None:
    give(monkeypatch, JobError("no"))
    assert run(*arguments) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(("value", "shown"), [("1", True), ("0", False), ("", False)])
def test_a_traceback_can_be_asked_for_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], value: str, shown: bool
) -> None:
    monkeypatch.setenv("SPANMILL_DEBUG", value)
    give(monkeypatch, ZeroDivisionError("no"))
    assert run("jobs") == 1
    said = capsys.readouterr().err
    assert ("Traceback" in said) is shown
    assert "spanmill: error: unexpected ZeroDivisionError (no)" in said


def test_a_command_that_is_none_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("milk") == 2
    assert "No such command 'milk'" in capsys.readouterr().err


def test_the_arguments_of_the_process_are_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["spanmill", "jobs", "--jobs-root", str(tmp_path / "none")])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    assert "there is no jobs' folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [("--log-format", "json", "jobs"), ("jobs", "--log-format=json")]
)
def test_in_json_every_complaint_is_an_object_and_no_library_is_quoted(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: Sequence[str],
) -> None:
    for outcome, told in (
        (JobError("no such job"), "no such job"),
        (click.UsageError("no such option"), "no such option"),
        (ZeroDivisionError("a text"), "unexpected ZeroDivisionError:"),
    ):
        give(monkeypatch, outcome)
        assert run(*arguments) in (1, 2)
        line = json.loads(capsys.readouterr().err)
        assert (line["event"], line["level"]) == ("error", "error")
        assert told in line["message"]
        assert "a text" not in line["message"]


def test_a_format_that_is_none_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPANMILL_LOG_FORMAT", "xml")
    assert run("jobs") == 2
    assert "--log-format is text or json, not 'xml'" in capsys.readouterr().err
