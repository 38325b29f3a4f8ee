"""Watching the generations: one thread that sees each change, whoever made it, and passes it on.

It looks at SQLite's `data_version`, which costs a few microseconds, and reads rows only when that
has moved; how many clients wait for a change makes no difference to it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from banatie.records import Generation
from banatie.store.database import Database
from banatie.store.generations import Generations

INTERVAL_SECONDS = 0.005


class Changes:
    """Calls `on_commit` after each change of the file, `on_change` with the changed generations."""

    def __init__(
        self,
        database: Database,
        on_change: Callable[[list[Generation]], None],
        on_commit: Callable[[], None],
    ) -> None:
        self._database = database
        self._generations = Generations(database)
        self._on_change = on_change
        self._on_commit = on_commit
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="changes", daemon=True)
        self._revision = self._generations.latest_revision()

    def start(self) -> None:
        """Begin with the changes after this object was made."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        version = -1
        while not self._stop.wait(INTERVAL_SECONDS):
            current = self._database.data_version()
            if current == version:
                continue
            version = current
            self._on_commit()
            changed = self._generations.changed_since(self._revision)
            if changed:
                self._revision = changed[-1].revision
                self._on_change(changed)
        self._database.close()
