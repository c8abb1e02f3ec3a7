"""The progress of a download on stderr, gone again when the download ends."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn


class DownloadBar:
    """What pooch expects of a progress bar. Nothing is shown before the first byte, nor where stderr is no terminal."""

    def __init__(self, name: str) -> None:
        self.total = 0  # bytes; pooch sets it from the server's answer
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(name, total=None)

    def update(self, more_bytes: int) -> None:
        """Moves the bar on."""
        self._progress.start()
        self._progress.update(self._task, advance=more_bytes, total=self.total or None)

    def reset(self) -> None:
        """Puts the bar back to zero bytes."""
        self._progress.update(self._task, completed=0)

    def close(self) -> None:
        """Takes the bar away; may be called twice."""
        self._progress.stop()
