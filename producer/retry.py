"""The child job that answers another job's error rows again."""

from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256

from producer.place import absolute
from producer.run import job_rows, read_error_rows
from producer.source import choose_measure
from worker.contracts.errors import JobError
from worker.contracts.folder import JobFolder
from worker.contracts.job import DONE, LONGEST_ID, JobManifest, choose_cut, cut_batches


def make_retry(parent: JobFolder, output: str | None) -> JobManifest | None:
    """Return the child's manifest, or None when there is nothing to retry.

    The same parent always has the same child, so that the same command again resumes.

    Raises:
        JobError: the parent is not finished, or its inputs have changed.
    """
    manifest = parent.need_manifest()
    if parent.read_state() not in DONE:
        raise JobError(
            f"the job {parent.job} is not finished: let it finish, then retry its errors"
        )
    rows = len(read_error_rows(parent.store, parent.job))
    if not rows:
        return None
    cut = choose_cut(rows, None)
    child = replace(
        manifest,
        job=name_retry(parent.job),
        parent=parent.job,
        created_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        rows=rows,
        cut=cut,
        output=manifest.output if output is None else absolute(output),
        max_error_ratio=None,
    )
    measure = choose_measure(child.version)
    sizes = (size for chunk in job_rows(child, parent.store) for size in measure(chunk))
    return replace(child, batches=sum(1 for _ in cut_batches(sizes, cut)))


def name_retry(parent: str) -> str:
    """Return the id of the job that retries another's errors: another one for each other job."""
    name = f"{parent}-retry"
    if len(name) <= LONGEST_ID:
        return name
    digest = sha256(parent.encode()).hexdigest()[:10]
    return f"{parent[: LONGEST_ID - 17]}-{digest}-retry"
