"""The images, built for real and run together: `make test-images`, outside the plain suite.

Needs root, buildah, debootstrap and a package index; it downloads and unpacks some hundred
megabytes, and more for training.
"""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pyarrow.parquet as pq
import pytest

from tests.deploy import builder
from tests.deploy.composed import HOME, fill_places, read_services
from tests.deploy.stack import Stack
from tests.desk import Desk, wait_for

SERVICES = read_services()
ROWS = 24
UID = 10001
SEVERAL_SECONDS = 240.0
PROBE = """
import importlib.util, json, os, sys
names = ("torch", "transformers", "onnxruntime", "celery")
print(json.dumps({
    "uid": os.getuid(), "gid": os.getgid(),
    "found": [name for name in names if importlib.util.find_spec(name)],
    "writable": [at for at in ("/", "/opt/spanmill", "/jobs", "/data") if os.access(at, os.W_OK)],
}))
"""


@pytest.fixture(scope="module", autouse=True)
def base() -> Iterator[None]:
    missing = [name for name in ("buildah", "debootstrap") if shutil.which(name) is None]
    assert not missing, f"install {' and '.join(missing)} first"
    assert os.geteuid() == 0, "building in a chroot needs root"
    builder.PLACE.mkdir(parents=True, exist_ok=True)
    builder.make_base()
    yield
    builder.run(builder.buildah("rm", "--all"))  # the images stay, for the next time


@pytest.fixture
def images_desk(tmp_path: Path, redis_folder: Path) -> Iterator[Stack]:
    """Give a broker as the compose file has it, some of the examples, and folders for volumes."""
    desk = Desk(tmp_path, HOME / "worker" / "bundles" / "default")
    table = pq.read_table(HOME / "examples" / "questions.parquet").slice(0, ROWS)
    pq.write_table(table, tmp_path / "in.parquet")
    stack = Stack(desk, redis_folder)
    for folder in (tmp_path, desk.jobs):
        os.chown(folder, UID, UID)
    stack.start("redis")
    wait_for(lambda: stack.check("redis"), "the broker lets the fleet in")
    yield stack
    desk.clear()
    stack.close()


def run_in(container: str, words: list[object], stack: Stack) -> list[str]:
    """Return the line that runs a program with the fleet's environment and volumes."""
    here = {there: stack.places[there] for there in ("redis://redis:6379", "9108")}
    environment = {
        name: fill_places(value, here)
        for name, value in SERVICES["worker"].settings["environment"].items()
    }
    mounts = [
        f"{stack.desk.jobs}:/jobs",
        f"{stack.desk.folder}:/data",
        f"{stack.secret}:/run/secrets/broker_password:ro",
    ]
    return builder.inside(container, *words, environment=environment, mounts=mounts)


@pytest.mark.parametrize("target", ["worker", "producer"])
def test_an_image_holds_its_program_and_no_torch(target: str) -> None:
    image = builder.build(target)
    config = builder.read_config(image)
    assert config["Entrypoint"] == ["spanmill"]
    assert config["User"] == f"{UID}:{UID}"
    container = builder.start(image)
    told = builder.run(builder.inside(container, "python", "-c", PROBE, environment={}, mounts=[]))
    assert json.loads(told) == {
        "uid": UID,
        "gid": UID,
        "found": ["onnxruntime", "celery"],
        "writable": ["/jobs", "/data"],
    }
    check = builder.inside(container, "spanmill", "bundle", "check", environment={}, mounts=[])
    print(builder.run(check))
    print(f"{target}: {builder.count_bytes(image) / 2**20:.0f} MiB")


def test_the_images_answer_a_job_together(images_desk: Stack) -> None:
    stack, desk = images_desk, images_desk.desk
    worker, producer = (builder.start(builder.build(name)) for name in ("worker", "producer"))
    log = desk.folder / "worker.log"
    with log.open("wb") as told:
        process = subprocess.Popen(
            run_in(worker, ["spanmill", *SERVICES["worker"].settings["command"]], stack),
            stdin=subprocess.DEVNULL,
            stdout=told,
            stderr=told,
        )
    try:
        wait_for(lambda: " ready." in log.read_text(), "the worker has processes")
        check = run_in(worker, SERVICES["worker"].settings["healthcheck"]["test"][1:], stack)
        told_well = wait_for(lambda: _try(check), "the worker is well")
        assert told_well.endswith(": well\n")
        submit = ["submit", "/data/in.parquet", "--out", "/data/out.parquet", "--batch-rows", 4]
        print(builder.run(run_in(producer, ["spanmill", *submit], stack), SEVERAL_SECONDS))
        ran = desk.run("answer", "in.parquet", "--out", "alone.parquet", "--batch-rows", 4)
        assert ran.status == 0, ran.err
        assert desk.answers("out.parquet") == desk.answers("alone.parquet")
        assert (desk.folder / "out.parquet").stat().st_uid == UID
        for inner in _programs(process.pid):
            inner.send_signal(signal.SIGTERM)
        process.wait(SEVERAL_SECONDS)
        assert not stack.client.zcard("spanmill:heard")  # it took its leave
    finally:
        process.kill()
        process.wait()
        print(log.read_text()[-3000:])


def _try(words: list[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""


def _programs(pid: int) -> list[Any]:
    """Return the supervisor of a worker that runs in a container, as this machine sees it."""
    line = ["python", "/opt/spanmill/bin/spanmill", "worker"]  # not what buildah wraps it in
    found = psutil.Process(pid).children(recursive=True)
    return [one for one in found if [Path(one.cmdline()[0]).name[:6], *one.cmdline()[1:]] == line]


def test_the_training_image_has_torch_and_its_commands() -> None:
    image = builder.build("training")
    container = builder.start(image)
    told = builder.run(builder.inside(container, "python", "-c", PROBE, environment={}, mounts=[]))
    assert "torch" in json.loads(told)["found"]
    line = builder.inside(
        container, *builder.read_config(image)["Entrypoint"], "--help", environment={}, mounts=[]
    )
    assert "quantize" in builder.run(line)
    print(f"training: {builder.count_bytes(image) / 2**20:.0f} MiB")
