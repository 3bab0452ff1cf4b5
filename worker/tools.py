"""Opens what a process needs for a job: the store, and the reader of the job's bundle."""

import os
from dataclasses import dataclass

from worker.contracts.bundle import Bundle
from worker.contracts.bundle_home import fetch_bundle
from worker.contracts.errors import BundleError, JobError, UsageError
from worker.contracts.job import JobManifest
from worker.contracts.object_store import open_store
from worker.contracts.options import ForwardPolicy, ReadingOptions
from worker.contracts.store import Store
from worker.opening import open_reader
from worker.task import Tools
from worker.telemetry import describe_machine

_CURE = "give the job's whole `spanmill answer` command again, which puts it back"


@dataclass(frozen=True, slots=True)
class JobTools:
    """The recipe for a job's tools; small, so that it can be sent to another process."""

    jobs_root: str
    bundle: str
    reading: ReadingOptions
    forward: ForwardPolicy
    provider: str


def name_tools(jobs_root: str, manifest: JobManifest) -> JobTools:
    """Return the recipe for the tools of a job in a jobs' folder."""
    return JobTools(
        jobs_root, manifest.bundle, manifest.reading, manifest.forward, manifest.provider
    )


def open_tools(recipe: JobTools) -> Tools:
    """Load the job's bundle, with proof, in the process that will use it.

    Raises:
        BundleError: the bundle is missing, damaged, or another than the job's.
        JobError: the job's provider does not start here.
    """
    store = open_store(recipe.jobs_root)
    bundle = _load_own(store, recipe.bundle)
    try:
        reader = open_reader(bundle, recipe.reading, recipe.forward, recipe.provider)
    except BundleError:
        raise
    except UsageError as error:
        raise JobError(
            f"the provider {recipe.provider!r}, with which the job began, did not start here: go on"
            " where it does, or begin anew with --overwrite"
        ) from error
    return Tools(
        store=store,
        reader=reader,
        machine=describe_machine(),
        pid=os.getpid(),
        bundle_digest=bundle.digest,
        provider=recipe.provider,
    )


def _load_own(store: Store, digest: str) -> Bundle:
    try:
        return fetch_bundle(store, digest)
    except BundleError as error:
        raise BundleError(
            f"the job's own copy of its bundle is of no use ({error}): {_CURE}"
        ) from error
