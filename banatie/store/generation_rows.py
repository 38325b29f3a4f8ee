"""Reading and updating a generation's row; shared by `generations` and `claims`.

Every update gives the row a new revision, by which `change_watcher` finds what has changed. Which
updates are allowed is up to the callers.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import msgspec

from banatie.records import EnhancementNote, Generation, LoraUse, Reference
from banatie.store.images import COLUMNS as IMAGE_COLUMNS
from banatie.store.images import to_image

# Generation's fields in order. `to_generation` converts those that the columns hold differently.
_COLUMNS = [field.name for field in fields(Generation)]
_COLUMNS[_COLUMNS.index("image")] = "image_id"
_WIDTH = len(_COLUMNS)
_META, _WARNINGS, _ENHANCEMENT, _IMAGE, _AUTO_ENHANCE, _FAVOURITE, _LORAS, _REFERENCES = map(
    _COLUMNS.index,
    (
        *("meta", "warnings", "enhancement", "image_id", "auto_enhance", "favourite", "loras"),
        "reference_images",
    ),
)

SELECT = f"""
    SELECT {", ".join(f"generations.{name}" for name in _COLUMNS)},
        {", ".join(f"images.{name}" for name in IMAGE_COLUMNS)}, generations.id
    FROM generations LEFT JOIN images ON images.id = generations.image_id
"""


def update(
    connection: sqlite3.Connection, assignments: str, where: str, values: dict[str, Any], now: int
) -> Generation | None:
    """Update the one row that matches and return it as it is then; None if no row matches."""
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
    """The revision for a row that is about to be inserted."""
    revision: int = connection.execute(
        "UPDATE revisions SET latest = latest + 1 RETURNING latest"
    ).fetchone()[0]
    return revision


def count_waiting(connection: sqlite3.Connection) -> int:
    """How many generations are pending, of all projects."""
    waiting: int = connection.execute(
        "SELECT coalesce(sum(generations), 0) FROM generation_counts "
        "WHERE status = 'pending' AND deleted = 0"
    ).fetchone()[0]
    return waiting


def find(connection: sqlite3.Connection, generation_id: str) -> Generation | None:
    """The generation with this id, if there is one."""
    row = connection.execute(SELECT + " WHERE generations.id = ?", (generation_id,)).fetchone()
    return to_generation(row) if row else None


def encode_references(references: Sequence[Reference]) -> str:
    """The references as their column holds them."""
    return json.dumps(
        [
            {"imageId": each.image_id, "alias": each.alias, "storageKey": each.storage_key}
            for each in references
        ]
    )


def to_generation(row: sqlite3.Row) -> Generation:
    """The generation of a row that `SELECT` has read."""
    # By position: looking up forty columns by name takes longer than reading the row.
    values = list(row)
    values[_AUTO_ENHANCE] = bool(values[_AUTO_ENHANCE])
    values[_FAVOURITE] = bool(values[_FAVOURITE])
    values[_META] = msgspec.json.decode(values[_META])
    values[_WARNINGS] = tuple(msgspec.json.decode(values[_WARNINGS]))
    values[_LORAS] = tuple(LoraUse(**lora) for lora in msgspec.json.decode(values[_LORAS]))
    values[_REFERENCES] = tuple(
        Reference(reference["imageId"], reference["alias"], reference["storageKey"])
        for reference in msgspec.json.decode(values[_REFERENCES])
    )
    if values[_ENHANCEMENT] is not None:
        values[_ENHANCEMENT] = EnhancementNote(**msgspec.json.decode(values[_ENHANCEMENT]))
    if values[_IMAGE] is not None:
        values[_IMAGE] = to_image(values[_WIDTH:])
    return Generation(*values[:_WIDTH])
