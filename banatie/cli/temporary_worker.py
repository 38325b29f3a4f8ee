"""A worker for a command that needs one: started while nobody is at work, stopped at the end.

The worker that a command found may go away while the command waits, and two commands may start one
at the same moment, of which only one stays. So whoever waits calls `ensure` again and again. What
the worker does is unknown here.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from banatie.errors import ModelError

STOP_SECONDS = 6.0
"""How long a worker may take to stop before it is killed."""
MAX_REFUSALS = 2
"""So many workers in a row may end by an error while nobody else is at work."""
_ERROR_MARKS = ("banatie: ", " ERROR ", " CRITICAL ")


class TemporaryWorker:
    """Runs `command` as a worker on the folder `data` while no other worker is alive there."""

    def __init__(
        self, command: Sequence[str], data: Path, *, max_crashes: int, show_log: bool
    ) -> None:
        """A worker that crashes, as a picture may make it do, is replaced `max_crashes` times.

        Its log goes to standard error with `show_log`, and else nowhere.
        """
        self._command = command
        self._data = data
        self._max_crashes = max_crashes
        self._shows_log = show_log
        self._log: IO[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._refusals = 0
        self._crashes = 0

    def __enter__(self) -> TemporaryWorker:
        if not self._shows_log:
            self._log = tempfile.TemporaryFile()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()
        if self._log is not None:
            self._log.close()

    def ensure(self) -> None:
        """Start a worker if nobody is at work. Raises ModelError when none stays."""
        from banatie.store.locks import live_workers

        if self._process is not None:
            status = self._process.poll()
            if status is None:
                return
            self._process = None
            if status < 0:
                self._crashes += 1
            elif status > 0:
                self._refusals += 1
        if live_workers(self._data):
            # Such as that of another command, which was a moment faster.
            self._refusals = 0
            return
        if self._refusals >= MAX_REFUSALS or self._crashes > self._max_crashes:
            raise ModelError(f"No worker keeps running: {self.reason or 'it ended by itself'}")
        self._process = subprocess.Popen([*self._command], stdin=subprocess.PIPE, stderr=self._log)

    @property
    def reason(self) -> str:
        """The last error in the worker's log; empty if there is none, or the log was shown."""
        if self._log is None:
            return ""
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").splitlines()
        for line in reversed(lines):
            for mark in _ERROR_MARKS:
                before, found, message = line.partition(mark)
                if found and (mark != "banatie: " or not before):
                    # A log line goes on with the logger's name.
                    return message if mark == "banatie: " else message.partition(": ")[2]
        return ""

    def _stop(self) -> None:
        """Ask the worker to stop by closing its standard input; kill it after STOP_SECONDS."""
        if self._process is None:
            return
        if self._process.stdin is not None:
            # It may have ended just now.
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
