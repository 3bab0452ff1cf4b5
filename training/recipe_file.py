"""Reads a recipe's file: every key is known or refused, every value can be set from outside."""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from training.recipe import Learning, Names, Pack, Recipe, list_names, list_sources
from training.unknown import find_unknown, guess
from worker.contracts.errors import UsageError
from worker.reading.scores import ENGLISH

#: The tables whose keys are names of the recipe's own.
_NAMED = ("data", "augment", "mixtures", "steps", "reports")
_STEP_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class Written:
    """A recipe, the text that it was read from, and the values that were set from outside."""

    recipe: Recipe
    text: str
    settings: tuple[str, ...]


def read_recipe(name: str, settings: Sequence[str] = ()) -> Written:
    """Read a file, or a recipe of the package by its name; ``settings`` are ``key=value``.

    Raises:
        UsageError: it is not there, or says something that no recipe can say.
    """
    path = find_recipe(name)
    try:
        text = path.read_text(encoding="utf-8")
        raw = tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as TOML ({error}): mend it there") from error
    for setting in settings:
        raw = _merge(raw, parse_setting(setting))
    unknown = find_unknown(raw, Recipe)
    if unknown is not None:
        raise UsageError(f"a recipe has no key {unknown}: correct it in {path.name} or in --set")
    try:
        recipe = msgspec.convert(raw, Recipe)
    except (msgspec.ValidationError, ValueError) as error:
        raise UsageError(f"{path.name} is not a recipe ({error}): correct it there") from error
    refuse_senseless(recipe)
    return Written(recipe, text, tuple(settings))


def find_recipe(name: str) -> Path:
    """Return the file of a recipe given by path, or by the name of one in the package."""
    home = Path(str(resources.files("training"))) / "recipes"
    shipped = {path.stem: path for path in sorted(home.glob("*.toml"))}
    if name in shipped:
        return shipped[name]
    if Path(name).is_file():
        return Path(name)
    raise UsageError(
        f"there is no recipe {name}: give a TOML file, or one of {', '.join(shipped)} by its name"
    )


def parse_setting(setting: str) -> dict[str, Any]:
    """Return ``a.b=value`` as nested tables; the value is TOML, or else text as it stands."""
    key, equals, value = setting.partition("=")
    for line in (setting, f"{key} = {json.dumps(value, ensure_ascii=False)}"):
        try:
            if equals:
                return tomllib.loads(line)
        except tomllib.TOMLDecodeError:
            continue
    raise UsageError(f"--set {setting} is not KEY=VALUE, such as steps.first.schedule.seed=2")


def refuse_senseless(recipe: Recipe) -> None:
    """Refuse a recipe whose names lead nowhere.

    Raises:
        UsageError: a name is unknown, given twice, or stands on itself; there are no steps.
    """
    if not recipe.steps:
        raise UsageError("the recipe has no steps: add at least one under [steps]")
    twice = recipe.data.keys() & recipe.mixtures.keys() | recipe.augment.keys() & (
        recipe.data.keys() | recipe.mixtures.keys()
    )
    if twice:
        raise UsageError(f"{sorted(twice)[0]} is the name of two sets of rows: rename one of them")
    unread = recipe.held_out.unread
    named = [("files", name) for name in recipe.held_out.files]
    named += [] if unread is None else [("unread.of", unread.of)]
    for key, name in named:
        if name not in recipe.data:
            raise UsageError(
                f"held_out.{key} names {guess(name, recipe.data)}, which is no table of"
                " [data]: name one of those"
            )
    for where, name in _list_references(recipe):
        _follow_name(recipe, name, where, ())
    _refuse_senseless_steps(recipe)


def _refuse_senseless_steps(recipe: Recipe) -> None:
    earlier: list[str] = []
    told = (ENGLISH, recipe.card.language)
    for name, step in recipe.steps.items():
        if isinstance(step, Learning) and step.schedule.language not in told:
            raise UsageError(
                f"the step {name} compares answers as {step.schedule.language!r} but the card says"
                f" {recipe.card.language!r}: say the language on the card alone"
            )
        if _STEP_NAME.fullmatch(name) is None:
            raise UsageError(
                f"a step cannot be named {name!r}: it names a folder, so use a-z, 0-9, - and _"
            )
        for start in list_sources(step):
            if start.kind == "encoder" and recipe.encoder is None:
                raise UsageError(f"the step {name} starts from the encoder: add [encoder]")
            if start.kind == "step" and start.name not in earlier:
                raise UsageError(
                    f"the step {name} stands on the step {guess(start.name, earlier)}, which is no"
                    " earlier step that trains: correct its name or their order"
                )
        if not isinstance(step, Pack):
            earlier.append(name)


def _list_references(recipe: Recipe) -> Iterator[tuple[str, str]]:
    tables: Mapping[str, Sequence[str]] = {
        **{f"mixtures.{name}": names for name, names in recipe.mixtures.items()},
        **{f"augment.{name}": one.of for name, one in recipe.augment.items()},
        **{f"steps.{name}": list_names(step) for name, step in recipe.steps.items()},
    }
    for where, names in tables.items():
        yield from ((where, name) for name in names)


def _follow_name(recipe: Recipe, name: str, where: str, above: Names) -> None:
    known = {**recipe.data, **recipe.mixtures, **recipe.augment}
    if name not in known:
        raise UsageError(
            f"{where} names the rows {guess(name, known)}, which are neither data, mixture nor"
            " augmentation: correct the name"
        )
    if name in above:
        raise UsageError(f"{where} stands on itself ({' -> '.join([*above, name])}): untie it")
    for one in recipe.mixtures.get(name, ()):
        _follow_name(recipe, one, f"mixtures.{name}", (*above, name))
    for one in recipe.augment[name].of if name in recipe.augment else ():
        _follow_name(recipe, one, f"augment.{name}", (*above, name))


def _merge(raw: dict[str, Any], setting: dict[str, Any]) -> dict[str, Any]:
    """Return the tables with a setting in them; it changes what is named, and names nothing new."""
    for table in _NAMED:
        for key in setting.get(table, {}) if isinstance(setting.get(table), dict) else ():
            if key not in raw.get(table, {}):
                known = raw.get(table, {})
                raise UsageError(
                    f"--set names {guess(key, known, f'{table}.')}, which the recipe does not have:"
                    " set a value of what it has"
                )
    laid: dict[str, Any] = _lay_over(raw, setting)
    return laid


def _lay_over(below: Any, above: Any) -> Any:
    """Return what is above where it says something; numbers name the places of a list."""
    if isinstance(below, list) and isinstance(above, dict):
        places = {str(number): one for number, one in enumerate(below)}
        if not above.keys() <= places.keys():
            raise UsageError(f"--set names a place of a list that has {len(below)}: count from 0")
        return list(_lay_over(places, above).values())
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return below | {
        key: _lay_over(below[key], value) if key in below else value for key, value in above.items()
    }
