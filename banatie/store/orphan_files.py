"""Orphaned files: pictures in the storage folder that no row refers to, and none ever will.

A process that died between writing a file and its row leaves one. But for a moment the file of a
living process looks the same. A process that writes a file holds a lock on it until the row is
committed (`files`), and the system releases the lock when the process ends. So a file that can be
locked, and then still has no row, is an orphan.
"""

from __future__ import annotations

from banatie.store.database import Database
from banatie.store.files import Files
from banatie.store.images import Images


def delete_orphans(database: Database, files: Files) -> int:
    """Delete the files that no row refers to, unless a process is writing them; how many."""
    deleted = 0
    for storage_key in orphans(database, files):
        with files.abandoned(storage_key) as is_abandoned:
            if is_abandoned and storage_key not in Images(database).storage_keys():
                files.remove(storage_key)
                deleted += 1
    return deleted


def orphans(database: Database, files: Files) -> list[str]:
    """The storage keys of the files that no row refers to; they may be about to get one."""
    # In this order: a file that is finished in between has its row by the second step.
    stored = files.stored()
    return sorted(stored - Images(database).storage_keys())
