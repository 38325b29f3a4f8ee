"""What pictures look like while they are painted: one small JPEG for each that is in hand.

A table of its own, so that nobody who reads generations reads these; `claims` writes them with the
step they show, and triggers (`database`) remove them when the row is given back, ended or deleted.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from banatie.store.database import Database


@dataclass(frozen=True)
class Preview:
    """What a picture looks like after so many steps."""

    step: int
    jpeg: bytes


class Previews:
    """The previews in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, generation_id: str) -> Preview | None:
        """The latest of a generation that is being painted, if there is one."""
        row = self._database.first(
            "SELECT step, jpeg FROM previews WHERE generation_id = ?", (generation_id,)
        )
        return Preview(row["step"], row["jpeg"]) if row else None


def write_preview(
    connection: sqlite3.Connection, generation_id: str, step: int, jpeg: bytes
) -> None:
    """Put it in the place of the one before."""
    connection.execute(
        "INSERT OR REPLACE INTO previews VALUES (?, ?, ?)", (generation_id, step, jpeg)
    )
