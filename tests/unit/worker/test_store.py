"""The store: a name is free or holds a whole object, whoever races, and whatever is full."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from worker.contracts import store as store_module
from worker.contracts.errors import WorldError
from worker.contracts.store import TEMPORARY, LocalStore

RACERS = 6
ROUNDS = 25


def leftovers(root: Path) -> list[Path]:
    return list((root / TEMPORARY).glob("*"))


def test_what_is_put_is_read(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "made" / "on the way")
    assert store.put_new("a/b/c", b"raw")
    assert store.read("a/b/c") == b"raw"
    assert store.exists("a/b/c")
    assert store.names("a/b") == ["c"]
    assert leftovers(store.root) == []


@pytest.mark.parametrize(("size", "tail"), [(0, b""), (2, b"ef"), (6, b"abcdef"), (99, b"abcdef")])
def test_the_end_of_an_object_is_read_alone(tmp_path: Path, size: int, tail: bytes) -> None:
    store = LocalStore(tmp_path)
    store.put_new("k", b"abcdef")
    assert store.read_tail("k", size) == tail


def test_the_first_writer_wins(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    assert store.put_new("k", b"first")
    assert not store.put_new("k", b"second")
    assert store.read("k") == b"first"
    assert leftovers(tmp_path) == []


def test_what_is_not_there_is_none(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put_new("file", b"")
    for key in ("none", "no/such/folder", "file/below a file"):
        assert store.read(key) is None
        assert store.read_tail(key, 8) is None
        assert not store.exists(key)
        assert store.names(key) == []
    assert LocalStore(tmp_path / "none").names("") == []


def test_names_are_sorted_and_leave_temporary_files_out(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    for key in ("b", "a", "c/d"):
        store.put_new(key, b"")
    assert store.names("") == ["a", "b", "c"]


def test_a_file_that_can_be_made_again_replaces_the_old_one(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "root")
    for raw in (b"old", b"new"):
        (tmp_path / "source").write_bytes(raw)
        store.put_file("a/k", tmp_path / "source")
    assert store.read("a/k") == b"new"
    assert leftovers(store.root) == []


RACE = """
import json, sys, time
from pathlib import Path
from worker.contracts.store import LocalStore
root, racer, rounds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
store = LocalStore(root / "jobs")
print("ready", flush=True)
while not (root / "go").exists():
    pass
for number in range(rounds):
    key = f"job/shards/0000/{number}"
    won = store.put_new(key, str(racer).encode() * 200_000)
    seen = store.read(key).decode()
    print(json.dumps([number, racer, won, len(seen), sorted(set(seen))]))
"""


def test_of_many_processes_that_race_one_wins_and_nobody_sees_a_part(tmp_path: Path) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, tmp_path, str(number), str(ROUNDS)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(RACERS)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    (tmp_path / "go").touch()
    found = [
        json.loads(line)
        for racer in racers
        for line in racer.communicate(timeout=60)[0].splitlines()
    ]
    assert len(found) == RACERS * ROUNDS
    for number in range(ROUNDS):
        mine = [one for one in found if one[0] == number]
        winners = [str(racer) for _, racer, won, _, _ in mine if won]
        assert len(winners) == 1
        assert {size for _, _, _, size, _ in mine} == {200_000}
        assert all(letters == winners for *_, letters in mine)
    assert len({one[1] for one in found if one[2]}) > 1, "nobody raced"
    assert leftovers(tmp_path / "jobs") == []


def test_an_object_is_on_the_disk_before_its_name_and_new_folders_are_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    real_fsync, real_link = os.fsync, os.link

    def fsync(descriptor: int) -> None:
        order.append(f"fsync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        real_fsync(descriptor)

    def link(source: Path, target: Path) -> None:
        order.append(f"link {target.name}")
        real_link(source, target)

    monkeypatch.setattr(store_module.os, "fsync", fsync)
    monkeypatch.setattr(store_module.os, "link", link)
    LocalStore(tmp_path / "root").put_new("job/shards/k", b"raw")
    temporary = order[-3].removeprefix("fsync ")
    assert order[-3:] == [f"fsync {temporary}", "link k", "fsync shards"]
    assert len(temporary) == 32
    assert {"fsync root", "fsync job"} <= {*order[:-3]}


def test_a_file_is_on_the_disk_before_it_replaces_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[tuple[str, bytes | None]] = []
    real_fsync = os.fsync
    store = LocalStore(tmp_path / "root")
    (tmp_path / "source").write_bytes(b"old")
    store.put_file("job/k", tmp_path / "source")

    def fsync(descriptor: int) -> None:
        order.append((Path(f"/proc/self/fd/{descriptor}").readlink().name, store.read("job/k")))
        real_fsync(descriptor)

    monkeypatch.setattr(store_module.os, "fsync", fsync)
    (tmp_path / "source").write_bytes(b"new")
    store.put_file("job/k", tmp_path / "source")
    (temporary, before), after = order
    assert (len(temporary), before) == (32, b"old")
    assert after == ("job", b"new")


def test_a_disk_that_fails_is_the_worlds_fault_with_what_to_do(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put_new("folder/file", b"")
    (tmp_path / "source").write_bytes(b"")
    with pytest.raises(
        WorldError, match=r"cannot read .*folder \(Is a directory\): check the disk"
    ):
        store.read("folder")
    with pytest.raises(WorldError, match=r"cannot write .*/k \(.+\)"):
        store.put_new("folder/file/k", b"")
    with pytest.raises(WorldError, match=r"cannot write .*/k \(.+\)"):
        store.put_file("folder/file/k", tmp_path / "source")
    with pytest.raises(WorldError, match=r"cannot write .*none \(No such file"):
        store.put_file("none", tmp_path / "no source")
    with pytest.raises(WorldError, match="File name too long"):
        store.exists("n" * 300)
    assert leftovers(tmp_path) == []


FULL = """
import errno, sys
from pathlib import Path
from worker.contracts.errors import WorldError
from worker.contracts.store import LocalStore
root = Path(sys.argv[1])
store = LocalStore(root / "jobs")
assert store.put_new("job/small", b"x" * 1000)
(root / "big").write_bytes(b"y" * 3_000_000)
for put in (
    lambda: store.put_new("job/large", b"x" * 60_000_000),
    lambda: store.put_file("job/large", Path(sys.argv[2])),
):
    try:
        put()
    except WorldError as error:
        print(error)
    assert store.names("job") == ["small"], store.names("job")
    assert list((root / "jobs" / ".tmp").iterdir()) == []
(root / "big").unlink()
assert store.put_new("job/large", b"x" * 1_000_000)
print("well")
"""


def check_full(done: subprocess.CompletedProcess[str], reason: str) -> None:
    assert done.returncode == 0, done.stderr
    *complaints, last = done.stdout.splitlines()
    assert len(complaints) == 2
    assert all("job/large" in one and reason in one for one in complaints), complaints
    assert last == "well"


def may_mount() -> bool:
    probe = "unshare -m sh -c 'mount -t tmpfs none /mnt'"
    return subprocess.run(["sh", "-c", probe], capture_output=True, check=False).returncode == 0


def test_a_full_disk_raises_a_sentence_and_leaves_nothing_behind(tmp_path: Path) -> None:
    if not may_mount():
        pytest.skip("this user may not mount a small disk; the limit below stands in")
    source = tmp_path / "source"
    source.write_bytes(b"z" * 60_000_000)
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = 'mount -t tmpfs -o size=5m none "$1" && exec "$2" -c "$3" "$1" "$4"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, "sh", disk, sys.executable, FULL, source],
        capture_output=True, text=True, check=False, cwd=Path.cwd(),
    )  # fmt: skip
    check_full(done, "(No space left on device): make room there")


def test_a_file_beyond_the_limit_raises_a_sentence_and_leaves_nothing_behind(
    tmp_path: Path,
) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"z" * 60_000_000)
    limited = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4_000_000,) * 2)\n" + FULL
    )
    done = subprocess.run(
        [sys.executable, "-c", limited, tmp_path, source],
        capture_output=True, text=True, check=False, cwd=Path.cwd(),
    )  # fmt: skip
    check_full(done, "(File too large): raise the limit on the size of files")


def test_sweeping_removes_only_old_temporary_files(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.sweep(10, time.time())
    store.put_new("k", b"")
    for name, age in (("old", 100.0), ("new", 1.0)):
        path = tmp_path / TEMPORARY / name
        path.write_bytes(b"")
        os.utime(path, (time.time() - age,) * 2)
    store.sweep(10, time.time())
    assert [path.name for path in leftovers(tmp_path)] == ["new"]
    assert store.exists("k")
