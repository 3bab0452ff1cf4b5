"""deploy/Dockerfile builds what it says: pinned, proved by hash, small, and nobody's root."""

import re
import subprocess
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.deploy.composed import HOME, list_stages, read_stages, read_statements

PROGRAMS = ("worker", "producer", "training")
HEAVY = {"torch", "transformers", "triton", "onnxscript", "accelerate", "scikit-learn"}
PROJECT = tomllib.loads((HOME / "pyproject.toml").read_text())


def list_installs(target: str) -> list[str]:
    """Return every command of pip that an image is made with."""
    return [
        command
        for stage in list_stages(target)
        for line in stage.all("RUN")
        for command in line.split(" && ")
        if re.search(r"\bpip (install|wheel)\b", command)
    ]


def read_lock(name: str) -> dict[str, str]:
    """Return the versions that a lock file names; each must have its hashes."""
    text = (HOME / name).read_text().replace("\\\n", " ")
    found: dict[str, str] = {}
    for line in text.splitlines():
        assert "--hash=sha256:" in line, line
        pinned = re.match(r"([\w.-]+)==(\S+)", line)
        assert pinned is not None, line
        found[pinned[1]] = pinned[2]
    return found


def test_every_stage_stands_on_the_base_or_on_another_stage() -> None:
    stages = read_stages()
    assert {stage.base for stage in stages.values()} <= {"${BASE}", *stages}


def test_the_base_is_slim_and_pinned_by_a_tag() -> None:
    kind, base = read_statements()[0]
    assert kind == "ARG"
    assert re.fullmatch(r"BASE=python:3\.1[12]-slim-[a-z]+", base)


@pytest.mark.parametrize("target", PROGRAMS)
def test_a_program_is_nobodys_root(target: str) -> None:
    stage = read_stages()[target]
    assert stage.all("USER") == ["${UID}:${UID}"]
    (user,) = [int(one.removeprefix("UID=")) for one in stage.all("ARG") if "UID=" in one]
    assert user >= 1000
    kinds = [kind for kind, _ in stage.statements]
    assert not {"RUN", "COPY", "ADD"} & set(kinds[kinds.index("USER") :])


@pytest.mark.parametrize(("user", "status"), [("0", 1), ("10001", 0)])
def test_root_as_the_programs_user_is_refused_in_a_sentence(user: str, status: int) -> None:
    (line,) = [one for one in read_stages()["program"].all("RUN") if "useradd" in one]
    guard = line.partition(" && ")[0]
    done = subprocess.run(
        ["/bin/sh", "-c", guard], env={"UID": user}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (status, status)


@pytest.mark.parametrize("target", PROGRAMS)
def test_a_program_starts_the_command_that_the_project_has(target: str) -> None:
    stage = read_stages()[target]
    assert stage.words("ENTRYPOINT")[0] in PROJECT["project"]["scripts"]
    assert stage.words("CMD")


@pytest.mark.parametrize("target", ["worker", "producer"])
def test_what_answers_is_installed_from_the_lock_alone(target: str) -> None:
    installs = list_installs(target)
    assert len(installs) == 2
    for command in installs:
        locked = "--require-hashes" in command and command.endswith("/requirements.lock")
        own = "--no-deps --no-index" in command and command.endswith("/wheel/*.whl")
        assert locked or own, command


def test_what_builds_the_distribution_is_proved_by_hash_too() -> None:
    build, make = list_installs("wheel")
    assert "--require-hashes" in build
    assert build.endswith("build.lock")
    assert "--no-build-isolation" in make
    locked = read_lock("deploy/build.lock")
    for text in PROJECT["build-system"]["requires"]:
        needed = Requirement(text)
        assert Version(locked[needed.name]) in needed.specifier


def test_what_answers_has_no_torch() -> None:
    assert not HEAVY & set(read_lock("requirements.lock"))


def test_training_is_held_by_its_lock() -> None:
    (command,) = set(list_installs("training")) - set(list_installs("worker"))
    assert "-c /opt/spanmill/requirements-dev.lock" in command


def test_no_layer_keeps_what_only_the_build_needed() -> None:
    for stage in read_stages().values():
        assert not stage.all("ADD")
        for line in stage.all("RUN"):
            assert "apt-get" not in line
    for target in PROGRAMS:
        environment = " ".join(text for stage in list_stages(target) for text in stage.all("ENV"))
        assert "PIP_NO_CACHE_DIR=1" in environment


def test_no_secret_passes_through_the_build() -> None:
    for kind, arguments in read_statements():
        if kind in ("ARG", "ENV"):
            assert not re.search("PASSWORD|SECRET|TOKEN", arguments)


def test_the_context_holds_what_is_copied_and_nothing_else() -> None:
    lines = (HOME / ".dockerignore").read_text().split("\n")
    allowed = {line[1:] for line in lines if line.startswith("!")}
    copied = {
        source
        for stage in read_stages().values()
        for line in stage.all("COPY")
        for source in line.split()[:-1]
    }
    assert lines[1] == "*"  # after the comment: what is not named stays out
    assert allowed == copied
    assert all((HOME / source).exists() for source in copied)
