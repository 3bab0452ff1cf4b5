"""docker-compose.yml is one that Compose takes, and keeps what a fleet needs kept."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from producer.commands.submit import submit
from tests.deploy.composed import COMPOSE, HOME, VARIABLE, read_compose, read_services, read_stages
from training.commands.worker import GRACE_SECONDS
from worker.contracts.queue import SOFT_SHUTDOWN_SECONDS

SERVICES = read_services()
UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}


def read_size(text: str) -> int:
    """Return bytes: Redis and Compose both write 256mb or 256m."""
    found = re.fullmatch(r"(\d+)([kmg]?)b?", str(text))
    assert found is not None, text
    return int(found[1]) * UNITS[found[2]]


def read_seconds(text: str) -> int:
    found = re.fullmatch(r"(\d+)s", text)
    assert found is not None, text
    return int(found[1])


def validate(path: Path) -> "subprocess.CompletedProcess[str]":
    """Hold a file against the JSON schema of the compose specification."""
    words = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    return subprocess.run([*words, str(path)], capture_output=True, text=True, check=False)


def test_the_compose_specification_takes_the_file() -> None:
    done = validate(COMPOSE)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("restart: unless-stopped", "restrat: unless-stopped"),
        ("condition: service_healthy", "condition: service_well"),
        ("init: true", "init: [true]"),
    ],
)
def test_the_specification_would_find_a_slip(tmp_path: Path, right: str, wrong: str) -> None:
    text = COMPOSE.read_text()
    assert right in text
    (tmp_path / "docker-compose.yml").write_text(text.replace(right, wrong))
    assert validate(tmp_path / "docker-compose.yml").returncode == 1


def test_the_services_are_a_broker_and_a_program_each() -> None:
    assert set(SERVICES) == {"redis", "worker", "producer", "training", "training-worker"}
    assert {name for name, one in SERVICES.items() if "profiles" not in one.settings} == {
        "redis",
        "worker",
    }
    for name in ("worker", "producer", "training", "training-worker"):
        build = SERVICES[name].settings["build"]
        assert build["target"] == name.removesuffix("-worker")
        assert build["target"] in read_stages()
        assert (HOME / build["context"] / build["dockerfile"]).is_file()
        declared = {arg.partition("=")[0] for arg in _list_args()}
        assert set(build["args"]) <= declared


def _list_args() -> list[str]:
    text = (HOME / "deploy" / "Dockerfile").read_text()
    return re.findall(r"^ARG (\S+)", text, re.MULTILINE)


@pytest.mark.parametrize("kind", ["networks", "volumes", "secrets"])
def test_what_services_name_is_declared_and_what_is_declared_is_used(kind: str) -> None:
    used = set()
    for service in SERVICES.values():
        for one in service.settings.get(kind, []):
            name = one.split(":")[0] if isinstance(one, str) else one["source"]
            if kind != "volumes" or not name.startswith("."):
                used.add(name)
    assert used == set(read_compose()[kind])


def test_what_is_mounted_from_the_project_is_there() -> None:
    mounted = [
        volume.split(":")[0]
        for service in SERVICES.values()
        for volume in service.settings["volumes"]
        if isinstance(volume, str) and volume.startswith(".")
    ]
    assert mounted
    for path in mounted:
        assert (HOME / path).exists()


def test_every_variable_has_a_default_that_the_example_shows() -> None:
    used = dict(VARIABLE.findall(COMPOSE.read_text()))
    shown = re.findall(r"^#(\w+)=(.*)$", (HOME / ".env.example").read_text(), re.MULTILINE)
    assert dict(shown) == used


def test_no_port_is_published_and_every_service_has_a_network() -> None:
    for service in SERVICES.values():
        assert "ports" not in service.settings
        assert service.settings["networks"] == ["fleet"]


def test_metrics_are_exposed_where_they_are_served() -> None:
    for name in ("worker", "producer"):
        settings = SERVICES[name].settings
        assert settings["expose"] == [settings["environment"]["SPANMILL_METRICS_PORT"]]


def test_secrets_are_files_that_git_does_not_keep() -> None:
    for secret in read_compose()["secrets"].values():
        path = HOME / secret["file"]
        assert path.parent == HOME / "deploy" / "secrets"
        assert path.name in (path.parent / "README.md").read_text()
        assert (path.parent / ".gitignore").read_text().split() == [
            "*",
            "!.gitignore",
            "!README.md",
        ]
    assert ".env" in (HOME / ".gitignore").read_text().split()


def test_no_service_has_a_secret_in_its_environment() -> None:
    secrets = {f"/run/secrets/{name}" for name in read_compose()["secrets"]}
    for service in SERVICES.values():
        for name, value in service.settings["environment"].items():
            if name.endswith("_FILE"):
                assert value in secrets
                assert value.rsplit("/", 1)[1] in service.settings["secrets"]
            else:
                assert not re.search("PASSWORD|SECRET|TOKEN|KEY", name)
                assert "@" not in value


def test_every_program_runs_without_what_it_does_not_need() -> None:
    for service in SERVICES.values():
        settings = service.settings
        assert settings["cap_drop"] == ["ALL"]
        assert settings["read_only"] is True
        assert settings["init"] is True
        assert "no-new-privileges:true" in settings["security_opt"]
        assert not {"privileged", "cap_add", "network_mode", "pid"} & set(settings)
    assert SERVICES["redis"].settings["user"] == "redis"


def test_what_runs_on_is_started_again_bounded_and_watched() -> None:
    for name in ("redis", "worker", "training-worker"):
        settings = SERVICES[name].settings
        assert settings["restart"] == "unless-stopped"
        assert set(settings["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
        health = settings["healthcheck"]
        assert read_seconds(health["timeout"]) < read_seconds(health["interval"])
    for name in ("producer", "training"):
        assert SERVICES[name].settings["restart"] == "no"
    for name in ("worker", "producer", "training-worker"):
        assert SERVICES[name].settings["depends_on"]["redis"]["condition"] == "service_healthy"


def test_a_worker_is_given_the_time_that_it_takes_to_stop() -> None:
    grace_seconds = read_seconds(SERVICES["worker"].settings["stop_grace_period"])
    assert grace_seconds >= SOFT_SHUTDOWN_SECONDS + 20  # its supervisor waits for 10 more, and ends

    training_seconds = read_seconds(SERVICES["training-worker"].settings["stop_grace_period"])
    assert training_seconds >= GRACE_SECONDS + 20


def test_a_training_worker_keeps_its_runs_and_only_reads_the_data() -> None:
    settings = SERVICES["training-worker"].settings
    environment = settings["environment"]
    assert f"runs:{environment['SPANMILL_RUNS_ROOT']}" in settings["volumes"]
    (data,) = [one for one in settings["volumes"] if isinstance(one, dict)]
    assert (data["target"], data["read_only"]) == (environment["SPANMILL_DATA"], True)
    fleet = SERVICES["worker"].settings["environment"]["SPANMILL_BROKER_URL"]
    assert environment["SPANMILL_TRAINING_BROKER_URL"] != fleet


def test_training_finds_the_data_and_can_have_a_torch_without_gpus() -> None:
    settings = SERVICES["training"].settings
    (data,) = [one for one in settings["volumes"] if isinstance(one, dict)]
    assert data["target"] == settings["environment"]["SPANMILL_DATA"]
    assert "PIP_EXTRA_INDEX_URL" in settings["build"]["args"]
    assert "PIP_EXTRA_INDEX_URL=" in read_stages()["training"].all("ARG")


def test_a_worker_and_a_producer_share_the_jobs() -> None:
    for name in ("worker", "producer"):
        settings = SERVICES[name].settings
        assert f"jobs:{settings['environment']['SPANMILL_JOBS_ROOT']}" in settings["volumes"]
    assert (
        SERVICES["worker"].settings["build"]["args"]
        == (SERVICES["producer"].settings["build"]["args"])
    )


def test_the_brokers_memory_fits_what_is_in_flight_and_its_own_limit() -> None:
    settings = read_redis()
    (in_flight,) = [one for one in submit.params if one.name == "in_flight_bytes"]
    assert isinstance(in_flight.default, int)
    maxmemory = read_size(settings["maxmemory"])
    assert maxmemory >= 2 * in_flight.default
    limit = SERVICES["redis"].settings["deploy"]["resources"]["limits"]["memory"]
    assert read_size(limit) >= 2 * maxmemory
    assert settings["maxmemory-policy"] == "noeviction"
    assert (settings["appendonly"], settings["appendfsync"]) == ("yes", "everysec")


def read_redis() -> dict[str, Any]:
    lines = (HOME / "deploy" / "redis" / "redis.conf").read_text().splitlines()
    return dict(line.split(" ", 1) for line in lines if line and not line.startswith("#"))
