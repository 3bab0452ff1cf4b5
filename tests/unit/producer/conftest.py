"""A fixed profile for property tests."""

from hypothesis import HealthCheck, settings

# The same cases in every run: a test that fails here fails everywhere.
settings.register_profile(
    "spanmill",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("spanmill")
