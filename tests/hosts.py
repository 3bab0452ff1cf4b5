"""Several hosts on this machine: network namespaces around a switch, each with a name of its own.

Who is not root gets them inside a user namespace. They are gone when their processes are.
"""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

#: A folder that every system has, and that is empty in each host.
OWN = Path("/mnt")
_NET = "10.77.0"
_PATIENCE_SECONDS = 60


class Host:
    """A namespace of network, name and mounts, kept by a process that does nothing."""

    def __init__(self, network: "Network", name: str, number: int) -> None:
        """Begin it; it is not connected yet."""
        self.name = name
        self.address = f"{_NET}.{number}"
        self._network = network
        self._keeper = network.keep(f"hostname {name} && mount -t tmpfs none {OWN}")
        self._port = f"port{number}"

    def line(self, *words: object) -> list[str]:
        """Return the line that runs a command there, in the same process. It begins in ``/``."""
        return [*self._enter("--net", "--uts", "--mount"), *map(str, words)]

    def line_here(self, *words: object) -> list[str]:
        """Return the line that runs a command there, with this machine's folders and its own."""
        return [*self._enter("--net", "--uts"), *map(str, words)]

    def run(self, *words: object) -> str:
        """Run a command there to its end, and return what it printed."""
        return _run(self.line(*words))

    def see(self, path: Path) -> Path:
        """Return where a path of the host is found from outside."""
        return Path(f"/proc/{self._keeper.pid}/root{path}")

    def share(self, folder: Path, where: Path) -> None:
        """Let a folder of this machine be seen there under another name, as a mount of it."""
        self.run("mkdir", "-p", where)
        self.run("mount", "--bind", folder, where)

    def hide(self, folder: Path) -> None:
        """Let a folder of this machine be empty there."""
        self.run("mount", "-t", "tmpfs", "none", folder)

    def connect(self) -> None:
        """Lay a cable from the host to the switch."""
        pid = str(self._keeper.pid)
        self._network.run("ip", "link", "add", self._port, "type", "veth", "peer", "name", "eth0",
                          "netns", pid)  # fmt: skip
        self._network.run("ip", "link", "set", self._port, "master", "switch", "up")
        self.run("ip", "address", "add", f"{self.address}/24", "dev", "eth0")
        for link in ("eth0", "lo"):
            self.run("ip", "link", "set", link, "up")

    def cut(self) -> None:
        """Pull the cable at the switch: no side is told, and nothing that is sent arrives."""
        self._network.run("ip", "link", "set", self._port, "down")

    def mend(self) -> None:
        """Plug the cable in again."""
        self._network.run("ip", "link", "set", self._port, "up")

    def _enter(self, *kinds: str) -> list[str]:
        return [*self._network.enter, "--target", str(self._keeper.pid), *kinds]


class Network:
    """A switch, and the hosts around it."""

    def __init__(self, unshare: Sequence[str], ends: ExitStack) -> None:
        """Begin with a switch alone. ``unshare`` makes namespaces here."""
        self._unshare = unshare
        self._ends = ends
        self._hosts = 0
        self.enter: Sequence[str] = ["nsenter"]
        self._keeper = self.keep("true")
        if "--user" in unshare:  # every other namespace belongs to the switch's users
            self.enter = ["nsenter", "--preserve-credentials", "--user"]
            self._unshare = [
                *self.enter, f"--target={self._keeper.pid}", "unshare", *_own(unshare)
            ]  # fmt: skip
        self.run("ip", "link", "add", "switch", "type", "bridge")
        self.run("ip", "link", "set", "switch", "up")

    def add(self, name: str) -> Host:
        """Return a new host, which is connected."""
        self._hosts += 1
        host = Host(self, name, self._hosts)
        host.connect()
        return host

    def keep(self, first: str) -> "subprocess.Popen[bytes]":
        """Return a process in new namespaces that lives as long as the test."""
        keeper = subprocess.Popen(
            [*self._unshare, "sh", "-c", f"{first} && echo begun && exec cat"],
            stdin=subprocess.PIPE,  # it ends with the test, however that ends
            stdout=subprocess.PIPE,
        )
        self._ends.callback(_end, keeper)
        assert keeper.stdout is not None
        assert keeper.stdout.readline() == b"begun\n", f"a host does not begin: {first}"
        return keeper

    def run(self, *words: str) -> str:
        """Run a command at the switch."""
        return _run([*self.enter, "--target", str(self._keeper.pid), "--net", *words])


@pytest.fixture
def network() -> Iterator[Network]:
    with _open_network() as made:
        yield made


@contextmanager
def _open_network() -> Iterator[Network]:
    for user in ([], ["--user", "--map-root-user"]):
        unshare = ["unshare", *user, "--net", "--uts", "--mount"]
        if _try([*unshare, "ip", "link", "show"]):
            with ExitStack() as ends:
                yield Network(unshare, ends)
            return
    pytest.fail(
        "several hosts need network namespaces, which this user cannot make here: run the tests as"
        " root, with iproute2 and util-linux installed"
    )


def _own(unshare: Sequence[str]) -> list[str]:
    return [word for word in unshare if word not in ("unshare", "--user", "--map-root-user")]


def _try(words: Sequence[str]) -> bool:
    try:
        return subprocess.run(words, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def _run(words: Sequence[str]) -> str:
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=_PATIENCE_SECONDS, check=False
    )
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


def _end(keeper: "subprocess.Popen[bytes]") -> None:
    keeper.kill()
    keeper.communicate()
