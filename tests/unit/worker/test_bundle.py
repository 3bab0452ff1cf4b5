"""A bundle proves itself: whatever is wrong with it is refused, in one sentence."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from worker.contracts.bundle import (
    FORMAT,
    MANIFEST,
    MODEL,
    TOKENIZER,
    BundleManifest,
    FileProof,
    SampleRow,
    digest_bytes,
    find_bundle,
    list_shipped,
    load_bundle,
    parse_manifest,
    prove_file,
    write_manifest,
)
from worker.contracts.errors import BundleError
from worker.contracts.family import FAMILIES, WindowSizes
from worker.contracts.verdict import Calibration, Logistic

#: An opened manifest, as JSON gives it.
Raw = dict[str, Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole bundle; its two big files need no meaning here, only their bytes."""
    home = tmp_path / "bundle"
    home.mkdir()
    (home / MODEL).write_bytes(bytes(range(256)) * 40)
    (home / TOKENIZER).write_text('{"version": "1.0"}')
    write_manifest(home, make_manifest(home))
    return home


def make_manifest(home: Path, family: str = "bert") -> BundleManifest:
    return BundleManifest(
        format=FORMAT,
        name="small",
        family=family,
        language="en",
        sizes=WindowSizes(256, 64, 32),
        null_threshold=-1.25,
        calibration=Calibration(Logistic(0.1, -0.2, 0.3), Logistic(-0.1, 0.2), 8.0),
        quantization="none",
        licence="Apache-2.0",
        files={name: prove_file(home / name) for name in (MODEL, TOKENIZER)},
        sample=(SampleRow("Where?", "At the río.", "the río", 7.5, -3.25),),
        versions={"onnxruntime": "1.2.3"},
        card={"scores": {"dev": {"exact": 70.5}}, "limits": ["none known"]},
    )


def edit(home: Path, change: Callable[[Raw], object]) -> None:
    raw = msgspec.json.decode((home / MANIFEST).read_bytes())
    change(raw)
    (home / MANIFEST).write_bytes(msgspec.json.encode(raw))


def refusal(home: Path) -> str:
    """Return the sentence with which the bundle is refused."""
    with pytest.raises(BundleError) as caught:
        load_bundle(home)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert ": " in sentence, "it says what to do"
    assert str(home) in sentence or home.name in sentence or "'" in sentence
    return sentence


def test_a_bundle_comes_back_as_it_was_written(folder: Path) -> None:
    bundle = load_bundle(folder)
    assert bundle.manifest == make_manifest(folder)
    assert (bundle.model, bundle.tokenizer) == (folder / MODEL, folder / TOKENIZER)
    assert bundle.digest == digest_bytes((folder / MANIFEST).read_bytes())


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_can_be_loaded(folder: Path, family: str) -> None:
    write_manifest(folder, make_manifest(folder, family))
    assert load_bundle(folder).manifest.family == family


def test_the_digest_changes_with_every_file(folder: Path) -> None:
    before = load_bundle(folder).digest
    (folder / TOKENIZER).write_text('{"version": "1.1"}')
    write_manifest(folder, make_manifest(folder))
    assert load_bundle(folder).digest != before


@pytest.mark.parametrize("name", [MODEL, TOKENIZER])
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_a_changed_byte_is_refused(folder: Path, name: str, place: str) -> None:
    raw = bytearray((folder / name).read_bytes())
    raw[{"first": 0, "middle": len(raw) // 2, "last": -1}[place]] ^= 1
    (folder / name).write_bytes(raw)
    sentence = refusal(folder)
    assert name in sentence
    assert "digest differs" in sentence


@pytest.mark.parametrize("name", [MODEL, TOKENIZER])
def test_a_file_that_grew_or_shrank_is_refused(folder: Path, name: str) -> None:
    raw = (folder / name).read_bytes()
    for other in (raw[:-1], raw + b"\n", b""):
        (folder / name).write_bytes(other)
        assert name in refusal(folder)


@pytest.mark.parametrize("name", [MODEL, TOKENIZER, MANIFEST])
def test_a_missing_file_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    sentence = refusal(folder)
    assert name in sentence
    assert "No such file" in sentence


def test_an_extra_file_that_is_named_is_proved_too(folder: Path) -> None:
    (folder / "notes.md").write_text("notes")
    proof = msgspec.to_builtins(prove_file(folder / "notes.md"))
    edit(folder, lambda raw: raw["files"].update({"notes.md": proof}))
    load_bundle(folder)
    (folder / "notes.md").write_text("Notes")
    assert "notes.md" in refusal(folder)


def test_a_folder_in_a_files_place_is_refused(folder: Path) -> None:
    (folder / MODEL).unlink()
    (folder / MODEL).mkdir()
    assert MODEL in refusal(folder)


def test_a_path_that_is_no_folder_is_refused(folder: Path) -> None:
    assert "is not a bundle" in refusal(folder / MODEL)
    assert "is not a bundle" in refusal(folder / "nowhere")


def test_an_unknown_family_is_refused_with_those_that_are_known(folder: Path) -> None:
    edit(folder, lambda raw: raw.update(family="gpt"))
    sentence = refusal(folder)
    assert "'gpt'" in sentence
    assert "roberta" in sentence


def test_a_newer_format_is_refused_whatever_else_it_says(folder: Path) -> None:
    edit(folder, lambda raw: raw.update(format=FORMAT + 1))
    assert "upgrade spanmill" in refusal(folder)
    (folder / MANIFEST).write_bytes(b'{"format": %d, "all": "new"}' % (FORMAT + 1))
    assert "upgrade spanmill" in refusal(folder)


def test_a_later_addition_to_this_format_is_read_over(folder: Path) -> None:
    edit(folder, lambda raw: raw.update(colour="green"))
    assert load_bundle(folder).manifest == make_manifest(folder)


@pytest.mark.parametrize(
    "name", ["../secret", "/secret", "sub/file", "./model.onnx", "sub/../model.onnx"]
)
def test_a_path_outside_the_folder_is_refused_though_its_digest_is_right(
    folder: Path, name: str
) -> None:
    (folder.parent / "secret").write_text("x")
    (folder / "sub").mkdir()
    (folder / "sub" / "file").write_text("x")
    name = str(folder.parent / "secret") if name == "/secret" else name
    proof = msgspec.to_builtins(prove_file(folder / name))
    edit(folder, lambda raw: raw["files"].update({name: proof}))
    assert "outside its folder" in refusal(folder)


@pytest.mark.parametrize("name", ["a\0b", "model.onnx\0", "a\nb"])
def test_a_name_that_names_no_file_is_refused(folder: Path, name: str) -> None:
    edit(folder, lambda raw: raw["files"].update({name: raw["files"][MODEL]}))
    assert repr(name) in refusal(folder)


def test_a_manifest_that_is_nested_without_end_is_refused(folder: Path) -> None:
    for raw in (b"[" * 100_000, b'{"format": 1, "card": ' + b'{"a":' * 100_000):
        (folder / MANIFEST).write_bytes(raw)
        assert "is not a bundle's manifest" in refusal(folder)


@pytest.mark.parametrize("threshold", [float("inf"), float("-inf"), float("nan")])
def test_what_could_not_be_read_back_is_not_written(folder: Path, threshold: float) -> None:
    before = (folder / MANIFEST).read_bytes()
    with pytest.raises(BundleError, match=r"would be written to .*null_threshold"):
        write_manifest(folder, replace(make_manifest(folder), null_threshold=threshold))
    assert (folder / MANIFEST).read_bytes() == before
    load_bundle(folder)


def test_a_calibration_of_answering_always_comes_back(folder: Path) -> None:
    manifest = make_manifest(folder)
    always = replace(manifest.calibration, always=Logistic(0.3, -0.1, 0.2))
    write_manifest(folder, replace(manifest, calibration=always))
    assert load_bundle(folder).manifest.calibration == always


@pytest.mark.parametrize("name", ["..", ".", ""])
def test_a_name_that_is_a_folders_is_refused(folder: Path, name: str) -> None:
    edit(folder, lambda raw: raw["files"].update({name: raw["files"][MODEL]}))
    refusal(folder)


@pytest.mark.parametrize("name", [MODEL, TOKENIZER])
def test_a_manifest_that_does_not_name_a_file_is_refused(folder: Path, name: str) -> None:
    edit(folder, lambda raw: raw["files"].pop(name))
    assert f"does not list {name}" in refusal(folder)


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b"null", b"7", b"\xff\xfe", b"{}", b'{"format": "1"}', b'{"format": true}'],
)
def test_what_is_no_manifest_is_refused(folder: Path, raw: bytes) -> None:
    (folder / MANIFEST).write_bytes(raw)
    assert "is not a bundle's manifest" in refusal(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"null_threshold": "0"}, {"sizes": {"max_window_tokens": 10}}, {"files": []},
        {"files": {MODEL: {"sha256": 1, "size_bytes": 1}}}, {"calibration": None}, {"sample": {}},
    ],
)  # fmt: skip
def test_a_manifest_with_a_wrong_value_is_refused(folder: Path, change: Raw) -> None:
    edit(folder, lambda raw: raw.update(change))
    assert "is not a bundle's manifest" in refusal(folder)


@pytest.mark.parametrize("field", ["format", "family", "sizes", "null_threshold", "files"])
def test_a_manifest_without_a_field_is_refused(folder: Path, field: str) -> None:
    edit(folder, lambda raw: raw.pop(field))
    assert field in refusal(folder)


def test_a_proof_is_of_size_and_digest(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert prove_file(tmp_path / "file") == FileProof(
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", 3
    )


def test_writing_a_manifest_leaves_nothing_else_behind(folder: Path) -> None:
    assert {file.name for file in folder.iterdir()} == {MANIFEST, MODEL, TOKENIZER}
    raw = (folder / MANIFEST).read_bytes()
    write_manifest(folder, make_manifest(folder))
    assert (folder / MANIFEST).read_bytes() == raw


def test_a_manifest_is_for_people_too(folder: Path) -> None:
    assert '\n "family": "bert",' in (folder / MANIFEST).read_text()
    assert parse_manifest((folder / MANIFEST).read_bytes(), "there") == make_manifest(folder)


def test_a_bundle_is_found_by_its_path(folder: Path) -> None:
    assert find_bundle(str(folder)) == folder


def test_a_bundle_that_is_nowhere_is_refused_with_those_that_ship() -> None:
    with pytest.raises(BundleError, match="there is no bundle") as caught:
        find_bundle("no-such-bundle")
    assert all(one.name in str(caught.value) for one in list_shipped())
