"""Previews: a small JPEG of each picture that is being painted.

They have a table of their own, so that reading generations does not read them. `claims` writes a
preview with the step that it shows. Triggers (`migrations`) delete it when the generation is
released, ended or deleted.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from banatie.store.database import Database


@dataclass(frozen=True)
class Preview:
    """What a picture looks like after `step` denoising steps."""

    step: int
    jpeg: bytes


class Previews:
    """The previews in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, generation_id: str) -> Preview | None:
        """The latest preview of a generation that is being painted, if there is one."""
        row = self._database.first(
            "SELECT step, jpeg FROM previews WHERE generation_id = ?", (generation_id,)
        )
        return Preview(row["step"], row["jpeg"]) if row else None


def write_preview(
    connection: sqlite3.Connection, generation_id: str, step: int, jpeg: bytes
) -> None:
    """Store the preview in place of the previous one."""
    connection.execute(
        "INSERT OR REPLACE INTO previews VALUES (?, ?, ?)", (generation_id, step, jpeg)
    )
