"""The images' rows: which picture lies under which storage key.

The bytes are in `files`; an image is made and deleted together with its generation, in the
transaction that `generations` holds, so the functions here take that transaction's connection.
"""

from __future__ import annotations

import sqlite3

from banatie.records import Image
from banatie.store.database import Database

COLUMNS = (
    "id",
    "project_id",
    "storage_key",
    "mime_type",
    "width",
    "height",
    "file_size",
    "created_at",
)


class Images:
    """The images in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[Image]:
        """All images."""
        rows = self._database.query(f"SELECT {', '.join(COLUMNS)} FROM images")
        return [Image(*row) for row in rows]

    def storage_keys(self) -> set[str]:
        """The storage keys of all images: what may lie in the storage folder."""
        return {row[0] for row in self._database.query("SELECT storage_key FROM images")}


def insert_image(connection: sqlite3.Connection, image: Image) -> None:
    """Add the image's row."""
    connection.execute(
        f"INSERT INTO images ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})",
        [getattr(image, column) for column in COLUMNS],
    )


def delete_image(connection: sqlite3.Connection, image_id: str) -> str:
    """Remove the image's row; its storage key, for removing the file after the transaction."""
    (storage_key,) = connection.execute(
        "DELETE FROM images WHERE id = ? RETURNING storage_key", (image_id,)
    ).fetchone()
    return storage_key
