"""The grid of a sweep: values of a recipe's keys in all combinations, and how each is called."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from worker.contracts.errors import UsageError

_UNSAFE = re.compile(r"[^A-Za-z0-9._=,+-]+")
_MAX_NAME_CHARS = 100
_OPENING, _CLOSING, _QUOTES = "[{", "]}", "\"'"


@dataclass(frozen=True, slots=True)
class Axis:
    """A key of the recipe and the values that it takes, as they are written."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Combination:
    """One value for every key; ``name`` is that of its folder."""

    name: str
    values: dict[str, str]

    @property
    def settings(self) -> tuple[str, ...]:
        """Return it as ``--set`` takes it."""
        return tuple(f"{key}={value}" for key, value in self.values.items())


def parse_axis(text: str) -> Axis:
    """Read ``KEY=VALUE,VALUE,...``; commas in brackets or quotes part nothing.

    Raises:
        UsageError: it is not of this form, or names a value twice.
    """
    key, equals, listed = text.partition("=")
    values = tuple(one.strip() for one in _split(listed))
    if not equals or not key.strip() or not all(values):
        raise UsageError(
            f"--over {text} is not KEY=VALUE,VALUE, such as"
            " steps.first.schedule.learning_rate=1e-5,2e-5"
        )
    if len(set(values)) < len(values):
        raise UsageError(f"--over {text} names a value twice: name each once")
    return Axis(key.strip(), values)


def combine(axes: Sequence[Axis]) -> list[Combination]:
    """Return all combinations, the last key's values changing first.

    Raises:
        UsageError: there is no key, or one is given twice.
    """
    keys = [axis.key for axis in axes]
    if not keys:
        raise UsageError("a sweep goes over the values of at least one key: give --over KEY=V1,V2")
    if len(set(keys)) < len(keys):
        raise UsageError("--over gives a key twice: give all of its values at once")
    short = shorten(keys)
    found = []
    for values in product(*(axis.values for axis in axes)):
        chosen = dict(zip(keys, values, strict=True))
        found.append(Combination(_name(short, chosen), chosen))
    return found


def shorten(keys: Sequence[str]) -> dict[str, str]:
    """Return each key's shortest end that no other key ends in."""
    short = {}
    for key in keys:
        parts = key.split(".")
        ends = [".".join(parts[at:]) for at in reversed(range(len(parts)))]
        others = [other for other in keys if other != key]
        unlike = (end for end in ends if not any(f".{one}".endswith(f".{end}") for one in others))
        short[key] = next(unlike, key)
    return short


def _name(short: dict[str, str], values: dict[str, str]) -> str:
    """Return a folder's name; a digest tells apart what cannot be spelled in one."""
    whole = ",".join(f"{short[key]}={value}" for key, value in values.items())
    safe = _UNSAFE.sub("-", whole)
    if safe == whole and len(whole) <= _MAX_NAME_CHARS:
        return whole
    digest = hashlib.sha256(whole.encode()).hexdigest()[:8]
    return f"{safe[:_MAX_NAME_CHARS]}-{digest}"


def _split(text: str) -> list[str]:
    """Split at the commas that stand in no bracket and no quotes."""
    parts, depth, quote = [""], 0, ""
    for sign in text:
        if quote:
            quote = "" if sign == quote else quote
        elif sign in _QUOTES:
            quote = sign
        depth += 0 if quote else (sign in _OPENING) - (sign in _CLOSING)
        if sign == "," and not quote and depth == 0:
            parts.append("")
        else:
            parts[-1] += sign
    return parts
