"""Scrapes metrics as Prometheus does, and reads logs as a collector does."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.request import urlopen

from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Scraped:
    """What one scrape gave: each sample by its name and labels."""

    samples: dict[tuple[str, Labels], float]
    counters: frozenset[tuple[str, Labels]]

    def __call__(self, name: str, **labels: str) -> float:
        return self.samples[f"spanmill_{name}", frozenset(labels.items())]

    def labels(self, name: str) -> list[dict[str, str]]:
        """Return the labels of all samples of a name."""
        return [dict(labels) for one, labels in self.samples if one == f"spanmill_{name}"]


def scrape(port: int) -> Scraped:
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as reply:
        return parse(reply.read().decode())


def parse(text: str) -> Scraped:
    samples: dict[tuple[str, Labels], float] = {}
    counters = set()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            samples[key] = sample.value
            if family.type in ("counter", "histogram"):
                counters.add(key)
    return Scraped(samples, frozenset(counters))


def read_events(lines: Iterable[str], name: str | None = None) -> list[dict[str, Any]]:
    """Return the events of a log in JSON; every line has to be one."""
    events = [json.loads(line) for line in lines]
    return [event for event in events if name in (None, event["event"])]
