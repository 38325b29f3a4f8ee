"""The images' rows: which picture has which storage key.

An image is inserted and deleted together with its generation, so the functions here take the
connection of that transaction. The bytes are kept by `files`.
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
        """The storage keys of all images; a file under any other is an orphan."""
        return {row[0] for row in self._database.query("SELECT storage_key FROM images")}


def insert_image(connection: sqlite3.Connection, image: Image) -> None:
    """Insert the image's row."""
    connection.execute(
        f"INSERT INTO images ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})",
        [getattr(image, column) for column in COLUMNS],
    )


def delete_image(connection: sqlite3.Connection, image_id: str) -> str:
    """Delete the image's row; its storage key, for deleting the file after the transaction."""
    storage_key: str = connection.execute(
        "DELETE FROM images WHERE id = ? RETURNING storage_key", (image_id,)
    ).fetchone()[0]
    return storage_key
