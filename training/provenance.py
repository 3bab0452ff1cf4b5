"""What a recipe's bundle tells on its card: recipe, steps, seeds, and every file's digest."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from training.card import Data, Encoder, Origin, count_rows, read_revision
from training.recipe import Learning, Pack, list_files, parse_start
from training.workspace import Workspace
from worker.contracts.bundle import prove_file


def describe_origin(step: Pack, workspace: Workspace) -> Origin:
    """Say how to make the bundle again."""
    recipe, written = workspace.recipe, workspace.written
    share, files = recipe.held_out.share, recipe.held_out.files
    made = recipe.held_out.unanswerable
    added = "" if made is None else f" (some made unanswerable of the others: {made.how})"
    unread = recipe.held_out.unread
    more = "" if unread is None else f", and new passages of {workspace.files[unread.of].name}"
    steps = [workspace.find_done(name) for name in workspace.needed]
    return Origin(
        recipe=written.text,
        git_revision=read_revision(Path(__file__).parent),
        seeds=list_seeds(workspace),
        encoder=name_encoder(recipe.encoder, workspace.place.encoder),
        encoder_sha256=find_encoder_proof(workspace),
        checkpoint_sha256=workspace.prove_start(step.start),
        held_out=f"{share:g} of the passages of {len(files)} files{more}:"
        f" {count_rows(workspace.rows.held_out)}{added}, none of whose passages was trained on;"
        f" {len(workspace.rows.judges)} of them chose the checkpoints",
        settings=written.settings,
        steps=tuple(one for one in steps if one is not None),
    )


def name_encoder(named: Encoder | None, given: str | None) -> Encoder | None:
    """Return the encoder to tell of: the recipe's, unless one of another name was given instead.

    A folder tells by its name alone: the machine's paths are no part of a card.
    """
    if given is None:
        return named
    name = Path(given).resolve().name if Path(given).exists() else given
    if named is not None and name in (named.name, named.name.rpartition("/")[2]):
        return named
    instead = "" if named is None else f", given instead of the recipe's {named.name}"
    return Encoder(name, f"not told{instead}")


def find_encoder_proof(workspace: Workspace) -> str | None:
    """Return the encoder's digest; that which a bundle's card tells, where one is begun with."""
    if "encoder" in workspace.proofs or workspace.place.encoder is not None:
        return workspace.prove_start("encoder")
    for card in _list_cards(workspace):
        proof = card.get("origin", {}).get("encoder_sha256")
        if proof is not None:
            return str(proof)
    return None


def list_seeds(workspace: Workspace) -> dict[str, int]:
    """Return every seed that something was drawn with."""
    recipe = workspace.recipe
    seeds = {"held-out split": recipe.held_out.seed}
    if recipe.held_out.judge_rows is not None:
        seeds["judges"] = recipe.held_out.judge_seed
    if recipe.held_out.unanswerable is not None:
        seeds["held-out unanswerable"] = recipe.held_out.unanswerable.seed
    if recipe.held_out.unread is not None:
        seeds["held-out unread"] = recipe.held_out.unread.seed
    drawn = {name: recipe.data[name] for name in workspace.files}
    seeds |= {name: table.seed for name, table in drawn.items() if table.rows is not None}
    seeds |= {name: one.seed for name, one in recipe.augment.items()}
    steps = {name: recipe.steps[name] for name in workspace.needed}
    return seeds | {
        name: step.schedule.seed for name, step in steps.items() if isinstance(step, Learning)
    }


def describe_rows(workspace: Workspace) -> tuple[Data, ...]:
    """Prove every file, with what it was used for; a thawed bundle's are told by its card."""
    recipe = workspace.recipe
    trained, unread = list_files(recipe, workspace.names), recipe.held_out.unread
    found = []
    read_whole = set()
    for name, path in workspace.files.items():
        table = recipe.data[name]
        used = [] if name not in trained else ["training"]
        if table.rows is not None:
            used = [f"{one}, {table.rows} of its rows" for one in used]
        if name in recipe.held_out.files:
            used.append("held-out passages for calibration")
        if unread is not None and name == unread.of:
            used.append("new passages for calibration")
        proved = _prove(path, ", and ".join(used), table.licence)
        found.append(proved)
        if name in trained and table.rows is None:
            read_whole.add((proved.name, proved.sha256))
    for what, sha256 in workspace.rows.prove_words(workspace.names).items():
        found.append(Data("WordNet", f"synonyms ({what})", sha256, "WordNet licence (Princeton)"))
    for report, path in workspace.reports.items():
        licence = recipe.reports[report].licence
        found.append(_prove(path, f"scores only ({report})", licence))
    earlier = [Data(**one) for card in _list_cards(workspace) for one in card.get("data", ())]
    inherited = (
        replace(one, used_for="training, of the bundle that this one began with")
        for one in earlier
        if one.used_for.startswith("training") and (one.name, one.sha256) not in read_whole
    )
    return tuple(dict.fromkeys((*found, *inherited)))


def _prove(path: Path, used_for: str, licence: str) -> Data:
    return Data(path.name, used_for, prove_file(path).sha256, licence)


def _list_cards(workspace: Workspace) -> list[dict[str, Any]]:
    """Return the cards of the bundles that the needed steps begin with."""
    starts = [parse_start(workspace.recipe.steps[name].start) for name in workspace.needed]
    names = dict.fromkeys(one.name for one in starts if one.kind == "bundle")
    return [workspace.find_bundle(name).manifest.card for name in names]
