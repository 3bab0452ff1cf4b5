"""Each service's command, environment and health check, run as they stand in the compose file."""

import re
import signal
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from redis.exceptions import AuthenticationError, NoPermissionError

from tests.deploy.stack import PASSWORD, Stack
from tests.desk import PATIENCE_SECONDS, THRESHOLD, Row, wait_for
from tests.scraping import scrape
from training.run_state import Order, RunFolder, RunState, Turn

#: The name of its library, which a client may tell and older brokers do not take.
TOLD = {"client", "client|setinfo"}


def test_the_broker_runs_with_its_settings_and_lets_nobody_in_without_the_password(
    stack: Stack,
) -> None:
    info = stack.client.info()
    assert info["maxmemory"] == 256 * 2**20
    assert info["maxmemory_policy"] == "noeviction"
    assert info["aof_enabled"] == 1
    with pytest.raises(AuthenticationError):
        type(stack.client)(port=stack.port).ping()
    for forbidden in (["FLUSHALL"], ["KEYS", "*"], ["CONFIG", "GET", "*"], ["SET", "other", "1"]):
        with pytest.raises(NoPermissionError):
            stack.client.execute_command(*forbidden)
    assert stack.list_refused() >= {"flushall", "keys", "other"}
    stack.secret.write_text("another")
    assert not stack.check("redis")


def test_the_brokers_password_stands_in_no_command_line_and_no_environment(stack: Stack) -> None:
    for process in psutil.process_iter():
        try:
            seen = [*process.cmdline(), *process.environ().values()]
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        assert not [text for text in seen if PASSWORD in text]
    assert PASSWORD not in stack.log("redis").read_text()


def test_what_the_broker_holds_survives_its_restart(stack: Stack) -> None:
    stack.client.set("spanmill:kept", "1")
    (broker,) = [one for one in psutil.process_iter() if _listens(one, stack.port)]
    broker.terminate()
    broker.wait(PATIENCE_SECONDS)
    stack.start("redis")
    wait_for(lambda: stack.check("redis"), "the broker is back")
    assert stack.client.get("spanmill:kept") == "1"


def _listens(process: "psutil.Process", port: int) -> bool:
    try:
        return "redis-server" in process.name() and f":{port}" in " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def test_the_services_together_answer_a_job(stack: Stack, undisturbed: list[Row]) -> None:
    assert not stack.check("worker")
    stack.list_refused()
    worker = stack.start("worker")
    wait_for(lambda: " ready." in stack.log("worker").read_text(), "the worker has processes")
    wait_for(lambda: stack.check("worker"), "the worker is well")
    (port,) = re.findall(r"metrics-served .*port=(\d+)", stack.log("worker").read_text())
    assert scrape(int(port))("broker_up") == 1
    ran = stack.run(
        "producer", "submit", "in.parquet", "--out", "out.parquet", "--bundle", stack.desk.bundle,
        "--null-threshold", THRESHOLD, "--batch-rows", 4,
    )  # fmt: skip
    assert ran.status == 0, ran.err
    assert stack.desk.answers() == undisturbed
    job = stack.desk.job()
    assert stack.run("producer", "status", job).out.startswith(f"{job}: completed, 48 of 48 rows")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(PATIENCE_SECONDS) == 0
    assert stack.list_refused() <= TOLD
    assert not stack.check("worker")


def test_a_training_worker_takes_steps_with_the_same_password(stack: Stack) -> None:
    assert not stack.check("training-worker")
    worker = stack.start("training-worker")
    wait_for(lambda: " ready." in stack.log("training-worker").read_text(), "it has a process")
    wait_for(lambda: stack.check("training-worker"), "the worker is well")
    run = RunFolder(stack.desk.folder / "runs" / "lost")
    run.folder.mkdir()
    order = Order(
        text="", settings=(), steps=("first",), data="/data", encoder=None, processes=None, cwd="/"
    )
    run.put_order(order)
    run.put_turn(Turn.SUBMITTED)
    wait_for(lambda: run.read().state is RunState.FAILED, "its step is taken", 200, 0.1)
    assert "there is no recipe" in str(run.read().reason)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(PATIENCE_SECONDS) == 0
    assert stack.list_refused() <= TOLD
    assert not stack.check("training-worker")


@pytest.mark.parametrize("name", ["producer", "training"])
def test_a_program_for_one_job_says_what_it_can_do(stack: Stack, name: str) -> None:
    ran = stack.run(name)
    assert ran.status == 0, ran.err
    assert "Usage: spanmill" in ran.out


@pytest.mark.parametrize("content", [None, ""])
def test_a_secret_that_was_not_written_is_asked_for(stack: Stack, content: str | None) -> None:
    stack.secret.unlink()
    if content is not None:
        stack.secret.write_text(content)
    told = {"redis": stack.run("redis", "serve"), "worker": stack.run("worker", "worker")}
    for ran in told.values():
        assert ran.status == 2
        assert str(stack.secret) in ran.err
    assert len(told["redis"].err.splitlines()) == 1
    assert told["worker"].complaint()


def test_a_worker_with_another_password_says_so(stack: Stack, tmp_path: Path) -> None:
    stack.secret.write_text("another")
    ran = stack.run("worker", "worker")
    assert ran.status == 2
    assert "refuses this user or password" in ran.complaint()
