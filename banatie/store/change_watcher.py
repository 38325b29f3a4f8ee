"""Watching the database for changes that any process has made, in one thread.

It polls SQLite's `data_version`, which takes a few microseconds, and reads rows only after that has
changed and while a client is waiting. So its cost does not depend on the number of clients.
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

POLL_SECONDS = 0.005
RETRY_SECONDS = 1.0


class ChangeWatcher:
    """Calls `on_change` with changed generations while `wanted`, and `on_keys` for changed keys."""

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
        self._initial_keys = self._keys.state()

    def start(self) -> None:
        """Start the thread; it reports changes made since this object was created."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread and wait until it has ended."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        version, keys = -1, self._initial_keys
        while not self._stop.wait(POLL_SECONDS):
            try:
                version, keys = self._poll(version, keys)
            except BanatieError as error:
                # Watching goes on after a passing trouble such as a full disk: clients wait for it.
                logger.warning("cannot watch the database: %s", error)
                self._stop.wait(RETRY_SECONDS)
        self._database.close()

    def _poll(self, version: int, keys: tuple[object, ...]) -> tuple[int, tuple[object, ...]]:
        current = self._database.data_version()
        if current == version:
            return version, keys
        current_keys = self._keys.state()
        if current_keys != keys:
            self._on_keys()
        # `latest` is read before `wanted` is asked: a client that begins to wait after that reads
        # its row later than `latest`, and so misses nothing.
        latest = self._generations.latest_revision()
        if self._wanted() and latest > self._revision:
            self._on_change(self._generations.changed_since(self._revision))
        self._revision = latest
        return current, current_keys
