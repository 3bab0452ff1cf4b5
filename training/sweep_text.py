"""A sweep's table, as Markdown."""

from collections.abc import Sequence

from training.grid import shorten
from training.sweep import Outcome, Result

_SCORES = ("held-out exact", "held-out F1", "answerable F1", "loss")
_ABSENT = "–"


def to_markdown(outcomes: Sequence[Outcome]) -> str:
    """Return a row a combination, the best F1 bold; why one failed stands in its row."""
    keys = list(outcomes[0].values)
    failed = any(one.error is not None for one in outcomes)
    short = shorten(keys)
    titles = [*(short[key] for key in keys), *_SCORES, "seconds", *["failed"] * failed]
    numbers = len(_SCORES) + 1
    rules = ["---"] * len(keys) + ["---:"] * numbers + ["---"] * failed
    best = max((one.result.f1 for one in outcomes if one.result is not None), default=None)
    rows = [_list_cells(one, best, failed=failed) for one in outcomes]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (titles, rules, *rows)) + "\n"


def _list_cells(outcome: Outcome, best: float | None, *, failed: bool) -> list[str]:
    cells = [*outcome.values.values(), *_list_scores(outcome.result, best)]
    cells.append(f"{outcome.seconds:.0f}")
    if failed:
        cells.append("" if outcome.error is None else outcome.error)
    return [" ".join(cell.replace("|", "\\|").split()) for cell in cells]


def _list_scores(result: Result | None, best: float | None) -> list[str]:
    if result is None:
        return [_ABSENT] * len(_SCORES)
    f1 = f"{result.f1:.2f}"
    return [
        f"{result.exact:.2f}",
        f"**{f1}**" if result.f1 == best else f1,
        f"{result.answerable_f1:.2f}",
        f"{result.loss:.3f}",
    ]
