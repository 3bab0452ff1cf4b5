"""What a finished job has to show when its command is given again."""

from dataclasses import dataclass, replace

import msgspec

from producer.answers import check_free, find_owner
from producer.begin import find_child
from producer.books import Summary
from producer.run import collect_job, is_answered
from worker.contracts.errors import UsageError
from worker.contracts.folder import JobFolder
from worker.contracts.job import DONE, JobManifest


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished job's numbers, and whether its output had to be written again."""

    summary: Summary
    collected: bool


def show(folder: JobFolder, manifest: JobManifest) -> Finished | None:
    """Return a finished job's numbers; its output is written again if it is gone.

    A retry of its errors that went to the same output stands in for it: its answers lie over.
    None for a job that is not finished, or whose output and shards are gone.

    Raises:
        UsageError: something else lies at the output.
        WorldError: the output cannot be written.
    """
    if folder.read_state() not in DONE:
        return None
    heir, of_heir = find_heir(folder, manifest)
    owner = find_owner(manifest.output)
    if owner is None:
        check_free(manifest.output, overwrite=False)
    elif owner not in (folder.job, heir.job):
        raise UsageError(
            f"the output {manifest.output} holds the answers of the job {owner} meanwhile:"
            " choose another --out, or give --overwrite"
        )
    summary = None if owner is None else _read_summary(heir)
    if summary is not None:
        return Finished(replace(summary, output=manifest.output), collected=False)
    if is_answered(folder, manifest) and is_answered(heir, of_heir):
        return Finished(collect_job(heir, of_heir, manifest.output), collected=True)
    return None


def find_heir(folder: JobFolder, manifest: JobManifest) -> tuple[JobFolder, JobManifest]:
    """Return the job that stands in for this one: the last finished retry for the same output."""
    job = find_child(folder.store, folder.job)
    if job is not None:
        child = JobFolder(folder.store, job)
        retried = child.read_manifest()
        if retried is not None and retried.output == manifest.output and child.read_state() in DONE:
            return find_heir(child, retried)
    return folder, manifest


def _read_summary(folder: JobFolder) -> Summary | None:
    raw = folder.store.read(f"{folder.job}/summary.json")
    try:
        return None if raw is None else msgspec.json.decode(raw, type=Summary)
    except (msgspec.DecodeError, RecursionError):
        return None
