"""What a job writes is never its input: files, folders and globs are asked as they are read."""

from glob import glob
from pathlib import Path

import pytest

from producer.overlap import reads_jobs, reads_output
from producer.source import find_files
from worker.contracts.job import shard_key

NAMES = (
    "a.parquet", "in/a.parquet", "in/b.pq", "in/deep/c.parquet", "in/.hidden.parquet",
    "in/.tmp/d.parquet", "in/x[1].parquet", "other/a.parquet",
)  # fmt: skip
PATTERNS = (
    "*.parquet", "*", "**", "**/*", "**/*.parquet", "in/*.parquet", "in/**", "in/**/*.parquet",
    "*/**/c.parquet", "in/.*", "in/.tmp/*", "in/?.p*", "in/[ab].*", "in/x[[]1].parquet",
    "*/*/*.parquet", "o*r/*", "in/**/**/c.*", "in/./*.pq", "in/../*.parquet", "none/*", "IN/*",
)  # fmt: skip


def find(pattern: str) -> list[str]:
    return glob(pattern, recursive=True)  # noqa: PTH207  this is what inputs are found by


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_glob_takes_what_the_library_finds(
    tree: Path, pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {Path(one).resolve() for one in find(f"{tree}/{pattern}")}
    monkeypatch.chdir(tree)
    for name in NAMES:
        taken = tree / name in found
        assert reads_output([f"{tree}/{pattern}"], f"{tree}/{name}") == taken, name
        assert reads_output(["nothing", pattern], name) == taken, name


def test_an_output_is_taken_before_it_is_there(tree: Path) -> None:
    glob_, folder = f"{tree}/**/*.parquet", f"{tree}/in"
    assert reads_output([glob_], f"{tree}/in/new/out.parquet")
    assert reads_output([glob_], f"{tree}/parts/")
    assert reads_output([f"{tree}/parts/part-*.parquet"], f"{tree}/parts/")
    assert not reads_output([glob_], f"{tree}/out.pq")
    assert not reads_output([f"{tree}/in/*.parquet"], f"{tree}/out.parquet")
    assert reads_output([folder], f"{tree}/in/new/out.parquet")
    assert not reads_output([folder], f"{tree}/inner.parquet")


def test_a_link_hides_nothing(tree: Path) -> None:
    (tree / "link").symlink_to(tree / "in", target_is_directory=True)
    assert reads_output([f"{tree}/link/*.parquet"], f"{tree}/in/new.parquet")
    assert reads_output([f"{tree}/in/*.parquet"], f"{tree}/link/new.parquet")
    assert reads_jobs([f"{tree}/in"], f"{tree}/link/jobs", "job")


@pytest.mark.parametrize(
    ("pattern", "taken"),
    [
        ("**/*.parquet", True), ("jobs/*/*/*/*", True), ("*/*/errors.parquet", True),
        ("**/*.json", True), ("*/*.parquet", False), ("*.parquet", False), ("in/**", False),
    ],
)  # fmt: skip
def test_a_glob_over_the_jobs_folder_is_known_by_what_a_job_leaves_there(
    tree: Path, pattern: str, taken: bool
) -> None:
    assert reads_jobs([f"{tree}/{pattern}"], f"{tree}/jobs", "job") == taken
    left = tree / "jobs" / shard_key("job", 0)
    left.parent.mkdir(parents=True)
    for path in (left, tree / "jobs/job/errors.parquet", tree / "jobs/job/manifest.json"):
        path.touch()
    found = find(f"{tree}/{pattern}")
    assert any(Path(one).is_relative_to(tree / "jobs/job") for one in found) == taken


def test_a_file_that_is_named_like_a_pattern_is_that_file(tree: Path) -> None:
    given = f"{tree}/in/x[1].parquet"
    assert find_files([given]) == (Path(given),)
    assert reads_output([given], given)
    assert not reads_output([given], f"{tree}/in/x1.parquet")


def test_a_folder_takes_what_is_written_to_a_folder_linked_into_it(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
    given = [str(tmp_path / "in")]
    assert reads_output(given, f"{tmp_path}/elsewhere/out.parquet")
    assert reads_jobs(given, f"{tmp_path}/elsewhere/jobs", "job")
    assert not reads_output(given, f"{tmp_path}/out.parquet")
