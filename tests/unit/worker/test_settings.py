"""The cores that a process may use."""

import os
from pathlib import Path

import pytest

from worker.settings import count_cores

ALLOWED = len(os.sched_getaffinity(0))


def write_v1(folder: Path, quota: str, period: str = "100000") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (folder / "cpu.cfs_period_us").write_text(f"{period}\n")
    return folder


def write_v2(folder: Path, text: str) -> Path:
    file = folder / "cpu.max"
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    ("quota", "cores"),
    [(100_000, 1), (50_000, 1), (1_000, 1), (0, 1), (100_001, 2), (150_000, 2), (200_000, 2)],
)
def test_a_quota_is_rounded_up_to_whole_cores(tmp_path: Path, quota: int, cores: int) -> None:
    expected = min(cores, ALLOWED)
    v2 = write_v2(tmp_path, f"{quota} 100000\n")
    assert count_cores(v2, tmp_path / "none") == expected
    v1 = write_v1(tmp_path / "cpu", str(quota))
    assert count_cores(tmp_path / "none", v1) == expected


def test_no_quota_leaves_all_allowed_cores(tmp_path: Path) -> None:
    assert count_cores(write_v2(tmp_path, "max 100000\n"), tmp_path / "none") == ALLOWED
    assert count_cores(tmp_path / "none", write_v1(tmp_path / "cpu", "-1")) == ALLOWED


def test_a_quota_above_the_affinity_grants_nothing_more(tmp_path: Path) -> None:
    assert count_cores(write_v2(tmp_path, "99900000 100000\n"), tmp_path / "none") == ALLOWED


def test_the_newer_cgroup_is_asked_first(tmp_path: Path) -> None:
    v1 = write_v1(tmp_path / "cpu", "100000")
    assert count_cores(write_v2(tmp_path, "max 100000"), v1) == ALLOWED


@pytest.mark.parametrize("text", ["", "max", "a b", "1 2 3", "-"])
def test_what_cannot_be_read_limits_nothing(tmp_path: Path, text: str) -> None:
    assert count_cores(write_v2(tmp_path, text), tmp_path / "none") == ALLOWED


def test_a_machine_without_cgroups_grants_the_allowed_cores(tmp_path: Path) -> None:
    assert count_cores(tmp_path / "none", tmp_path / "none") == ALLOWED


def test_the_affinity_counts_and_not_the_machine(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert count_cores(tmp_path / "none", tmp_path / "none") == 1
    finally:
        os.sched_setaffinity(0, before)
