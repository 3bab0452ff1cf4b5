"""Progress on standard error: a bar with rows per second and time left, silent off a terminal."""

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

from worker.events import Event, Level
from worker.log import Log, LogFormat


class Progress:
    """A bar over a job's rows. What was done before this run does not count into the speed."""

    def __init__(self, rows: int, log: Log | None = None) -> None:
        """Show nothing yet; nothing at all off a terminal, or where the log is for programs."""
        self._log = Log() if log is None else log
        is_json = self._log.look is LogFormat.JSON
        self._console = Console(stderr=True)
        self._bar = RichProgress(
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("rows"),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[errors]}", style="red"),
            console=self._console,
            disable=is_json or sys.stderr is None or not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task("", total=rows, speed="", errors="")
        self._errors = 0

    def __enter__(self) -> "Progress":
        """Draw the bar."""
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the bar as it stands."""
        self._bar.stop()

    def skip(self, rows: int) -> None:
        """Count rows that an earlier run has done."""
        task = self._bar.tasks[0]
        self._bar.reset(self._task, completed=int(task.completed) + rows, start=True)

    def resize(self, rows: int) -> None:
        """Take another number of rows in all, learned since."""
        self._bar.update(self._task, total=rows)

    def advance(self, rows: int, errors: int) -> None:
        """Count rows that this run has done."""
        self._errors += errors
        speed = self._bar.tasks[0].speed
        self._bar.update(
            self._task,
            advance=rows,
            speed="" if speed is None else f"{speed:,.1f} rows/s",
            errors=f"{self._errors} errors" if self._errors else "",
        )

    def say(self, line: str, event: str = "notice", level: Level = Level.INFO) -> None:
        """Print a line above the bar, also where there is no terminal; or log the event."""
        if self._log.look is LogFormat.JSON:
            self._log.write(Event(event, level, line))
            return
        self._console.print(f"spanmill: {line}", highlight=False, markup=False, soft_wrap=True)
