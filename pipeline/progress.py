"""What the command shows while it works: on standard error, so that standard output holds results only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


class Bar:
    """One running bar."""

    def __init__(self, progress: RichProgress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def advance(self, text: str = "") -> None:
        """One step further; `text` stands behind the bar."""
        self._progress.update(self._task, advance=1, text=text)


class Progress:
    """Bars and lines at a level: -1 quiet (warnings only), 0 normal, 1 with details."""

    def __init__(self, level: int = 0) -> None:
        self.level = level
        self._console: Console | None = None

    @property
    def console(self) -> Console:
        """Where messages go."""
        if self._console is None:
            from rich.console import Console

            self._console = Console(stderr=True, highlight=False)
        return self._console

    def say(self, text: str) -> None:
        """A line about what happens."""
        if self.level >= 0:
            self.console.print(text, markup=False, soft_wrap=True)

    def detail(self, text: str) -> None:
        """A line for those who asked for more."""
        if self.level >= 1:
            self.console.print(text, markup=False, soft_wrap=True, style="dim")

    def warn(self, text: str) -> None:
        """A line nobody should miss."""
        self.console.print(f"warning: {text}", markup=False, soft_wrap=True, style="yellow")

    @contextmanager
    def bar(self, title: str, total: int, done: int = 0) -> Iterator[Bar]:
        """A bar of `total` steps, shown in a terminal only."""
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        columns = (
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
        )
        hidden = self.level < 0 or not self.console.is_terminal
        with RichProgress(
            *columns, console=self.console, disable=hidden, transient=True
        ) as progress:
            yield Bar(progress, progress.add_task(title, total=total, completed=done, text=""))
