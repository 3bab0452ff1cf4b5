"""A run as one HTML page that needs nothing else: no script, no network, for day and for night."""

import importlib.resources
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from training.html import Markup, code, element, pictures, put, table, tiles, unfold
from training.quantize import ALLOWED_LOSS
from training.run_view import RunSeen, StepSeen
from worker.contracts.bundle import BundleManifest

#: What the pictures of a step are called, with their captions.
CURVES = {
    "loss": "Loss by step: means of neighbouring steps, and where four of five of them lie.",
    "f1": "F1 on held-out rows at each checkpoint. The best one, by the held-out score, is kept:"
    " the mean of both.",
    "rate": "Learning rate by step.",
}
CALIBRATION = {
    "threshold-sweep": "F1 by the threshold on null odds, above which a row is called unanswerable."
    " The line is the bundle's threshold, which held-out rows gave; the other sets had no say.",
    "reliability": "Confidence against the share that is right, in 15 bins; a dot's area tells how"
    " many rows. Held-out rows are judged by fits on other passages of theirs.",
    "risk-coverage": "Of the rows with the highest confidence: the share that is wrong.",
}
_KINDS = {"finetune": "fine-tuning", "distill": "distillation", "average": "mean of weights"}


def render(seen: RunSeen, plots: Path) -> str:
    """Return the page of a run whose pictures lie in a folder."""
    css = importlib.resources.files("training").joinpath("page.css").read_text(encoding="utf-8")
    title = put(f"{seen.name}: a run of spanmill training")
    body = "\n".join(put(part) for part in _list_parts(seen, plots))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>\n{css}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _list_parts(seen: RunSeen, plots: Path) -> Iterator[Markup]:
    bundle = seen.bundle
    yield _head(seen)
    yield tiles(_list_facts(seen))
    if seen.recipe is not None:
        yield _tell_steps(seen)
    for step in seen.steps:
        shown = [
            (plots / f"{step.name}-{name}.svg", caption)
            for name, caption in (CURVES | CALIBRATION).items()
            if (plots / f"{step.name}-{name}.svg").is_file()
        ]
        if step.taken and (step.history is not None or shown):
            yield _title(step)
            yield element("p", *_describe_history(step), css="faint")
            yield pictures(shown)
    if bundle is not None and bundle.card:
        yield from _tell_card(bundle)
    yield from _tell_data(seen)
    yield from _tell_making(seen)


def _head(seen: RunSeen) -> Markup:
    words = [] if seen.recipe is None else [element("p", seen.recipe.card.summary)]
    state = "finished" if seen.finished else _describe_state(seen)
    parts = [state, *(f"revision {one.revision[:12]}" for one in seen.revisions[-1:])]
    written = f"page of {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    line = element("p", " · ".join([*parts, written]), css="faint")
    return element("header", element("h1", seen.name), *words, line)


def _describe_state(seen: RunSeen) -> str:
    under_way = [step for step in seen.steps if step.taken and step.done is None]
    now = under_way[0]
    if now.history is None:
        return f"not finished: {now.name} comes next"
    return f"step {now.history.steps[-1]:,} of {now.history.steps_in_all:,} in {now.name}"


def _list_facts(seen: RunSeen) -> Iterator[tuple[str, str]]:
    """Yield what matters most: of the bundle, or of the training that is on its way."""
    bundle = seen.bundle
    if bundle is None or not bundle.card:
        for step in seen.steps:
            if step.history is not None and step.history.best is not None:
                best = step.history.best
                yield (
                    f"{best.best_f1:.1f}",
                    f"held-out F1 of {step.name}'s best checkpoint, at step {best.step:,}",
                )
        return
    card = bundle.card
    for score in card["scores"]:
        if score["setting"] in ("always answering", "stored threshold"):
            f1 = score["f1"]
            yield (
                f"{f1['value']:.1f}",
                f"F1 on {score['data']}, {score['setting']} ({f1['low']:.1f} to {f1['high']:.1f})",
            )
    yield f"{_measure(bundle):.1f} MB", bundle.quantization.split(",")[0]
    yield (
        f"{card['speed']['window_170_tokens_ms']:.1f} ms",
        f"a window of 170 tokens, one thread of {card['speed']['cpu']}",
    )


def _measure(bundle: BundleManifest) -> float:
    return sum(one.size_bytes for one in bundle.files.values()) / 1e6


def _tell_steps(seen: RunSeen) -> Markup:
    rows = []
    for step in seen.steps:
        best = None if step.history is None else step.history.best
        rows.append(
            (
                step.name,
                _KINDS.get(step.kind, step.kind),
                step.start,
                _say_how_far(step),
                "" if best is None else f"{best.best_f1:.1f}",
                code("" if step.done is None else step.done.sha256[:12]),
            )
        )
    head = ("step", "kind", "from", "state", "held-out F1, best checkpoint", "weights or bundle")
    return Markup(element("h2", "Steps") + table(head, rows))


def _say_how_far(step: StepSeen) -> str:
    if not step.taken:
        return "left out: nothing stands on it"
    if step.done is not None:
        return "finished"
    return "to come" if step.history is None else "on its way"


def _title(step: StepSeen) -> Markup:
    kind = "calibration" if step.kind == "bundle" else _KINDS.get(step.kind, step.kind)
    start = f" from {step.start}" if step.start else ""
    return element("h2", step.name, element("small", f"{kind}{start}"))


def _describe_history(step: StepSeen) -> Iterator[str]:
    history = step.history
    if history is None:
        return
    yield f"{history.steps[-1]:,} of {history.steps_in_all:,} steps, epoch {history.epoch}"
    yield f", {float(sorted(history.windows_per_second)[len(history.steps) // 2]):.0f} windows a"
    yield " second (median)"
    if history.best is not None:
        best = history.best
        yield f"; best checkpoint at step {best.step:,}, by {best.rows} held-out rows"
    yield "."


def _tell_card(bundle: BundleManifest) -> Iterator[Markup]:
    card = bundle.card
    yield element("h2", "Scores", element("small", "with 95 % intervals over passages"))
    yield table(
        ("set", "setting", "rows", "threshold", "exact", "F1"),
        [
            (
                one["data"], one["setting"], f"{one['rows']:,}",
                "" if one["threshold"] is None else f"{one['threshold']:.3f}",
                _interval(one["exact"]), _interval(one["f1"]),
            )
            for one in card["scores"]
        ],
        numbers=4,
    )  # fmt: skip
    yield element("h2", "Gates, size and speed")
    yield table(("what", "found"), _list_gates(bundle))
    if card["limits"]:
        yield element("h2", "Limits")
        yield element("ul", *(element("li", one) for one in card["limits"]))


def _list_gates(bundle: BundleManifest) -> list[tuple[str, object]]:
    card = bundle.card
    gate, graph, speed = card["quantization"], card["graph"], card["speed"]
    full = speed["window_384_tokens_ms"]
    lost = gate["fp32_f1"] - gate["int8_f1"]
    return [
        ("largest difference of a logit, torch and graph", f"{graph['fp32_difference']:.1e}"),
        (
            "held-out F1, fp32 and int8",
            f"{gate['fp32_f1']:.2f} and {gate['int8_f1']:.2f}: {lost:.2f} lost, {ALLOWED_LOSS}"
            " allowed",
        ),
        ("quantization", bundle.quantization),
        ("graph, whole bundle", f"{graph['graph_bytes'] / 1e6:.1f} MB, {_measure(bundle):.1f} MB"),
        (
            "a window of 170 tokens, of 384",
            f"{speed['window_170_tokens_ms']:.1f} ms,"
            f" {'no window so long' if full is None else f'{full:.1f} ms'}"
            f" (median, one thread of {speed['cpu']})",
        ),
        (
            "expected calibration error on held-out rows",
            f"{card['calibration']['expected_error']:.3f}",
        ),
        *((f"the same on {name}", f"{one['expected_error']:.3f}")
          for name, one in card.get("honesty", {}).items()),
    ]  # fmt: skip


def _tell_data(seen: RunSeen) -> Iterator[Markup]:
    bundle = seen.bundle
    told: list[tuple[str, str, str, str]] = []
    if bundle is not None and bundle.card:
        told = [(one["name"], one["used_for"], one["licence"], one["sha256"])
                for one in bundle.card["data"]]  # fmt: skip
    elif seen.recipe is not None and seen.files is not None:
        used = {f"report {name}": one.licence for name, one in seen.recipe.reports.items()}
        licences = {name: one.licence for name, one in seen.recipe.data.items()} | used
        told = [
            (name, "scores only" if name in used else "", licences[name], sha256)
            for name, sha256 in seen.files.items()
            if name in licences
        ]
    if told:
        yield element("h2", "Data")
        yield table(
            ("file", "used for", "licence", "SHA-256"),
            [(name, used, licence, code(sha256[:12])) for name, used, licence, sha256 in told],
        )


def _tell_making(seen: RunSeen) -> Iterator[Markup]:
    bundle = seen.bundle
    if seen.recipe is None and bundle is None:
        return
    yield element("h2", "How to make it again")
    rows: list[tuple[str, object]] = [
        (f"revision, from {one.since}", code(one.revision)) for one in seen.revisions
    ]
    if bundle is not None:
        rows += _list_origin(bundle)
    digest = next((step.digest for step in seen.steps if step.digest is not None), None)
    if digest is not None:
        rows.append(("digest of the bundle", code(digest)))
    if rows:
        yield table(("what", ""), rows)
    if seen.text:
        yield unfold("the recipe", element("pre", seen.text))


def _list_origin(bundle: BundleManifest) -> list[tuple[str, object]]:
    origin: dict[str, Any] = bundle.card.get("origin", {})
    rows: list[tuple[str, object]] = []
    if origin.get("encoder"):
        encoder = origin["encoder"]
        rows.append(("encoder", f"{encoder['name']} ({encoder['licence']})"))
    for name in ("encoder_sha256", "checkpoint_sha256"):
        if origin.get(name):
            rows.append((f"{name.partition('_')[0]}'s weights", code(origin[name])))
    if "git_revision" in origin:
        rows.append(("revision that made the bundle", code(origin["git_revision"])))
    if "held_out" in origin:
        rows.append(("held out", origin["held_out"]))
    rows += [("set anew", code(one)) for one in origin.get("settings", ())]
    seeds = origin.get("seeds", {})
    rows.append(("seeds", ", ".join(f"{name} {seed}" for name, seed in seeds.items())))
    rows.append(("licence", bundle.licence))
    versions = ", ".join(f"{name} {value}" for name, value in bundle.versions.items())
    return [*rows, ("versions", versions)]


def _interval(told: dict[str, float]) -> str:
    return f"{told['value']:.1f} ({told['low']:.1f} to {told['high']:.1f})"
