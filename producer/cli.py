"""The `spanmill` command: a lazy group, and the one place where errors become exit statuses."""

import os
import sys
import traceback
from collections.abc import Sequence

import click

from producer.exits import DONE, FAILED, INTERRUPTED, USAGE
from worker.contracts.errors import SpanmillError, UsageError
from worker.contracts.lazy_group import LazyGroup

#: As `worker.log` has them, which is loaded when there is something to say.
LOG_FORMATS = ("text", "json")
LOG_FORMAT = "--log-format"

#: Loaded when called, so that `--help` is quick and torch is needed by `spanmill training` alone.
COMMANDS = {
    "answer": ("producer.commands.answer:answer", "Answer the questions of files on this machine."),
    "submit": ("producer.commands.submit:submit", "Answer them through a fleet of workers."),
    "worker": ("worker.serve:worker", "Answer batches from a broker's queues."),
    "resume": ("producer.commands.resume:resume", "Go on with a job that was stopped."),
    "retry-errors": ("producer.commands.resume:retry_errors", "Answer a job's error rows again."),
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


@click.group(cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="spanmill", message="%(version)s")
@click.option("--debug", is_flag=True, help="Print tracebacks.  [also: SPANMILL_DEBUG=1]")
@click.option(
    LOG_FORMAT,
    type=click.Choice(LOG_FORMATS),
    help="What is said on standard error: sentences, or a JSON object a line.  [default: text;"
    " also: SPANMILL_LOG_FORMAT]",
)
def spanmill(**_: bool) -> None:
    """Answer questions over passages in bulk: Parquet in, spans with confidence out."""


# `main` reads --debug and --log-format itself: they must hold whatever goes wrong, parsing the
# options too, and wherever they stand.
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its status."""
    # Arrow's own allocator keeps much of what was freed; this is read when Arrow is loaded.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given or os.environ.get("SPANMILL_DEBUG", "") not in ("", "0")
    look = _take_format(given)
    if look not in LOG_FORMATS:
        _complain(f"{LOG_FORMAT} is {' or '.join(LOG_FORMATS)}, not {look!r}: choose one", "text")
        sys.exit(USAGE)
    sys.exit(_run([one for one in given if one != "--debug"], look, debug=debug))


def _take_format(given: list[str]) -> str:
    """Return the log's format, and take it out of the arguments."""
    for place, word in enumerate(given):
        name, equals, look = word.partition("=")
        if name == LOG_FORMAT:
            taken = given[place : place + (1 if equals else 2)]
            del given[place : place + len(taken)]
            return look if equals else "".join(taken[1:])
    found = os.environ.get("SPANMILL_LOG_FORMAT", "")
    return found if found else LOG_FORMATS[0]


def _run(arguments: list[str], look: str, *, debug: bool) -> int:
    try:
        status = spanmill.main(arguments, prog_name="spanmill", standalone_mode=False, obj=look)
    except SpanmillError as error:
        if debug:
            traceback.print_exc()
        _complain(str(error), look)
        return USAGE if isinstance(error, UsageError) else FAILED
    except click.ClickException as error:
        _show(error, look)
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
        # What a library says may quote a row: it may be read here, but not be kept in a log.
        quoted = f" ({error})" if look == LOG_FORMATS[0] else ""
        name = type(error).__name__
        _complain(f"unexpected {name}{quoted}: run it with --debug and report it", look)
        return FAILED
    return status if isinstance(status, int) else DONE


def _show(error: click.ClickException, look: str) -> None:
    """Say what is wrong with the command line; with its usage, for a person."""
    if look == LOG_FORMATS[0]:
        error.show()
    else:
        _complain(error.format_message(), look)


def _complain(message: str, look: str) -> None:
    if look == LOG_FORMATS[0]:
        click.echo(f"spanmill: error: {message}", err=True)
        return
    from worker.events import Event, Level  # loads Arrow, which `--help` has no use for
    from worker.log import open_log

    open_log(look).tell(Event("error", Level.ERROR, message))


if __name__ == "__main__":
    main()
