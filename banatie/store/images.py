"""The images' rows: which picture has which storage key, and its names.

An image is inserted and deleted together with what hangs on it, so the functions here take the
connection of that transaction. The bytes are kept by `files`.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

import msgspec

from banatie.records import FocalPoint, Image
from banatie.store.database import Database

# Image's fields in order; the last one is not a column, but the generation that refers to it.
COLUMNS = [field.name for field in fields(Image)][:-1]
_FOCAL_POINT, _META = COLUMNS.index("focal_point"), COLUMNS.index("meta")

SELECT = (
    f"SELECT {', '.join(f'images.{name}' for name in COLUMNS)}, generations.id "
    "FROM images LEFT JOIN generations ON generations.image_id = images.id"
)


class Images:
    """The images in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, image_id: str) -> Image | None:
        """The image of any project, if it exists."""
        row = self._database.first(SELECT + " WHERE images.id = ?", (image_id,))
        return to_image(row) if row else None

    def all(self) -> list[Image]:
        """All images."""
        return [to_image(row) for row in self._database.query(SELECT)]

    def storage_keys(self) -> set[str]:
        """The storage keys of all images; a file under any other is an orphan."""
        return {row[0] for row in self._database.query("SELECT storage_key FROM images")}


def to_image(values: Sequence[Any]) -> Image:
    """The image of a row with `COLUMNS` and the id of its generation."""
    converted = list(values)
    converted[_META] = msgspec.json.decode(converted[_META])
    if converted[_FOCAL_POINT] is not None:
        converted[_FOCAL_POINT] = msgspec.json.decode(converted[_FOCAL_POINT], type=FocalPoint)
    return Image(*converted)


def insert_image(connection: sqlite3.Connection, image: Image) -> None:
    """Insert the image's row."""
    values = {column: getattr(image, column) for column in COLUMNS}
    values["meta"] = json.dumps(image.meta, ensure_ascii=False)
    if image.focal_point is not None:
        values["focal_point"] = json.dumps(asdict(image.focal_point))
    connection.execute(
        f"INSERT INTO images ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})",
        list(values.values()),
    )
