"""`spanmill training submit`: have workers follow a recipe."""

from pathlib import Path

import click

from training.broker import broker_option
from training.commands.recipe_options import data_dir_option, encoder_option, settings_option
from training.commands.run import say
from training.doorbell import Bell
from training.follow import begin, claim_folder, hold, make_claim
from training.holds import find_hold
from training.recipe_file import Written, read_recipe
from training.run_state import RunFolder, RunState, Turn, check_name
from training.watching import say_lonely, watch
from training.workspace import Place, Workspace
from worker.contracts.broker import Broker
from worker.contracts.errors import UsageError
from worker.contracts.ledger import Ledger
from worker.contracts.queue import SENDER_KEYS

FAILED = 1


@click.command()
@click.argument("recipe")
@click.option("--out", type=click.Path(path_type=Path),
              help="The run's folder. Default: the recipe's name in --runs-root.")  # fmt: skip
@click.option("--runs-root", envvar="SPANMILL_RUNS_ROOT", type=click.Path(path_type=Path),
              help="Folder of the runs, the same as the workers'."
              "  [default: that of --out, or spanmill-runs]")  # fmt: skip
@data_dir_option
@encoder_option
@settings_option
@click.option("--processes", default=None, type=click.IntRange(min=1),
              help="Processes that answer rows."
              "  [default: the cores granted to the worker]")  # fmt: skip
@click.option("--tensorboard", is_flag=True, help="Write TensorBoard's event files too.")
@broker_option(required=True)
@click.option("--wait", is_flag=True, help="Follow the run to its end.")
def submit(
    recipe: str,
    out: Path | None,
    runs_root: Path | None,
    data_dir: Path,
    encoder: str | None,
    settings: tuple[str, ...],
    processes: int | None,
    tensorboard: bool,
    broker: Broker,
    wait: bool,
) -> int:
    """Have workers follow a RECIPE: a TOML file, or one of the package by its name.

    What is finished stays: the same command goes on with a run that failed or was cancelled.
    """
    written = read_recipe(recipe, settings)
    folder = find_place(written, out, runs_root)
    place = Place(out=folder, data=data_dir, encoder=encoder)
    run = order(written, place, broker, processes=processes, tensorboard=tensorboard)
    status = run.read()
    if status.state is RunState.FINISHED:
        say(f"{run.name}: finished")
        click.echo(folder / list(status.steps)[-1])
        return 0
    if wait:
        return follow_to_end(run, broker)
    lonely = say_lonely(run, Ledger(broker))
    say(f"{run.name}: {status.state}" if lonely is None else lonely)
    click.echo(folder)
    return 0


def find_place(written: Written, out: Path | None, runs_root: Path | None) -> Path:
    """Return the run's folder, which lies directly in that of the runs.

    Raises:
        UsageError: it does not.
    """
    if runs_root is None:
        runs_root = Path("spanmill-runs") if out is None else out.absolute().parent
    folder = (runs_root / written.recipe.name if out is None else out).absolute()
    check_name(folder.name)
    if folder.parent != runs_root.absolute():
        raise UsageError(
            f"{folder} is not in the runs' folder {runs_root}, where workers look for it: give an"
            " --out there, or another --runs-root"
        )
    return folder


def order(
    written: Written,
    place: Place,
    broker: Broker,
    *,
    processes: int | None,
    tensorboard: bool,
) -> RunFolder:
    """Claim the run's folder and ring for its next step, unless somebody is at it.

    Raises:
        UsageError: something cannot be used, or the folder holds another run.
        WorldError: the broker or the folder is away.
    """
    workspace = Workspace(written, place, say)
    claim = make_claim(workspace)
    run = RunFolder(place.out)
    held = find_hold(place.out)
    if held is not None and held.lives:
        claim_folder(place.out, claim)
        if run.read().state is RunState.CANCELLING:
            raise UsageError(f"the run {run.name} is being cancelled: submit it again after that")
        return run
    if workspace.unfinished:
        Ledger(broker).check(SENDER_KEYS)
    with hold(run, "spanmill training submit"):
        begin(workspace, claim, Turn.SUBMITTED, processes=processes, tensorboard=tensorboard)
    step = run.read().next_step
    if step is not None:
        Bell(broker, place.out.parent).ring(run.name, step)
    return run


def follow_to_end(run: RunFolder, broker: Broker | None) -> int:
    """Say how a run goes until it is over; return the exit status."""
    try:
        status = watch(run, broker, say)
    except KeyboardInterrupt:
        say("it goes on without you: `spanmill training watch` follows it")
        raise
    if status.state != RunState.FINISHED:
        return FAILED
    click.echo(run.folder / list(status.steps)[-1])
    return 0
