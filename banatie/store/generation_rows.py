"""How a generation's row is read, and how one is changed: the ground of `generations` and `claims`.

Each change gives the row a new revision, so that whoever watches the table finds what is new.
"""

from __future__ import annotations

import sqlite3
from dataclasses import fields
from typing import Any

import msgspec

from banatie.records import EnhancementNote, Generation, Image, LoraUse
from banatie.store.images import COLUMNS as IMAGE_COLUMNS

# Generation's fields, in its order, but for those that are made of columns by `to_generation`.
_COLUMNS = [field.name for field in fields(Generation)]
_COLUMNS[_COLUMNS.index("image")] = "image_id"
_WIDTH = len(_COLUMNS)
_META, _WARNINGS, _ENHANCEMENT, _IMAGE, _AUTO_ENHANCE, _LORAS = map(
    _COLUMNS.index, ("meta", "warnings", "enhancement", "image_id", "auto_enhance", "loras")
)

SELECT = f"""
    SELECT {", ".join(f"generations.{name}" for name in _COLUMNS)},
        {", ".join(f"images.{name}" for name in IMAGE_COLUMNS)}
    FROM generations LEFT JOIN images ON images.id = generations.image_id
"""


def update(
    connection: sqlite3.Connection, assignments: str, where: str, values: dict[str, Any], now: int
) -> Generation | None:
    """Change the one row that fits; the row as it is then, or None if none does."""
    changed = connection.execute(
        f"UPDATE generations SET {assignments}, updated_at = :now, "
        f"revision = (SELECT latest + 1 FROM revisions) WHERE {where} RETURNING id",
        {**values, "now": now},
    ).fetchone()
    if changed is None:
        return None
    connection.execute("UPDATE revisions SET latest = latest + 1")
    return find(connection, changed["id"])


def next_revision(connection: sqlite3.Connection) -> int:
    """The revision for a row that is about to be added."""
    return connection.execute(
        "UPDATE revisions SET latest = latest + 1 RETURNING latest"
    ).fetchone()[0]


def count_waiting(connection: sqlite3.Connection) -> int:
    """How many rows wait, of all projects."""
    return connection.execute(
        "SELECT coalesce(sum(generations), 0) FROM generation_counts "
        "WHERE status = 'pending' AND deleted = 0"
    ).fetchone()[0]


def find(connection: sqlite3.Connection, generation_id: str) -> Generation | None:
    """The generation with this id."""
    row = connection.execute(SELECT + " WHERE generations.id = ?", (generation_id,)).fetchone()
    return to_generation(row) if row else None


def to_generation(row: sqlite3.Row) -> Generation:
    """The generation of a row that `SELECT` has read."""
    # By position: looking forty columns up by name takes longer than reading the row.
    values = list(row)
    values[_AUTO_ENHANCE] = bool(values[_AUTO_ENHANCE])
    values[_META] = msgspec.json.decode(values[_META])
    values[_WARNINGS] = tuple(msgspec.json.decode(values[_WARNINGS]))
    values[_LORAS] = tuple(LoraUse(**lora) for lora in msgspec.json.decode(values[_LORAS]))
    if values[_ENHANCEMENT] is not None:
        values[_ENHANCEMENT] = EnhancementNote(**msgspec.json.decode(values[_ENHANCEMENT]))
    if values[_IMAGE] is not None:
        values[_IMAGE] = Image(*values[_WIDTH:])
    return Generation(*values[:_WIDTH])
