"""What a process opens for a job, or a sentence that says why it cannot."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tiny import Tiny
from worker.contracts.bundle import load_bundle
from worker.contracts.errors import BundleError, JobError
from worker.contracts.options import ForwardPolicy, ReadingOptions
from worker.tools import JobTools, open_tools


@pytest.fixture
def recipe(tiny: Tiny, tmp_path: Path) -> JobTools:
    digest = load_bundle(tiny.bundle()).digest
    shutil.copytree(tiny.bundle(), tmp_path / "bundles" / digest)
    return JobTools(str(tmp_path), digest, ReadingOptions(0.0), ForwardPolicy(), "cpu")


def test_a_jobs_tools_are_its_bundle_and_its_provider(recipe: JobTools) -> None:
    tools = open_tools(recipe)
    assert (tools.bundle_digest, tools.provider) == (recipe.bundle, "cpu")


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_does_not_start_here_is_not_blamed_on_the_bundle(recipe: JobTools) -> None:
    with pytest.raises(JobError, match="'cuda', with which the job began, did not start here"):
        open_tools(replace(recipe, provider="cuda"))


def test_another_bundle_under_the_jobs_name_is_refused(recipe: JobTools, tiny: Tiny) -> None:
    folder = Path(recipe.jobs_root) / "bundles" / recipe.bundle
    shutil.rmtree(folder)
    shutil.copytree(tiny.bundle(mask=True), folder)
    with pytest.raises(BundleError, match="holds a bundle with the digest"):
        open_tools(recipe)
