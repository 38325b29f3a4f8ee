"""Watching the database: one thread that sees each change, whoever made it, and passes it on.

It looks at SQLite's `data_version`, which costs a few microseconds, and reads rows only when that
has moved and somebody waits; how many clients do makes no difference to it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from banatie.errors import BanatieError
from banatie.records import Generation
from banatie.store.database import Database
from banatie.store.generations import Generations
from banatie.store.keys import Keys

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 0.005
PAUSE_SECONDS = 1.0


class ChangeWatcher:
    """Calls `on_change` with what has changed while `wanted`, and `on_keys` when a key has."""

    def __init__(
        self,
        database: Database,
        wanted: Callable[[], bool],
        on_change: Callable[[list[Generation]], None],
        on_keys: Callable[[], None],
    ) -> None:
        self._database = database
        self._generations = Generations(database)
        self._keys = Keys(database)
        self._wanted = wanted
        self._on_change = on_change
        self._on_keys = on_keys
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="changes", daemon=True)
        self._revision = self._generations.latest_revision()
        self._keys_at_first = self._keys.state()

    def start(self) -> None:
        """Begin with the changes after this object was made."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        version, keys = -1, self._keys_at_first
        while not self._stop.wait(INTERVAL_SECONDS):
            try:
                version, keys = self._look(version, keys)
            except BanatieError as error:
                # A disk that is full for a while must not leave the waiting ones alone for ever.
                logger.warning("the database could not be watched: %s", error)
                self._stop.wait(PAUSE_SECONDS)
        self._database.close()

    def _look(self, version: int, keys: tuple[object, ...]) -> tuple[int, tuple[object, ...]]:
        current = self._database.data_version()
        if current == version:
            return version, keys
        current_keys = self._keys.state()
        if current_keys != keys:
            self._on_keys()
        # In this order: whoever begins to wait after `wanted` was asked, reads the row later than
        # `latest` was read.
        latest = self._generations.latest_revision()
        if self._wanted() and latest > self._revision:
            self._on_change(self._generations.changed_since(self._revision))
        self._revision = latest
        return current, current_keys
