"""What a bundle says of itself: where it comes from, what it scores, where it fails."""

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from training.calibrate import Honesty
from training.data import Labelled
from training.evaluate import Estimate
from training.quantize import Gated
from worker.contracts.bundle import prove_file
from worker.contracts.errors import InputError


class Encoder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The pre-trained encoder that fine-tuning began with."""

    name: str
    licence: str


class Texts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a person writes, in TOML. ``licences`` are by the data's file name without suffix."""

    name: str
    language: str
    licence: str
    summary: str
    limits: tuple[str, ...]
    encoder: Encoder | None = None
    licences: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Data:
    """A file of rows: what was used, provably."""

    name: str
    used_for: str
    sha256: str
    licence: str


@dataclass(frozen=True, slots=True)
class Trained:
    """A step of the recipe that led to the bundle.

    ``start`` is as the recipe says it; the digests are those of the weights (of the bundle, where
    one was thawed) before and after.
    """

    step: str
    kind: str
    start: str
    start_sha256: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Origin:
    """How to make the bundle again; ``settings`` are the recipe's values that were set anew."""

    recipe: str
    git_revision: str
    seeds: dict[str, int]
    encoder: Encoder | None
    encoder_sha256: str | None
    checkpoint_sha256: str
    held_out: str
    settings: tuple[str, ...] = ()
    steps: tuple[Trained, ...] = ()


@dataclass(frozen=True, slots=True)
class Score:
    """Official scores of a set at one setting, with 95 % bootstrap intervals over passages."""

    data: str
    rows: int
    setting: str
    threshold: float | None
    exact: Estimate
    f1: Estimate


@dataclass(frozen=True, slots=True)
class Size:
    """The graph's file, and how far its fp32 form was from torch's logits at most."""

    graph_bytes: int
    fp32_difference: float


@dataclass(frozen=True, slots=True)
class Speed:
    """Medians on one thread, one window a run; None where windows are shorter than so many."""

    cpu: str
    window_170_tokens_ms: float
    window_384_tokens_ms: float | None


@dataclass(frozen=True, slots=True)
class Card:
    """Everything that ``bundle.json`` carries for people."""

    summary: str
    scores: tuple[Score, ...]
    quantization: Gated
    calibration: Honesty
    honesty: dict[str, Honesty]
    graph: Size
    speed: Speed
    origin: Origin
    data: tuple[Data, ...]
    limits: tuple[str, ...]


def read_texts(path: Path) -> Texts:
    """Read a card's texts.

    Raises:
        InputError: the file is missing or says something else.
    """
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Texts)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): give a card's TOML") from error
    except msgspec.DecodeError as error:
        raise InputError(
            f"{path} is not a card's texts ({error}): it needs name, language,"
            " licence, summary, limits and [licences]"
        ) from error


def to_plain(told: Card | Honesty) -> dict[str, Any]:
    """Return a card, or a part, as JSON's own types, its numbers rounded to what they tell."""
    plain: dict[str, Any] = _round(msgspec.to_builtins(told))
    return plain


def count_rows(rows: Sequence[Labelled]) -> str:
    """Say how many rows there are, and how many of them have no answer."""
    return f"{len(rows)} rows ({sum(1 for row in rows if not row.answers)} unanswerable)"


def describe_data(paths: Mapping[Path, str], texts: Texts) -> tuple[Data, ...]:
    """Prove the files that were used; ``paths`` say what for.

    Raises:
        InputError: the texts name no licence for one of them.
    """
    return tuple(_describe(path, used_for, texts) for path, used_for in paths.items())


def name_of(path: Path) -> str:
    """Return a data file's name without its suffixes."""
    return path.name.partition(".")[0]


def read_revision(folder: Path) -> str:
    """Return the git revision of the code, with a mark if it was changed since."""
    git = shutil.which("git")
    if git is None:
        return "unknown (no git here)"
    revision = _git([git, "rev-parse", "HEAD"], folder)
    if not revision:
        return "unknown (not in a git checkout)"
    changed = _git([git, "status", "--porcelain", "--untracked-files=no"], folder)
    return f"{revision} (with changes)" if changed else revision


def _describe(path: Path, used_for: str, texts: Texts) -> Data:
    name = name_of(path)
    if name not in texts.licences:
        raise InputError(f"the card's texts give no licence for {name}: add it under [licences]")
    return Data(path.name, used_for, prove_file(path).sha256, texts.licences[name])


def _git(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603
    return done.stdout.strip() if done.returncode == 0 else ""


def _round(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _round(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_round(one) for one in value]
    return value
