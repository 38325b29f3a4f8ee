"""The progress of a long download: a bar on a terminal, a line now and then elsewhere.

Drawn by tqdm. Knows bytes and seconds, and nothing of what is downloaded.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from typing import TextIO

from tqdm import tqdm

REDRAW_SECONDS = 0.1
REPORT_SECONDS = 0.25
"""Between two lines for a server."""
LINE_SECONDS = 30.0
"""Between two lines, where there is no terminal."""

_NUMBERS = "{n_fmt}B of {total_fmt}B, {rate_fmt}, {remaining} left"
_BAR_FORMAT = "{percentage:3.0f}% |{bar:24}| " + _NUMBERS + "  {desc}"
_LINE_FORMAT = "{percentage:.0f}%, " + _NUMBERS


class ProgressLines:
    """Writes a line of JSON now and then, for the server that has started this process."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._next = 0.0

    def message(self, line: str) -> None:
        """Print a line."""
        print(line, file=self._stream, flush=True)

    def update(self, name: str, done: int, total: int) -> None:
        """Tell that `done` of `total` bytes are downloaded, and that `name` is the current file."""
        now = self._clock()
        if now >= self._next or done == total:
            self._next = now + REPORT_SECONDS
            self.message(json.dumps({"file": name, "done": done, "total": total}))

    def close(self) -> None:
        """Nothing is left open."""


def end_with_standard_input() -> None:
    """End this process, from now on, as soon as its standard input is closed.

    What it installs is incomplete then, and is finished or deleted by the next installation.
    """

    def wait() -> None:
        # Not through sys.stdin, whose lock the interpreter would wait for at its end.
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


class _Bar(tqdm):
    # The thread that redraws a bar which is rarely updated; this one is updated all the time.
    monitor_interval = 0


class DownloadProgress:
    """Writes to `stream`; `clock` counts seconds."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._is_terminal = stream.isatty()
        self._bar: _Bar | None = None
        self._begin: tuple[float, int] | None = None
        self._last_line = clock()

    def message(self, line: str) -> None:
        """Print a line, above the bar if there is one."""
        _Bar.write(line, file=self._stream)

    def update(self, name: str, done: int, total: int) -> None:
        """Show that `done` of `total` bytes are downloaded, and that `name` is the current file."""
        if self._is_terminal:
            self._draw(name, done, total)
        else:
            self._print(name, done, total)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()

    def _draw(self, name: str, done: int, total: int) -> None:
        if self._bar is None:
            self._bar = _Bar(
                desc=name,
                total=total,
                initial=done,
                unit="B",
                unit_scale=True,
                bar_format=_BAR_FORMAT,
                file=self._stream,
                dynamic_ncols=True,
                leave=False,
                mininterval=REDRAW_SECONDS,
                # Look at the clock on every update: their sizes vary.
                miniters=0,
            )
        self._bar.set_description_str(name, refresh=False)
        self._bar.update(done - self._bar.n)

    def _print(self, name: str, done: int, total: int) -> None:
        now = self._clock()
        if self._begin is None:
            self._begin = (now, done)
        if now - self._last_line < LINE_SECONDS:
            return
        self._last_line = now
        started, initial = self._begin
        numbers = _Bar.format_meter(
            done,
            total,
            now - started,
            initial=initial,
            unit="B",
            unit_scale=True,
            bar_format=_LINE_FORMAT,
        )
        self.message(f"{numbers}: {name}")
