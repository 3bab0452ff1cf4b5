"""docker-compose.yml and deploy/Dockerfile as tests read them: values filled in, stages apart."""

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

HOME = Path(__file__).resolve().parents[2]
COMPOSE = HOME / "docker-compose.yml"
DOCKERFILE = HOME / "deploy" / "Dockerfile"
VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")
#: What an image has on PATH, as it is run here.
PROGRAMS = {"spanmill": [sys.executable, "-m", "producer.cli"], "sh": ["sh"]}


@dataclass(frozen=True, slots=True)
class Service:
    """A service of the compose file."""

    name: str
    settings: Mapping[str, Any]

    def words(self, *instead: str) -> list[str]:
        """Return the line that its container runs, with other words in place of its command's."""
        entry = self.settings.get("entrypoint")
        if entry is None:
            stage = read_stages()[self.settings["build"]["target"]]
            entry = stage.words("ENTRYPOINT")
        program, *rest = entry
        return [*PROGRAMS[program], *rest, *(instead if instead else self.settings["command"])]

    def check_words(self) -> list[str]:
        """Return the line of its health check."""
        kind, program, *rest = self.settings["healthcheck"]["test"]
        assert kind == "CMD"
        return [*PROGRAMS[program], *rest]

    def environment(self, places: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of its processes, with this machine's places for those of there.

        Nothing of this process's own environment that could stand in for a setting is in it.
        """
        values = {
            name: fill_places(value, places)
            for name, value in self.settings.get("environment", {}).items()
        }
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        return kept | {"PYTHONPATH": str(HOME)} | values


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of the Dockerfile: what it stands on, and its statements in order."""

    base: str
    statements: tuple[tuple[str, str], ...]

    def all(self, kind: str) -> list[str]:
        """Return the arguments of every statement of a kind."""
        return [arguments for name, arguments in self.statements if name == kind]

    def words(self, kind: str) -> list[str]:
        """Return a program's line, which must be in the form that needs no shell."""
        (line,) = self.all(kind)
        assert line.startswith("["), f"{kind} would run in a shell, which keeps signals to itself"
        words = yaml.safe_load(line)
        assert isinstance(words, list)
        return words


def read_compose(text: str | None = None) -> dict[str, Any]:
    """Return the compose file with its anchors resolved and the defaults filled in."""
    raw = yaml.safe_load(COMPOSE.read_text() if text is None else text)
    assert isinstance(raw, dict)
    filled = _fill_defaults(raw)
    assert isinstance(filled, dict)
    return filled


def read_services() -> dict[str, Service]:
    return {name: Service(name, one) for name, one in read_compose()["services"].items()}


def read_stages() -> dict[str, Stage]:
    """Return the Dockerfile's stages by name."""
    stages: dict[str, Stage] = {}
    name = ""
    for kind, arguments in read_statements():
        if kind == "FROM":
            base, _, name = arguments.partition(" AS ")
            assert name, f"a stage without a name: {arguments}"
            stages[name] = Stage(base, ())
        elif name:
            before = stages[name]
            stages[name] = Stage(before.base, (*before.statements, (kind, arguments)))
    return stages


def read_statements() -> list[tuple[str, str]]:
    """Return the Dockerfile's statements, each on one line."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    found = [line.partition(" ") for line in joined.splitlines() if line.strip()]
    return [(kind, arguments.strip()) for kind, _, arguments in found]


def list_stages(target: str) -> list[Stage]:
    """Return what an image is made of: its stage and all those that it stands on."""
    stages = read_stages()
    found = []
    while target in stages:
        found.append(stages[target])
        target = stages[target].base
    return found


def fill_places(text: str, places: Mapping[str, str]) -> str:
    """Put this machine's places where those of a container stand."""
    for there, here in places.items():
        text = text.replace(there, here)
    return text


def _fill_defaults(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _fill_defaults(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_fill_defaults(one) for one in value]
    if not isinstance(value, str):
        return value
    filled = VARIABLE.sub(lambda found: found[2], value)
    assert "$" not in filled, f"a variable without a default: {value}"
    return filled
