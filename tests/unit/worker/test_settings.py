"""The cores that a process may use, over made-up trees of cgroups."""

import os
from pathlib import Path

import pytest

from worker.settings import count_cores

ALLOWED = len(os.sched_getaffinity(0))
V1 = "4:cpu,cpuacct:{}\n3:memory:/elsewhere\n0::/elsewhere\n"


def count(tmp_path: Path, membership: str | None = "0::/\n") -> int:
    file = tmp_path / "membership"
    if membership is not None:
        file.write_text(membership)
    return count_cores(tmp_path / "cgroup", file)


def write_v1(tmp_path: Path, quota: str, period: str = "100000", inside: str = "") -> None:
    folder = tmp_path / "cgroup" / "cpu" / inside
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (folder / "cpu.cfs_period_us").write_text(f"{period}\n")


def write_v2(tmp_path: Path, text: str, inside: str = "") -> None:
    folder = tmp_path / "cgroup" / inside
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cpu.max").write_text(text)


@pytest.mark.parametrize(
    ("quota", "cores"),
    [(100_000, 1), (50_000, 1), (1_000, 1), (0, 1), (100_001, 2), (150_000, 2), (200_000, 2)],
)
def test_a_quota_is_rounded_up_to_whole_cores(tmp_path: Path, quota: int, cores: int) -> None:
    expected = min(cores, ALLOWED)
    write_v2(tmp_path / "newer", f"{quota} 100000\n")
    assert count(tmp_path / "newer") == expected
    write_v1(tmp_path / "older", str(quota))
    assert count(tmp_path / "older") == expected


def test_no_quota_leaves_all_allowed_cores(tmp_path: Path) -> None:
    write_v2(tmp_path / "newer", "max 100000\n")
    assert count(tmp_path / "newer") == ALLOWED
    write_v1(tmp_path / "older", "-1")
    assert count(tmp_path / "older") == ALLOWED


def test_a_quota_above_the_affinity_grants_nothing_more(tmp_path: Path) -> None:
    write_v2(tmp_path, "99900000 100000\n")
    assert count(tmp_path) == ALLOWED


@pytest.mark.parametrize("limited", ["", "system.slice", "system.slice/spanmill.service"])
def test_the_quota_of_the_processs_own_group_counts_and_those_above_it(
    tmp_path: Path, limited: str
) -> None:
    for inside in ("", "system.slice", "system.slice/spanmill.service"):
        write_v2(tmp_path, "100000 100000" if inside == limited else "max 100000", inside)
    assert count(tmp_path, "0::/system.slice/spanmill.service\n") == 1


@pytest.mark.parametrize("limited", ["", "docker", "docker/ab"])
def test_so_it_is_in_the_older_hierarchy(tmp_path: Path, limited: str) -> None:
    for inside in ("", "docker", "docker/ab"):
        write_v1(tmp_path, "100000" if inside == limited else "-1", inside=inside)
    assert count(tmp_path, V1.format("/docker/ab")) == 1


def test_the_older_hierarchys_folder_may_have_the_names_of_all_its_controllers(
    tmp_path: Path,
) -> None:
    write_v1(tmp_path, "100000", inside="../cpu,cpuacct/docker")
    assert count(tmp_path, V1.format("/docker")) == 1


def test_a_group_that_is_not_the_processs_limits_nothing(tmp_path: Path) -> None:
    write_v2(tmp_path, "100000 100000", "other")
    write_v1(tmp_path, "100000", inside="other")
    assert count(tmp_path, "0::/mine\n" + V1.format("/mine")) == ALLOWED


def test_a_path_that_is_not_mounted_here_leaves_the_root_to_ask(tmp_path: Path) -> None:
    write_v2(tmp_path, "100000 100000")
    for path in ("/docker/0123", "/../../outside", ""):
        assert count(tmp_path, f"0::{path}\n") == 1


@pytest.mark.parametrize("text", ["", "max", "a b", "1 2 3", "-", "100000 0", "100000 -5"])
def test_what_cannot_be_read_limits_nothing(tmp_path: Path, text: str) -> None:
    write_v2(tmp_path, text)
    assert count(tmp_path) == ALLOWED


def test_a_period_of_nothing_limits_nothing(tmp_path: Path) -> None:
    write_v1(tmp_path, "100000", "0")
    assert count(tmp_path, V1.format("/")) == ALLOWED


@pytest.mark.parametrize("membership", [None, "", "nonsense", "::", "0:"])
def test_a_machine_without_cgroups_grants_the_allowed_cores(
    tmp_path: Path, membership: str | None
) -> None:
    tmp_path.joinpath("cgroup").mkdir()
    assert count(tmp_path, membership) == ALLOWED


def test_the_affinity_counts_and_not_the_machine(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert count(tmp_path, None) == 1
    finally:
        os.sched_setaffinity(0, before)
