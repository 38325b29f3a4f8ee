"""How far a long fetch is: a bar on a terminal, a line now and then elsewhere.

Knows bytes and seconds; what is fetched is told to it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import TextIO

import click

WIDTH = 24
REDRAW_SECONDS = 0.1
LINE_SECONDS = 30.0
"""Between two lines, where nobody watches."""


class Bar:
    """Draws on `stream`; `clock` counts seconds."""

    def __init__(self, stream: TextIO, clock: Callable[[], float]) -> None:
        self._stream = stream
        self._clock = clock
        self._is_terminal = stream.isatty()
        self._began: tuple[float, int] | None = None
        self._drawn = clock()
        self._shown = False

    def say(self, line: str) -> None:
        """Print a line, above the bar if there is one."""
        self._clear()
        click.echo(line, file=self._stream)

    def tell(self, name: str, done: int, total: int) -> None:
        """Show that `done` of `total` bytes are here, and that `name` is being fetched."""
        now = self._clock()
        if self._began is None:
            self._began = (now, done)
        if now - self._drawn < (REDRAW_SECONDS if self._is_terminal else LINE_SECONDS):
            return
        self._drawn = now
        seconds, came = now - self._began[0], done - self._began[1]
        rate = came / seconds if seconds > 0 else 0.0
        share = done / total if total else 1.0
        parts = [f"{share:4.0%}", f"{done / 1e9:.2f} of {total / 1e9:.2f} GB"]
        # The first moment tells nothing.
        if rate > 0 and seconds >= 1:
            parts += [f"{rate / 1e6:.1f} MB/s", f"{_duration((total - done) / rate)} left"]
        if not self._is_terminal:
            click.echo(f"{', '.join(parts).strip()}: {name}", file=self._stream)
            return
        full = round(WIDTH * min(share, 1.0))
        line = f"[{'#' * full}{'.' * (WIDTH - full)}] {'  '.join(parts)}  {name}"
        room = shutil.get_terminal_size().columns - 1
        click.echo(f"\r{line[:room]:<{room}}", nl=False, file=self._stream)
        self._shown = True

    def close(self) -> None:
        """Take the bar away."""
        self._clear()

    def _clear(self) -> None:
        if self._shown:
            room = shutil.get_terminal_size().columns - 1
            click.echo(f"\r{'':<{room}}\r", nl=False, file=self._stream)
            self._shown = False


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
