"""A model bundle on disk: its manifest, the digests of its files, and loading it with proof.

A bundle is a folder of ``bundle.json``, ``model.onnx`` and ``tokenizer.json``. Nothing that changes
an answer lies outside it, and nothing in it is a pickle.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from worker.contracts.errors import BundleError
from worker.contracts.family import FAMILIES, WindowSizes
from worker.contracts.verdict import Calibration, to_plain

FORMAT = 1
MANIFEST = "bundle.json"
MODEL = "model.onnx"
TOKENIZER = "tokenizer.json"
DEFAULT_NAME = "default"


@dataclass(frozen=True, slots=True)
class FileProof:
    """What a file of the bundle must be."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class SampleRow:
    """A question with the answer that this bundle gave when it was made.

    ``answer`` is its best non-null span, whatever the threshold; scores are in logits.
    """

    question: str
    context: str
    answer: str
    score: float
    null_odds: float


@dataclass(frozen=True, slots=True)
class BundleManifest:
    """What ``bundle.json`` says; ``card`` is for people: data, training, scores, limits."""

    format: int
    name: str
    family: str
    language: str
    sizes: WindowSizes
    null_threshold: float
    calibration: Calibration
    quantization: str
    licence: str
    files: dict[str, FileProof]
    sample: tuple[SampleRow, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose files were checked. ``digest`` is the SHA-256 of its manifest."""

    folder: Path
    manifest: BundleManifest
    digest: str

    @property
    def model(self) -> Path:
        """The ONNX graph."""
        return self.folder / MODEL

    @property
    def tokenizer(self) -> Path:
        """The tokenizer, in the tokenizers library's JSON."""
        return self.folder / TOKENIZER


def load_bundle(folder: Path) -> Bundle:
    """Read a bundle and check every byte of it.

    Raises:
        BundleError: something is missing, changed, unknown, or newer than this version.
    """
    manifest_file = folder / MANIFEST
    try:
        raw = manifest_file.read_bytes()
    except OSError as error:
        raise BundleError(
            f"{folder} is not a bundle ({MANIFEST}: {error.strerror}): give the folder of one"
        ) from error
    manifest = parse_manifest(raw, manifest_file)
    for name in (MODEL, TOKENIZER):
        if name not in manifest.files:
            raise BundleError(f"{manifest_file} does not list {name}: make the bundle again")
    for name, proof in manifest.files.items():
        _check_file(folder / name, name, proof)
    return Bundle(folder, manifest, digest_bytes(raw))


def parse_manifest(raw: bytes, where: Path | str) -> BundleManifest:
    """Decode a manifest and check that this version knows what it says.

    Raises:
        BundleError: it is not one, or made by a newer version, or of an unknown family.
    """
    try:
        found = msgspec.json.decode(raw, type=dict[str, Any]).get("format")
        if isinstance(found, int) and found > FORMAT:
            raise BundleError(
                f"{where} has format {found} but this version reads {FORMAT}: upgrade spanmill"
            )
        manifest = msgspec.json.decode(raw, type=BundleManifest)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise BundleError(
            f"{where} is not a bundle's manifest ({error}): get a whole one"
        ) from error
    if manifest.family not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise BundleError(
            f"{where} is of the family {manifest.family!r}, which this version does not know:"
            f" use one of {known}"
        )
    return manifest


def find_bundle(name: str | None) -> Path:
    """Return the folder of a bundle given by path, or by the name of one shipped in the package.

    Raises:
        BundleError: there is none.
    """
    shipped = {folder.name: folder for folder in list_shipped()}
    wanted = DEFAULT_NAME if name is None else name
    if wanted in shipped:
        return shipped[wanted]
    if Path(wanted).is_dir():
        return Path(wanted)
    names = ", ".join(sorted(shipped)) if shipped else "none"
    raise BundleError(
        f"there is no bundle {wanted!r}: give a folder, or a shipped one by its name ({names})"
    )


def list_shipped() -> Iterator[Path]:
    """Yield the folders of the bundles in the package."""
    home = Path(str(resources.files("worker"))) / "bundles"
    if home.is_dir():
        yield from (folder for folder in home.iterdir() if (folder / MANIFEST).is_file())


def show_manifest(manifest: BundleManifest) -> dict[str, Any]:
    """Return what ``bundle.json`` says, as JSON has it."""
    plain: dict[str, Any] = msgspec.to_builtins(manifest)
    return plain | {"calibration": to_plain(manifest.calibration)}


def write_manifest(folder: Path, manifest: BundleManifest) -> None:
    """Write ``bundle.json`` last, so that a folder without one is no bundle.

    Raises:
        BundleError: it could not be read back: JSON has no infinity, for instance.
    """
    raw = msgspec.json.format(msgspec.json.encode(show_manifest(manifest)), indent=1) + b"\n"
    parse_manifest(raw, f"what would be written to {folder / MANIFEST}")
    temporary = folder / f".{MANIFEST}.{os.getpid()}"
    temporary.write_bytes(raw)
    temporary.replace(folder / MANIFEST)


def prove_file(path: Path) -> FileProof:
    """Return what a file is now."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return FileProof(digest, path.stat().st_size)


def digest_bytes(raw: bytes) -> str:
    """Return the SHA-256 as hexadecimal digits."""
    return hashlib.sha256(raw).hexdigest()


def _check_file(path: Path, name: str, proof: FileProof) -> None:
    if Path(name).name != name or not name.isprintable():
        raise BundleError(f"the bundle names the file {name!r} outside its folder: do not use it")
    try:
        found = prove_file(path)
    except OSError as error:
        raise BundleError(
            f"{path} cannot be read ({error.strerror}): get a whole bundle"
        ) from error
    if found != proof:
        raise BundleError(
            f"{path} is not the file that the bundle was made with (its digest differs):"
            " get the bundle again"
        )
