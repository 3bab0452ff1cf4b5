"""Builds images and runs them without a container engine: buildah, each step in a chroot.

The base is made by debootstrap. Base and layers stay in build/images for the next time. Where
packages come from is taken from this machine's apt and pip, while it runs.
"""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.deploy.composed import DOCKERFILE, HOME

PLACE = HOME / "build" / "images"
BASE = "localhost/spanmill-base"
SUITE = "bookworm"
PACKAGES = "python3,python3-venv,ca-certificates"
#: What of pip's settings says where packages are.
WHERE = ("index-url", "extra-index-url", "find-links", "cert", "trusted-host", "proxy")
BUILD_SECONDS = 3000


def buildah(*words: object) -> list[str]:
    """Return a line of buildah's, with storage of its own."""
    return ["buildah", "--root", f"{PLACE}/storage", "--runroot", f"{PLACE}/run", *map(str, words)]


def run(words: list[str], seconds: float = BUILD_SECONDS) -> str:
    """Run a command, and return what it printed."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=seconds, check=False)
    assert done.returncode == 0, f"{words}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def make_base() -> None:
    """Make the base image, unless it is there."""
    if subprocess.run(buildah("inspect", BASE), capture_output=True, check=False).returncode == 0:
        return
    root = PLACE / "base"
    run(["debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(root), _mirror()])
    container = run(buildah("from", "scratch")).strip()
    run(buildah("copy", container, root, "/"))
    run(buildah("commit", "--rm", container, BASE))
    shutil.rmtree(root)


def build(target: str) -> str:
    """Build a target of the Dockerfile, and return the image's name."""
    name = f"localhost/spanmill-{target}"
    mounts = [word for mount in mount_pip() for word in ("--volume", mount)]
    run(
        buildah(
            "build", "--isolation", "chroot", "--network", "host", "--layers", *mounts,
            "--file", DOCKERFILE, "--target", target, "--build-arg", f"BASE={BASE}",
            "--tag", name, HOME,
        )
    )  # fmt: skip
    return name


def start(image: str) -> str:
    """Return a container that commands can be run in."""
    return run(buildah("from", image)).strip()


def inside(
    container: str, *words: object, environment: dict[str, str], mounts: list[str]
) -> list[str]:
    """Return the line that runs a command in a container, as the user that its image names."""
    settings = [word for pair in environment.items() for word in ("--env", "=".join(pair))]
    volumes = [word for mount in mounts for word in ("--volume", mount)]
    where = ["--isolation", "chroot", "--network", "host"]
    return buildah("run", *where, *settings, *volumes, container, "--", *words)


def read_config(image: str) -> dict[str, Any]:
    """Return what an image says of how it is to be run."""
    config = json.loads(run(buildah("inspect", image)))["OCIv1"]["config"]
    assert isinstance(config, dict)
    return config


def count_bytes(image: str) -> int:
    """Return the size of an image's files."""
    container = start(image)
    try:
        root = run(buildah("mount", container)).strip()
        return int(run(["du", "-sxb", root]).split()[0])
    finally:
        run(buildah("rm", container))


def mount_pip() -> list[str]:
    """Write pip's settings down as a build takes them, and return what is to be mounted for it."""
    told = run([sys.executable, "-m", "pip", "config", "list"])
    pairs = [line.split("=", 1) for line in told.splitlines() if "=" in line]
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        key = name.rpartition(".")[2]
        if key in WHERE:
            found.setdefault(key, []).extend(ast.literal_eval(value).split())
    lines = [f"{key} = {' '.join(dict.fromkeys(values))}" for key, values in found.items()]
    settings = PLACE / "pip.conf"
    settings.write_text("\n".join(["[global]", "timeout = 180", *lines, ""]))
    local = {value.removeprefix("file://") for values in found.values() for value in values}
    paths = sorted(path for path in local if path.startswith("/") and Path(path).exists())
    # An index of files may be a folder of links into the one beside it.
    folders = {str(Path(path).parent) if path.endswith("/simple") else path for path in paths}
    return [f"{settings}:/etc/pip.conf:ro", *(f"{path}:{path}:ro" for path in sorted(folders))]


def _mirror() -> str:
    """Return where this machine's apt gets the release's packages."""
    told = run(["apt-get", "indextargets", "--format", "$(SITE) $(RELEASE)"])
    sites = [line.split()[0] for line in told.splitlines() if line.split()[1:] == [SUITE]]
    assert sites, "apt knows no place for the base's packages: run apt-get update"
    return sites[0]
