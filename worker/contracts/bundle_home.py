"""Where a job's bundle lies: beside the jobs on a disk, or copied from their store to this machine.

A copy is named by the bundle's digest and proved whenever it is loaded, so any process may use it.
"""

import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from worker.contracts.bundle import MANIFEST, Bundle, load_bundle, parse_manifest
from worker.contracts.errors import BundleError, WorldError
from worker.contracts.job import BUNDLES
from worker.contracts.store import LocalStore, Store

#: The folder of copies; else it is spanmill in the user's cache, or in the temporary folder.
CACHE_VARIABLE = "SPANMILL_CACHE_DIR"


def fetch_bundle(store: Store, digest: str) -> Bundle:
    """Return a job's bundle, with every byte proved.

    Raises:
        BundleError: it is missing, damaged, or another than its name says.
        WorldError: the store is away, or this machine has no room for the copy.
    """
    if isinstance(store, LocalStore):
        return _need(load_bundle(store.root / BUNDLES / digest), digest)
    home = find_cache() / BUNDLES / digest
    with suppress(BundleError):  # none yet, or one that rots: a new copy takes its place
        return _need(load_bundle(home), digest)
    try:
        _copy(store, digest, home)
    except OSError as error:
        raise WorldError(
            f"cannot copy the job's bundle to {home} ({error.strerror}): make room there, or name"
            f" another folder in {CACHE_VARIABLE}"
        ) from error
    return _need(load_bundle(home), digest)


def find_cache() -> Path:
    """Return the folder for what can be had again."""
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named)
    beside = os.environ.get("XDG_CACHE_HOME")
    with suppress(RuntimeError, OSError):  # a user without a home, or one that is read only
        cache = (Path(beside) if beside else Path.home() / ".cache") / "spanmill"
        cache.mkdir(parents=True, exist_ok=True)
        if os.access(cache, os.W_OK):
            return cache
    return Path(tempfile.gettempdir()) / f"spanmill-{os.getuid()}"


def _need(bundle: Bundle, digest: str) -> Bundle:
    if bundle.digest != digest:
        raise BundleError(
            f"{bundle.folder} holds a bundle with the digest {bundle.digest[:12]}: get the job's"
        )
    return bundle


def _copy(store: Store, digest: str, home: Path) -> None:
    """Copy a bundle beside its home, then rename it: who comes second throws his away."""
    key = f"{BUNDLES}/{digest}"
    raw = store.read(f"{key}/{MANIFEST}")
    if raw is None:
        raise BundleError(f"{store.name}/{key} holds no bundle: put it there again")
    made = home.parent / f".{digest[:12]}-{uuid4().hex}"
    made.mkdir(parents=True)
    try:
        for name in parse_manifest(raw, f"{key}/{MANIFEST}").files:
            _copy_file(store, f"{key}/{name}", made / Path(name).name)
        (made / MANIFEST).write_bytes(raw)
        load_bundle(made)
        _move(made, home)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _move(made: Path, home: Path) -> None:
    try:
        made.rename(home)
    except OSError:  # something lies there: another process was faster, or it rots
        try:
            load_bundle(home)
        except BundleError:
            shutil.rmtree(home, ignore_errors=True)
            made.rename(home)


def _copy_file(store: Store, key: str, target: Path) -> None:
    source = store.open(key)
    if source is None:
        raise BundleError(f"{store.name}/{key} is missing: put the bundle there again")
    with source, target.open("xb") as copy:
        shutil.copyfileobj(source, copy, 1024 * 1024)
