"""The watchdog: sends heartbeats to the supervisor, and ends a worker whose work hangs.

A driver that never returns hangs one thread, while the others go on. So each thread that does work
reports its progress here, and the process ends when one has reported none for too long. Its rows
are then released as those of a dead worker. A heartbeat needs neither the disk nor the database: it
is a byte on a pipe. Knows no stage and no model.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)

BEAT_SECONDS = 2.0
LOADING_BEAT, READY_BEAT = b"l", b"r"


class Activity:
    """What one thread does, and for how many heartbeats it has made no progress.

    Heartbeats are counted and not seconds: a process that was suspended has not hung.
    """

    def __init__(self, name: str, limit_seconds: float) -> None:
        self.name = name
        self.limit_seconds = limit_seconds
        self._beats: int | None = None

    @contextmanager
    def working(self) -> Iterator[None]:
        """While the thread works; `progress` is to be called in between."""
        self._beats = 0
        try:
            yield
        finally:
            self._beats = None

    def progress(self) -> None:
        """The thread has done a step of its work."""
        self._beats = 0

    def is_hung(self) -> bool:
        """Count one heartbeat; whether there has been no progress for too many."""
        if self._beats is None:
            return False
        self._beats += 1
        return self._beats * BEAT_SECONDS > self.limit_seconds


class Watchdog:
    """One thread that watches all activities of the process."""

    def __init__(self, pipe: int | None = None, end: Callable[[], object] | None = None) -> None:
        """`pipe` is the file descriptor for the heartbeats, `end` ends the process at once."""
        self._is_loaded = False
        self._pipe = pipe
        self._end = end or _end_process
        self._activities: list[Activity] = []
        if pipe is not None and os.name == "posix":
            # A supervisor that does not read must not hold this thread up.
            os.set_blocking(pipe, False)

    def watch(self, name: str, limit_seconds: float) -> Activity:
        """A new activity that counts as hung after so many seconds without progress."""
        activity = Activity(name, limit_seconds)
        self._activities = [*self._activities, activity]
        return activity

    def report_loaded(self) -> None:
        """The models are loaded: from now on the supervisor expects heartbeats."""
        self._is_loaded = True
        self._beat()

    def start(self, stop: threading.Event) -> None:
        """Watch in a thread of its own, until `stop` is set."""
        threading.Thread(target=self._run, args=(stop,), name="watchdog", daemon=True).start()

    def _run(self, stop: threading.Event) -> None:
        while not (hung := [each for each in self._activities if each.is_hung()]):
            self._beat()
            if stop.wait(BEAT_SECONDS):
                return
        logger.critical(
            "%s has made no progress for %g s; the worker ends and has to be restarted",
            *(hung[0].name, hung[0].limit_seconds),
        )
        self._end()

    def _beat(self) -> None:
        if self._pipe is None:
            return
        try:
            os.write(self._pipe, READY_BEAT if self._is_loaded else LOADING_BEAT)
        except BlockingIOError:
            pass
        except OSError:
            # The supervisor has died; standard input ends this process.
            self._pipe = None


def take_standard_output() -> int:
    """The file descriptor of standard output; what is printed goes to standard error from now."""
    pipe = os.dup(1)
    os.dup2(2, 1)
    return pipe


def _end_process() -> None:
    # Without clean-up: it would wait for the thread that hangs.
    logging.shutdown()
    os._exit(1)
