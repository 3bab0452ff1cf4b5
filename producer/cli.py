"""The `spanmill` command: a lazy group, and the one place where errors become exit statuses."""

import importlib
import os
import sys
import traceback
from collections.abc import Sequence

import click

from producer.exits import DONE, FAILED, INTERRUPTED, USAGE
from worker.contracts.errors import SpanmillError, UsageError

#: Loaded when called, so that `--help` is quick and torch is needed by `spanmill training` alone.
COMMANDS = {
    "answer": ("producer.commands.answer:answer", "Answer the questions of files on this machine."),
    "submit": ("producer.commands.answer:submit", "Answer them through a fleet of workers."),
    "worker": ("worker.serve:worker", "Answer batches from a broker's queues."),
    "resume": ("producer.commands.answer:resume", "Go on with a job that was stopped."),
    "retry-errors": ("producer.commands.answer:retry_errors", "Answer a job's error rows again."),
    "jobs": ("producer.commands.jobs:jobs", "List the jobs."),
    "status": ("producer.commands.jobs:status", "Say how a job stands."),
    "watch": ("producer.commands.jobs:watch", "Follow a job to its end."),
    "cancel": ("producer.commands.jobs:cancel", "Stop a job; what is done is kept."),
    "collect": ("producer.commands.jobs:collect", "Write a job's answers to a file."),
    "rethreshold": (
        "producer.commands.rethreshold:rethreshold",
        "Decide answers again, without a model.",
    ),
    "evaluate": (
        "producer.commands.evaluate:evaluate",
        "Score answers by the official SQuAD rules.",
    ),
    "bundle": ("worker.cli:bundle", "Look at model bundles."),
    "training": ("training.cli:training", "Train, export, quantize and calibrate models."),
}


class LazyGroup(click.Group):
    """A group whose commands are named by "module:attribute" strings."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names in the order in which a user meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a command's module."""
        if cmd_name not in COMMANDS:
            return None
        module, attribute = COMMANDS[cmd_name][0].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="spanmill", message="%(version)s")
@click.option("--debug", is_flag=True, help="Print tracebacks.  [also: SPANMILL_DEBUG=1]")
def spanmill(**_: bool) -> None:
    """Answer questions over passages in bulk: Parquet in, spans with confidence out."""


# `main` reads --debug itself: it must hold whatever goes wrong, parsing the options too, and
# wherever it stands.
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given or os.environ.get("SPANMILL_DEBUG", "") not in ("", "0")
    sys.exit(_run([one for one in given if one != "--debug"], debug=debug))


def _run(arguments: list[str], *, debug: bool) -> int:
    try:
        status = spanmill.main(arguments, prog_name="spanmill", standalone_mode=False)
    except SpanmillError as error:
        if debug:
            traceback.print_exc()
        _complain(str(error))
        return USAGE if isinstance(error, UsageError) else FAILED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except (
        BrokenPipeError
    ):  # the reader of our output has gone: nothing to say, nobody to say it to
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:  # noqa: BLE001  the last resort: a sentence instead of a traceback
        if debug:
            traceback.print_exc()
        _complain(f"unexpected {type(error).__name__} ({error}): run it with --debug and report it")
        return FAILED
    return status if isinstance(status, int) else DONE


def _complain(message: str) -> None:
    click.echo(f"spanmill: error: {message}", err=True)


if __name__ == "__main__":
    main()
