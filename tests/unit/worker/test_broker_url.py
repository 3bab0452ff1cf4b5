"""The broker's URL: from the option, the environment, or files that hold secrets."""

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from worker.contracts.broker import parse_broker
from worker.contracts.broker_url import PASSWORD_FILE, URL, URL_FILE, broker_option, complete_url
from worker.contracts.errors import UsageError


def write(path: Path, text: str) -> dict[str, str]:
    """Write a password's file, and return the environment that names it."""
    path.write_text(text)
    return {PASSWORD_FILE: str(path)}


@pytest.mark.parametrize("secret", ["plain", "+s3:cr/et@#?%41 é", "ends with a space "])
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_password_from_a_file_signs_in_whatever_it_holds(
    tmp_path: Path, secret: str, end: str
) -> None:
    environment = write(tmp_path / "secret", f"{secret}{end}")
    for url, user in (
        ("redis://redis:6379/2", None),
        ("rediss://miller@[::1]:6380/0?ssl_cert_reqs=none", "miller"),
        ("unix:///run/redis.sock?db=3", None),
        ("unix://miller@/run/redis.sock", "miller"),
    ):
        complete = complete_url(url, environment)
        assert complete is not None
        broker = parse_broker(complete)
        assert (broker.user, broker.password) == (user, secret)
        assert broker.name == parse_broker(url).name


def test_a_url_that_has_its_password_keeps_it(tmp_path: Path) -> None:
    environment = write(tmp_path / "secret", "other")
    assert complete_url("redis://:mine@redis", environment) == "redis://:mine@redis"


def test_what_is_no_url_is_left_to_who_parses_it(tmp_path: Path) -> None:
    assert complete_url("redis://[::1", write(tmp_path / "secret", "x")) == "redis://[::1"


def test_the_whole_url_can_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("redis://redis:6379/0\n")
    environment = {URL_FILE: str(tmp_path / "url")}
    assert complete_url(None, environment) == "redis://redis:6379/0"
    assert complete_url("redis://other", environment) == "redis://other"
    environment |= write(tmp_path / "secret", "pass")
    assert complete_url(None, environment) == "redis://:pass@redis:6379/0"


def test_without_any_there_is_none() -> None:
    assert complete_url(None, {}) is None
    assert complete_url("redis://redis", {PASSWORD_FILE: ""}) == "redis://redis"


@pytest.mark.parametrize("variable", [URL_FILE, PASSWORD_FILE])
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read (No such file or directory): correct"),
        (b"", "is empty: write"),
        (b"\n", "is empty: write"),
        (b"\xff\xfe", "cannot be read (it is no text): correct"),
    ],
)
def test_a_file_that_holds_no_secret_is_named_in_one_sentence(
    tmp_path: Path, variable: str, content: bytes | None, told: str
) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    given = None if variable == URL_FILE else "redis://redis"
    with pytest.raises(UsageError) as raised:
        complete_url(given, {variable: str(path)})
    assert told in str(raised.value)
    assert f"the file {path} that {variable} names" in str(raised.value)


@pytest.mark.parametrize("required", [False, True])
def test_the_option_takes_its_secrets_from_the_environment(tmp_path: Path, required: bool) -> None:
    @click.command()
    @broker_option(required=required)
    def command(broker_url: str | None) -> None:
        click.echo(f"{broker_url}")

    environment = {URL: "redis://redis"} | write(tmp_path / "secret", "pass")
    run = CliRunner().invoke
    assert run(command, env=environment).output == "redis://:pass@redis\n"
    assert run(command, ["--broker", "redis://a"], env=environment).output == "redis://:pass@a\n"
    assert run(command, ["--help"], env=environment | {PASSWORD_FILE: "/none"}).exit_code == 0
    without = run(command)
    told = f"Missing option '--broker' (env var: '{URL}')" if required else "None\n"
    assert told in without.output
    assert without.exit_code == (2 if required else 0)
