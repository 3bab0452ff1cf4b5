"""`spanmill training status`, `watch` and `cancel`: about a run, wherever it is followed."""

from pathlib import Path

import click
import msgspec

from training.broker import broker_option
from training.run_state import OVER, RunState, Turn, find_run
from training.run_status import describe, read_status
from training.watching import watch as follow
from worker.contracts.broker import Broker
from worker.contracts.errors import JobError

FAILED = 1
RUNS_ROOT = click.option(
    "--runs-root", default="spanmill-runs", show_default=True, envvar="SPANMILL_RUNS_ROOT",
    type=click.Path(path_type=Path), help="Where runs are looked for by their names.",
)  # fmt: skip
JSON = click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")


@click.command()
@click.argument("run")
@RUNS_ROOT
@JSON
def status(run: str, runs_root: Path, as_json: bool) -> int:
    """Say how a RUN stands: a folder, or a name in the runs' folder."""
    found = read_status(find_run(runs_root, run))
    click.echo(msgspec.json.encode(found).decode() if as_json else describe(found))
    return 0


@click.command()
@click.argument("run")
@RUNS_ROOT
@broker_option()
@JSON
def watch(run: str, runs_root: Path, broker: Broker | None, as_json: bool) -> int:
    """Follow a RUN until it is over; the exit status says how.

    With a broker, it is rung for again if no worker has heard of it.
    """
    found = follow(find_run(runs_root, run), broker, lambda line: click.echo(line, err=True))
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
    return 0 if found.state == RunState.FINISHED else FAILED


@click.command()
@click.argument("run")
@RUNS_ROOT
def cancel(run: str, runs_root: Path) -> int:
    """Stop a RUN at the next step; its checkpoint is kept, and `submit` goes on with it.

    A bundle in the making is given up, and made from its beginning then.
    """
    folder = find_run(runs_root, run)
    state = folder.read().state
    if state in OVER - {RunState.CANCELLED}:
        raise JobError(f"the run {folder.name} is {state} already: there is nothing to cancel")
    if state not in (RunState.CANCELLED, RunState.CANCELLING):
        folder.put_turn(Turn.CANCELLED)
    state = folder.read().state
    click.echo(f"the run {folder.name} is {state}: what was learned until its checkpoint is kept")
    return 0
