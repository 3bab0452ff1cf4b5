"""A comparison as Markdown."""

from collections.abc import Sequence

from training.compare import Comparison, System
from training.evaluate import Estimate
from training.slices import Slice

_HEAD = (
    "system", "parameters", "layers", "MB", "exact", "F1", "HasAns exact", "HasAns F1", "NoAns",
    "BERTScore", "p50 ms", "p95 ms", "speed-up", "F1 per ms", "exact, difference", "F1, difference",
)  # fmt: skip
#: What only some comparisons have: without any value the column is left out.
_OPTIONAL = ("HasAns exact", "HasAns F1", "NoAns", "BERTScore")
_NOTHING = "–"


def to_markdown(comparison: Comparison) -> str:
    """Return the table, what it was made on, and the breakdown."""
    parts = [
        _describe(comparison),
        _table(_drop_empty([_HEAD, *(_cells(comparison, one) for one in comparison.systems)])),
        "Brackets: 95 % intervals over passages. Differences are to the first bundle, in points.",
    ]
    for by in dict.fromkeys(one.by for one in comparison.slices):
        parts.append(f"## F1 (exact) by {by}")
        parts.append(_break_down([one for one in comparison.slices if one.by == by]))
    return "\n\n".join(parts) + "\n"


def _describe(comparison: Comparison) -> str:
    return (
        f"{comparison.questions} questions ({comparison.unanswerable} unanswerable) on"
        f" {comparison.passages} passages of {comparison.data}, compared as the language"
        f" {comparison.language!r}; times of {comparison.timed_questions} questions on one thread,"
        f" one window a run, of {comparison.cpu}."
    )


def _cells(comparison: Comparison, system: System) -> tuple[str, ...]:
    halves = comparison.unanswerable > 0
    return (
        system.name,
        _NOTHING if system.parameters is None else f"{system.parameters / 1e6:.2f} M",
        _NOTHING if system.layers is None else str(system.layers),
        _number(system.size_mb, 1),
        _interval(system.exact),
        _interval(system.f1),
        _number(system.has_answer_exact if halves else None, 1),
        _number(system.has_answer_f1 if halves else None, 1),
        _number(system.no_answer_f1 if halves else None, 1),
        _number(system.bert_score, 1),
        f"{system.p50_ms:.3g}",
        f"{system.p95_ms:.3g}",
        f"{system.speed_up:.3g}",
        f"{system.f1_per_ms:.3g}",
        _NOTHING if system.exact_difference is None else _interval(system.exact_difference, "+"),
        _NOTHING if system.f1_difference is None else _interval(system.f1_difference, "+"),
    )


def _break_down(slices: Sequence[Slice]) -> str:
    names = [cell.system for cell in slices[0].cells]
    lines = [
        (
            one.value,
            str(one.questions),
            *(f"{cell.f1:.1f} ({cell.exact:.1f})" for cell in one.cells),
        )
        for one in slices
    ]
    return _table([(slices[0].by, "questions", *names), *lines])


def _interval(one: Estimate, sign: str = "") -> str:
    return f"{one.value:{sign}.1f} [{one.low:{sign}.1f}, {one.high:{sign}.1f}]"


def _number(value: float | None, digits: int) -> str:
    return _NOTHING if value is None else f"{value:.{digits}f}"


def _drop_empty(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    kept = [
        at
        for at, name in enumerate(rows[0])
        if name not in _OPTIONAL or any(row[at] != _NOTHING for row in rows[1:])
    ]
    return [[row[at] for at in kept] for row in rows]


def _table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows, the head first; numbers to the right."""
    head, *body = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *body))
