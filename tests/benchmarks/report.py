"""What every benchmark says beside its numbers: the machine, its load, the versions; as JSON."""

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from worker.settings import count_cores
from worker.telemetry import describe_machine, list_versions


def describe_conditions() -> dict[str, Any]:
    """Return what a number depends on; a load well above zero at the start spoils timings."""
    return {
        "cpu": describe_machine().cpu,
        "cores": count_cores(),
        "load_1m_before": round(os.getloadavg()[0], 2),
        "began_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": list_versions(),
    }


def write_report(report: Mapping[str, Any], path: Path) -> None:
    """Write a benchmark's JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def format_table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table; all columns but the first hold numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
