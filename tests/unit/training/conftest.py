"""A fixed profile for property tests, and one thread: tiny models are slower on several."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

# The same cases in every run: a test that fails here fails everywhere.
settings.register_profile(
    "training",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=30,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("training")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
