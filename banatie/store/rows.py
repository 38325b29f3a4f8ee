"""How a generation's row is read, and how one is changed: the ground of `generations` and `claims`.

Each change gives the row a new revision, so that whoever watches the table finds what is new.
"""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from banatie.records import EnhancementNote, Generation, Image
from banatie.store.images import COLUMNS as IMAGE_COLUMNS

_JOINED = ", ".join(f"images.{name} AS image_{name}" for name in IMAGE_COLUMNS if name != "id")

SELECT = f"""
    SELECT generations.*, {_JOINED}
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
    image = None
    if row["image_id"] is not None:
        image = Image(**{column: row[f"image_{column}"] for column in IMAGE_COLUMNS})
    enhancement = row["enhancement"]
    return Generation(
        id=row["id"],
        project_id=row["project_id"],
        revision=row["revision"],
        status=row["status"],
        stage=row["stage"],
        prompt=row["prompt"],
        original_prompt=row["original_prompt"],
        auto_enhance=bool(row["auto_enhance"]),
        template=row["template"],
        aspect_ratio=row["aspect_ratio"],
        negative_prompt=row["negative_prompt"],
        seed=row["seed"],
        steps=row["steps"],
        guidance_scale=row["guidance_scale"],
        meta=json.loads(row["meta"]),
        warnings=tuple(json.loads(row["warnings"])),
        enhancement=EnhancementNote(**json.loads(enhancement)) if enhancement else None,
        model=row["model"],
        step=row["step"],
        retry_count=row["retry_count"],
        crashes=row["crashes"],
        error_message=row["error_message"],
        image=image,
        processing_time_ms=row["processing_time_ms"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        enhanced_at=row["enhanced_at"],
        deleted_at=row["deleted_at"],
    )
