"""Orphaned files: pictures in the storage folder that no row refers to, and none ever will.

A worker that died between writing a file and its row leaves one. But for a moment the file of a
living worker looks the same. A living worker claims the generation before it writes the file, and
holds the claim until the row refers to the file. So a file without a row is an orphan once every
claim that was held when the file was seen has been released.
"""

from __future__ import annotations

from banatie.store.database import Database
from banatie.store.files import Files
from banatie.store.images import Images

Claim = tuple[str, str, int]
"""The generation's id, the worker's id, and which attempt it is."""


class OrphanFiles:
    """The files that one worker suspects to be orphans."""

    def __init__(self, database: Database, files: Files) -> None:
        self._database = database
        self._files = files
        self._suspects: set[str] = set()
        self._claims: set[Claim] = set()

    def scan(self) -> None:
        """Note the files that no row refers to, and the claims that are held now."""
        # In this order: a picture finished in between has its row by the last step, and the file of
        # one begun in between is not in the list.
        files = self._files.generated()
        self._claims |= self._current_claims()
        self._suspects |= files - Images(self._database).storage_keys()

    def delete_orphans(self) -> int:
        """Delete the noted files that are certain to be orphans; how many there were.

        Deletes nothing while a claim that was held during a scan is still held.
        """
        if not self._suspects:
            return 0
        self._claims &= self._current_claims()
        if self._claims:
            return 0
        orphans = self._suspects - Images(self._database).storage_keys()
        for storage_key in orphans:
            self._files.remove(storage_key)
        self._suspects = set()
        return len(orphans)

    def _current_claims(self) -> set[Claim]:
        rows = self._database.query(
            "SELECT id, claimed_by, retry_count FROM generations WHERE claimed_by IS NOT NULL"
        )
        return {(row["id"], row["claimed_by"], row["retry_count"]) for row in rows}
