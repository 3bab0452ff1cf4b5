"""Show what `spanmill answer` made of the examples: a table, the score, the numbers, the files.

Usage: python examples/show_answers.py ANSWERS
"""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
SHOWN_ROWS = 12


def main(answers: Path) -> None:
    """Print everything about one answers file of the examples."""
    questions = pq.read_table(HERE / "questions.parquet").to_pylist()
    rows = pq.read_table(answers).to_pylist()
    meta = json.loads(pq.read_schema(answers).metadata[b"spanmill"])
    console = Console(width=max(Console().width, 100))
    console.print(make_table(questions, rows))
    print_scores(console, answers)
    jobs = answers.parent / "spanmill-jobs" / meta["job"]
    print_numbers(console, json.loads((jobs / "summary.json").read_text()))
    console.print(f"answers  {answers}\nbooks    {jobs}/[b]summary.json, stats.parquet[/b]")


def make_table(questions: list[dict[str, str]], rows: list[dict[str, object]]) -> Table:
    """Return every so manyth row as a table."""
    table = Table(title="A dozen of the answers", header_style="bold", show_lines=False)
    table.add_column("question", ratio=6)
    table.add_column("answer", ratio=4)
    table.add_column("confidence", justify="right")
    table.add_column("where in the passage", justify="right")
    step = max(1, len(rows) // SHOWN_ROWS)
    for question, row in list(zip(questions, rows, strict=True))[::step][:SHOWN_ROWS]:
        answered = row["status"] == "answered"
        length = len(question["context"])
        table.add_row(
            question["question"],
            str(row["answer"]) if answered else f"[dim]{row['status']}[/dim]",
            "" if row["confidence"] is None else f"{row['confidence']:.0%}",
            f"{row['start_char']}-{row['end_char']} of {length}" if answered else "",
        )
    return table


def print_scores(console: Console, answers: Path) -> None:
    """Score the answers as a user would: with the command line."""
    gold = HERE / "questions.json"
    command = [Path(sys.executable).parent / "spanmill", "evaluate", answers, "--gold", gold]
    told = subprocess.run(  # noqa: S603  our own command
        [*map(str, command), "--json"], check=True, capture_output=True, text=True
    )
    scores = json.loads(told.stdout)
    console.print(
        f"score    exact {scores['exact']:.1f}, F1 {scores['f1']:.1f} of {scores['total']}"
        f" questions (answerable: F1 {scores['has_answer']['f1']:.1f};"
        f" unanswerable: {scores['no_answer']['f1']:.1f})"
    )


def print_numbers(console: Console, summary: dict[str, object]) -> None:
    """Print counts, speed and latency."""
    latency = summary["latency_ms"]
    console.print(
        f"rows     {summary['rows']}: {summary['answered']} answered,"
        f" {summary['unanswerable']} unanswerable, {summary['errors']} errors\n"
        f"speed    {summary['rows_per_second']} rows/s; latency of a row, with its batch:"
        f" p50 {latency['p50']:.0f} ms, p95 {latency['p95']:.0f} ms, p99 {latency['p99']:.0f} ms"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
