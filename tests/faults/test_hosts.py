"""A fleet of several hosts: each with a network, a name and folders of its own; one is cut off."""

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.desk import ROWS, THRESHOLD, Desk, Ran, Row, Started, make_rows, wait_for
from tests.fleet import PERILOUS, FleetDesk
from tests.hosts import OWN, Host, Network
from tests.redis_server import RedisServer
from tests.s3_server import CREDENTIALS, PATIENCE_SECONDS

PASSWORD = "grist"
JOB = "several-hosts"
BUCKET = "http://{}:9000/mill"
#: Lies in the second of twelve batches. Each host has a gate of its own: the path is the same.
HELD_ROW, HELD_BATCH = 6, 1
GATE = OWN / "gate"
SHARED = OWN / "jobs-of-the-fleet"
TAKEN_OVER_SECONDS = 20.0
MAKE_BUCKET = """
import sys, time, urllib.request
until = time.monotonic() + float(sys.argv[2])
while True:
    try:
        urllib.request.urlopen(urllib.request.Request(sys.argv[1], method="PUT"), timeout=60)
        break
    except OSError:
        if time.monotonic() > until:
            raise
        time.sleep(0.1)
"""


@dataclass(frozen=True, slots=True)
class Mill:
    """A worker and its host."""

    host: Host
    supervisor: int
    log: Path

    def is_held(self) -> bool:
        return self.host.see(Path(f"{GATE}.reached")).exists()

    def open(self) -> None:
        self.host.see(GATE).touch()

    def outcomes(self) -> list[tuple[str, int]]:
        """Return what came of each delivery, with its batch."""
        events = [json.loads(line) for line in self.log.read_text().splitlines()]
        batches = [one for one in events if one["event"] == "batch"]
        assert {one["host"] for one in events} == {self.host.name}
        return [(one["outcome"], one["batch"]) for one in batches]


@dataclass
class Site:
    """A broker's host, a producer's, and as many as a test adds."""

    network: Network
    fleet: FleetDesk
    producer: Host
    url: str
    #: What no worker must see: bundles, and all else that tests write, the bundles' folder first.
    hidden: tuple[Path, Path]
    #: The jobs' folder as the producer calls it, and as workers do.
    roots: tuple[str, str] = ("", "")
    mills: list[Mill] = field(default_factory=list)

    def add_worker(self, name: str) -> Mill:
        host = self.network.add(name)
        if self.roots[1] == str(SHARED):
            host.share(self.fleet.desk.jobs, SHARED)
        for folder in self.hidden:
            host.hide(folder)
        where = ["--broker", self.url, "--jobs-root", self.roots[1], "--log-format", "json"]
        log = self.fleet.desk.folder / f"worker-{len(self.mills)}.log"
        pid = self.fleet.start_worker(*where, program=PERILOUS, before=host.line())
        self.mills.append(Mill(host, pid, log))
        return self.mills[-1]

    def start(self, *more: object, host: Host | None = None) -> Started:
        """Submit the usual job from the producer's host, or from another."""
        words = ["submit", "in.parquet", "--out", "out.parquet", "--job-id", JOB]
        usual = ["--bundle", self.fleet.desk.bundle, "--null-threshold", THRESHOLD]
        where = ["--batch-rows", 4, "--broker", self.url, "--jobs-root", self.roots[0]]
        before = (self.producer if host is None else host).line_here()
        return self.fleet.desk.start(*words, *usual, *where, *more, before=before)

    def run(self, command: str, *more: object) -> Ran:
        """Run a command about the job on the producer's host."""
        where = ["--jobs-root", self.roots[0], *more]
        before = self.producer.line_here()
        return self.fleet.desk.run(command, JOB, *where, before=before)

    def wait_until_held(self) -> Mill:
        """Wait until the held batch is all that is left, and return whose it is."""

        def is_last() -> bool:
            counts = self.fleet.ledger.count(JOB)
            return counts is not None and (counts.in_flight, counts.busy) == (1, 1)

        wait_for(is_last, "only the held batch is left")
        (held,) = wait_for(lambda: [one for one in self.mills if one.is_held()], "it is held")
        assert isinstance(held, Mill)
        return held

    def holder(self) -> str:
        """Return the worker that has the held batch's lease, or nothing."""
        raw = self.fleet.server.client.hget("spanmill:holders", f"{JOB}:{HELD_BATCH}")
        return "" if raw is None else raw.decode().partition("/")[0].rsplit("-", 1)[0]


@pytest.fixture
def site(
    network: Network, desk: Desk, redis_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    host, producer = network.add("broker"), network.add("producer")
    listening = ["--bind", host.address, "--port", "6379", "--requirepass", PASSWORD]
    server = RedisServer(redis_folder, *listening, before=host.line_here())
    server.url = f"unix://:{PASSWORD}@{server.socket}"  # the test's own way in
    server.start()
    fleet = FleetDesk(desk, server)
    url = f"redis://:{PASSWORD}@{host.address}/0"
    desk.jobs.mkdir()
    shared = (str(desk.jobs), str(SHARED))
    hidden = (desk.bundle.parent, tmp_path_factory.getbasetemp())
    yield Site(network, fleet, producer, url, hidden, shared)
    fleet.close()
    server.stop()


@pytest.fixture
def store(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Give a store on a host of its own, in place of the shared folder."""
    host = site.network.add("store")
    server = site.fleet.desk.start(
        "-H", host.address, "-p", 9000, program=("-m", "moto.server"), before=host.line_here()
    )
    bucket = BUCKET.format(host.address)
    host.run(sys.executable, "-c", MAKE_BUCKET, bucket, PATIENCE_SECONDS)
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket.removesuffix("/mill"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(OWN / "cache"))
    site.roots = ("s3://mill/jobs", "s3://mill/jobs")
    yield site.roots[0]
    server.kill()


def write_input(desk: Desk) -> list[Row]:
    """Write an input with a row that holds its worker, and return its answers on one machine."""
    rows = make_rows(ROWS)
    rows[HELD_ROW]["context"] += f" <<gate@score:{GATE}>>"
    desk.write(rows)
    ran = desk.answer("--out", "quiet.parquet", "--jobs-root", "quiet-jobs")
    assert ran.status == 0, ran.err
    return desk.answers("quiet.parquet")


def answer_on_two_hosts(site: Site) -> None:
    """Answer the job on two hosts, and check who answered what, and that it has one producer."""
    quiet = write_input(site.fleet.desk)
    mills = [site.add_worker("left"), site.add_worker("right")]
    submitted = site.start()
    site.wait_until_held()  # so the other one has answered something
    rival = site.start(host=mills[0].host).finish()
    assert rival.status == 1
    assert f"the job {JOB} is being run by " in rival.complaint()
    for mill in mills:
        mill.open()
    ran = submitted.finish()
    assert ran.status == 0, ran.err
    assert site.fleet.desk.answers() == quiet
    told = [mill.outcomes() for mill in mills]
    assert all(told), "both took part"
    assert sorted(told[0] + told[1]) == [("answered", batch) for batch in range(ROWS // 4)]


def test_hosts_that_share_a_folder_answer_a_job_together(site: Site) -> None:
    answer_on_two_hosts(site)
    for mill in site.mills:
        assert not mill.host.see(site.fleet.desk.bundle).exists()
        assert not mill.host.see(site.fleet.desk.folder).exists()
        assert mill.host.see(SHARED / JOB).is_dir()


def test_hosts_that_share_a_store_alone_answer_a_job_together(site: Site, store: str) -> None:
    answer_on_two_hosts(site)
    assert not list(site.fleet.desk.jobs.iterdir())
    for mill in site.mills:
        assert mill.host.see(OWN / "cache" / "spanmill").is_dir()


def test_a_host_that_is_cut_off_costs_nothing_and_does_no_harm_when_it_is_back(
    site: Site, store: str
) -> None:
    quiet = write_input(site.fleet.desk)
    site.add_worker("left")
    site.add_worker("right")
    submitted = site.start()
    lost = site.wait_until_held()
    (other,) = [one for one in site.mills if one is not lost]
    lost.host.cut()
    cut_at = time.monotonic()
    wait_for(lambda: site.holder() == other.host.name, "the other host has the lease")
    assert time.monotonic() - cut_at < TAKEN_OVER_SECONDS
    other.open()
    ran = submitted.finish()
    assert ran.status == 0, ran.err
    assert site.fleet.desk.answers() == quiet

    lost.host.mend()
    lost.open()
    wait_for(lambda: ("conflict", HELD_BATCH) in lost.outcomes(), "its answers come too late")
    assert site.run("collect", "--out", "late.parquet").status == 0
    assert site.fleet.desk.answers("late.parquet") == quiet
    site.fleet.kill(other.supervisor)
    again = site.start("--overwrite").finish()  # by the one that was cut off
    assert again.status == 0, again.err
    assert site.fleet.desk.answers() == quiet
