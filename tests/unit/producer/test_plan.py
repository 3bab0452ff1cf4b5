"""The plan: what the user asked for is looked at before any work, and written down for good."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from producer.plan import (
    Request,
    check_inputs,
    check_output,
    check_place,
    check_same,
    check_writable,
    choose_forward,
    make_manifest,
    name_job,
    publish_bundle,
    remove_job,
    reopen,
)
from producer.scan import scan
from producer.source import find_files, open_source
from tests.making import BUNDLE, BUNDLE_DIGEST, make_bundle, write_input
from worker.contracts.bundle import Bundle, load_bundle
from worker.contracts.errors import JobError, UsageError
from worker.contracts.job import (
    Columns,
    JobManifest,
    check_job_id,
    decode_manifest,
    encode_manifest,
)
from worker.contracts.options import ReadingOptions
from worker.contracts.shard import decode_schema
from worker.contracts.store import LocalStore


@pytest.fixture
def request_(tmp_path: Path) -> Request:
    write_input(tmp_path / "in" / "a.parquet", k=[1] * 5)
    return Request(
        inputs=(str(tmp_path / "in"),),
        output=str(tmp_path / "out.parquet"),
        columns=Columns(keep=("k",)),
        reading=ReadingOptions(null_threshold=0.5),
        bundle=Bundle(tmp_path, BUNDLE, BUNDLE_DIGEST),
        provider="cpu",
        versions={"spanmill": "0"},
    )


def plan(request: Request) -> JobManifest:
    source = open_source(find_files(request.inputs), request.columns)
    return make_manifest(request, source, scan(source, request.batch_rows))


def check(request: Request, **changes: Any) -> None:
    changed = replace(request, **changes)
    check_output(changed, find_files(changed.inputs))


def test_the_same_command_names_the_same_job_from_any_folder(
    request_: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    relative = replace(request_, inputs=("./in/",), output="out.parquet")
    assert name_job(relative) == name_job(request_)
    assert name_job(request_).startswith("out-")


def test_another_command_names_another_job(request_: Request, tmp_path: Path) -> None:
    others: list[dict[str, Any]] = [
        {"inputs": (*request_.inputs, "b")},
        {"output": str(tmp_path / "out" / "out.parquet")},
        {"output": f"{tmp_path}/out.parquet/"},
        {"columns": Columns(keep=())},
        {"columns": Columns(id=None, keep=("k",))},
        {"reading": ReadingOptions(null_threshold=None)},
        {"bundle": replace(request_.bundle, manifest=replace(BUNDLE, name="other"))},
        {"batch_rows": 7},
    ]
    names = {name_job(replace(request_, **change)) for change in others}
    assert len(names) == len(others)
    assert name_job(request_) not in names


def test_the_inputs_content_names_no_other_job(request_: Request, tmp_path: Path) -> None:
    before = name_job(request_)
    write_input(tmp_path / "in" / "a.parquet", 9)
    assert name_job(request_) == before


@pytest.mark.parametrize(
    ("output", "stem"),
    [
        ("Été 2024.parquet", "t--2024"),
        ("x" * 300 + ".parquet", "x" * 40),
        ("答え", "job"),
        ("/", "job"),
    ],
)
def test_a_name_is_a_job_id_whatever_the_output(request_: Request, output: str, stem: str) -> None:
    name = name_job(replace(request_, output=output))
    assert check_job_id(name).rsplit("-", 1)[0] == stem


def test_a_given_name_is_used_or_refused(request_: Request) -> None:
    assert name_job(replace(request_, job="mine-1")) == "mine-1"
    with pytest.raises(UsageError, match="'My Job' is no job id"):
        name_job(replace(request_, job="My Job"))


def test_an_output_in_the_input_is_refused_by_any_path(request_: Request, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "in", target_is_directory=True)
    (tmp_path / "other").mkdir()
    one = str(tmp_path / "in" / "a.parquet")
    for inputs in ((str(tmp_path / "in"),), (one,), (f"{tmp_path}/*/*.parquet",)):
        for output in (one, f"{tmp_path}/other/../in/a.parquet", f"{tmp_path}/link/a.parquet"):
            with pytest.raises(UsageError, match="lies in the input"):
                check(request_, inputs=inputs, output=output)
    for pattern in ("in/*.parquet", "**/*.parquet", "*/[a-n]*.parquet"):
        with pytest.raises(UsageError, match=r"lies in the input: write it somewhere else"):
            check(
                request_, inputs=(one, f"{tmp_path}/{pattern}"), output=f"{tmp_path}/in/new.parquet"
            )
    for output in (f"{tmp_path}/in/new.parquet", f"{tmp_path}/in/deep/x/", f"{tmp_path}/in/"):
        with pytest.raises(UsageError, match=r"lies in the input: write it somewhere else"):
            check(request_, output=output)


def test_an_output_beside_the_input_is_allowed(request_: Request, tmp_path: Path) -> None:
    check(request_)
    check(request_, inputs=(f"{tmp_path}/in/a.parquet",), output=f"{tmp_path}/in/b.parquet")
    check(request_, output=f"{tmp_path}/made/on/the/way/")
    assert not (tmp_path / "made").exists()


def test_an_output_is_what_its_name_says(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for good in ("file", "new", "new/", "./"):
        check_place(f"{tmp_path}/{good}")
    with pytest.raises(UsageError, match="is a folder: end it in /"):
        check_place(str(tmp_path))
    with pytest.raises(UsageError, match="is a file: leave out the /"):
        check_place(f"{tmp_path}/file/")
    with pytest.raises(UsageError, match=r"ftp://host/out\.parquet is no URL that is known here"):
        check_place("ftp://host/out.parquet")
    with pytest.raises(UsageError, match="is not UTF-8"):
        check_place(os.fsdecode(b"\xff.parquet"))


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/none")):
        with pytest.raises(
            UsageError, match=r"the place .* cannot be written to .*choose another --x"
        ):
            check_writable(str(folder), "the place", "--x")


def test_a_manifest_says_everything_and_survives_the_disk(
    request_: Request, tmp_path: Path
) -> None:
    manifest = plan(request_)
    assert decode_manifest(encode_manifest(manifest), "m") == manifest
    assert (manifest.rows, manifest.batches, manifest.bundle) == (5, 1, BUNDLE_DIGEST)
    assert [file.path for file in manifest.inputs] == [str(tmp_path / "in" / "a.parquet")]
    assert decode_schema(manifest.kept_schema).names == ["k"]
    assert manifest.output == str(tmp_path / "out.parquet")


def test_a_folder_of_parts_stays_one(request_: Request, tmp_path: Path) -> None:
    assert plan(replace(request_, output=f"{tmp_path}/out/")).output == f"{tmp_path}/out/"


def test_the_same_command_finds_its_job(request_: Request) -> None:
    check_same(plan(request_), request_)
    check_same(plan(request_), replace(request_, versions=None, max_error_ratio=0.5))


@pytest.mark.parametrize(
    "changes",
    [
        {"output": "/elsewhere.parquet"},
        {"columns": Columns()},
        {"reading": ReadingOptions(null_threshold=0.6)},
    ],
)
def test_another_command_with_its_id_is_refused(request_: Request, changes: dict[str, Any]) -> None:
    manifest = plan(replace(request_, job="mine"))
    with pytest.raises(JobError, match="'mine' is the id of another job"):
        check_same(manifest, replace(request_, job="mine", **changes))


def test_another_number_of_rows_in_a_batch_is_refused_and_none_is_what_it_began_with(
    request_: Request,
) -> None:
    manifest = plan(replace(request_, batch_rows=3))
    check_same(manifest, replace(request_, batch_rows=3))
    check_same(manifest, request_)
    with pytest.raises(JobError, match="began with --batch-rows 3: give that"):
        check_same(manifest, replace(request_, batch_rows=4))


def test_another_provider_is_refused_and_any_is_what_it_began_with(request_: Request) -> None:
    manifest = replace(plan(request_), provider="cuda")
    check_same(manifest, replace(request_, provider="cuda"))
    check_same(manifest, replace(request_, any_provider=True))
    with pytest.raises(JobError, match="began with --provider cuda: give that"):
        check_same(manifest, request_)


def test_another_bundle_is_refused(request_: Request) -> None:
    other = replace(request_.bundle, digest="f" * 64)
    with pytest.raises(JobError, match=rf"began with another bundle \({BUNDLE_DIGEST[:12]}\)"):
        check_same(plan(request_), replace(request_, bundle=other))


def test_files_that_came_went_or_changed_places_are_noticed(
    request_: Request, tmp_path: Path
) -> None:
    manifest = plan(request_)
    new = write_input(tmp_path / "in" / "b.parquet", 1, k=[1])
    with pytest.raises(JobError, match="files have come to its inputs or gone"):
        check_same(manifest, request_)
    both = (str(tmp_path / "in" / "a.parquet"), str(new))
    manifest = plan(replace(request_, inputs=both))
    with pytest.raises(JobError, match="files have come to its inputs or gone"):
        check_same(manifest, replace(request_, inputs=both[::-1]))


def test_an_input_that_changed_or_went_is_noticed(request_: Request, tmp_path: Path) -> None:
    manifest = plan(request_)
    path = tmp_path / "in" / "a.parquet"
    check_inputs(manifest)
    assert [one.name for one in reopen(manifest).files] == ["a.parquet"]
    raw = bytearray(path.read_bytes())
    stat = path.stat()
    raw[len(raw) // 3] ^= 1
    path.write_bytes(raw)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(JobError, match=r"a\.parquet has changed since the job .* began"):
        check_inputs(manifest)
    path.unlink()
    with pytest.raises(JobError, match=r"a\.parquet is gone since the job .* began"):
        reopen(manifest)


def test_a_bundle_is_published_once_and_its_manifest_last(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    order: list[str] = []

    class Watched(LocalStore):
        def put_new(self, key: str, raw: bytes) -> bool:
            order.append(key)
            return super().put_new(key, raw)

    store = Watched(tmp_path / "jobs")
    for _ in range(2):
        publish_bundle(store, bundle)
    names = ["model.onnx", "tokenizer.json", "bundle.json"]
    assert order == [f"bundles/{bundle.digest}/{name}" for name in names]
    assert load_bundle(tmp_path / "jobs" / "bundles" / bundle.digest).digest == bundle.digest


def test_windows_share_a_run_only_off_the_cpu() -> None:
    assert choose_forward("cpu").max_windows == 1
    assert choose_forward("cuda").max_windows > 1


def test_a_job_that_is_begun_anew_leaves_only_its_lock(tmp_path: Path) -> None:
    for name in (
        "job/lock",
        "job/manifest.json",
        "job/shards/0000/0.parquet",
        "job2/manifest.json",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    remove_job(LocalStore(tmp_path), "job")
    remove_job(LocalStore(tmp_path), "none")
    assert [path.name for path in (tmp_path / "job").iterdir()] == ["lock"]
    assert (tmp_path / "job2" / "manifest.json").exists()
