"""What a training shows of itself on stderr: a bar on a terminal, else a line now and then."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Shown:
    """The phases of a run, one bar each, with the time left.

    with Shown() as shown:
        shown.begin("imitation", 1000)
        shown.done(10)
    """

    def __init__(self, bar: bool | None = None, quiet: bool = False) -> None:
        """bar: whether there is one; None: on a terminal. Jobs that share a terminal have none. quiet: only what is to
        stay is shown."""
        bar, self._quiet = (False if quiet else bar), quiet
        self._console = Console(stderr=True, soft_wrap=True, highlight=False)
        self._has_bar = self._console.is_terminal if bar is None else bar
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._progress = Progress(*columns, console=self._console, transient=True, disable=not self._has_bar)
        self._task = self._progress.add_task("", visible=False, note="")

    def __enter__(self) -> Shown:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begin(self, what: str, total: int, done: int = 0) -> None:
        """A phase of `total` pieces of work begins, of which some may be done already."""
        self._progress.reset(self._task, description=what, total=total, completed=done, visible=True)

    def done(self, pieces: int = 1) -> None:
        """So many more are done."""
        self._progress.advance(self._task, pieces)

    def note(self, text: str) -> None:
        """The last result, behind the bar; where there is none, a line of its own."""
        if self._has_bar:
            self._progress.update(self._task, note=escape(text))
        elif not self._quiet:
            self.say(text)

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(escape(text))
