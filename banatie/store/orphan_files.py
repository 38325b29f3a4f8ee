"""Files that no row knows and none ever will, found while workers write others.

A dead worker may have written a file and not its row, and so has a living one for a moment: the two
look alike. But a living one holds the picture's row before there is a file, and until its row knows
it. So once nobody holds a row any more that was held when the files were looked at, those among
them that no row knows are strays.
"""

from __future__ import annotations

from banatie.store.database import Database
from banatie.store.files import Files
from banatie.store.images import Images


class OrphanFiles:
    """What one worker knows of them."""

    def __init__(self, database: Database, files: Files) -> None:
        self._database = database
        self._files = files
        self._suspects: set[str] = set()
        self._held: set[tuple[str, str, int]] = set()

    def look(self) -> None:
        """Take note of the files that no row knows, and of the rows that are held."""
        # In this order: what is finished in between is known, what is begun is not noted.
        files = self._files.generated()
        self._held |= self._held_now()
        self._suspects |= files - Images(self._database).storage_keys()

    def sweep(self) -> int:
        """Delete those of the noted files that are strays for certain; how many there were."""
        if not self._suspects:
            return 0
        self._held &= self._held_now()
        if self._held:
            return 0
        strays = self._suspects - Images(self._database).storage_keys()
        for storage_key in strays:
            self._files.remove(storage_key)
        self._suspects = set()
        return len(strays)

    def _held_now(self) -> set[tuple[str, str, int]]:
        rows = self._database.query(
            "SELECT id, claimed_by, retry_count FROM generations WHERE claimed_by IS NOT NULL"
        )
        return {tuple(row) for row in rows}
