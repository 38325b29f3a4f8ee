"""Removing an image: what refers to it is changed in the same transaction.

The file is deleted by the caller afterwards: a crash in between leaves a file that the next sweep
deletes.
"""

from __future__ import annotations

import sqlite3

from banatie.records import CANCELLED
from banatie.store.generation_rows import SELECT, encode_references, to_generation, update

_CANCEL = (
    "status = 'failed', stage = 'done', claimed_by = NULL, error_message = :why, "
    "failure = 'cancelled'"
)
_LOST = "An image that this picture was to be painted from was deleted before it was finished"


def remove_image(connection: sqlite3.Connection, image_id: str, now: int) -> str:
    """Delete the image's row; its storage key.

    Its generation has no output from then on; if it is being made again, it is cancelled. A
    generation that was to be painted from the image fails, because it would show something else.
    """
    for row in _all(connection, "generations.image_id = ?", (image_id,)):
        generation = to_generation(row)
        values = {"id": generation.id, "why": CANCELLED}
        if not generation.is_ended:
            update(connection, _CANCEL, "id = :id", values, now)
        update(connection, "image_id = NULL", "id = :id", values, now)
    for row in _users(connection, image_id):
        generation = to_generation(row)
        rest = [each for each in generation.reference_images if each.image_id != image_id]
        values = {"id": generation.id, "rest": encode_references(rest), "why": _LOST}
        if not generation.is_ended:
            update(connection, _CANCEL, "id = :id", values, now)
        mask = "mask_image_id = CASE mask_image_id WHEN :image THEN NULL ELSE mask_image_id END"
        assignments = f"reference_images = :rest, {mask}"
        update(connection, assignments, "id = :id", {**values, "image": image_id}, now)
    storage_key: str = connection.execute(
        "DELETE FROM images WHERE id = ? RETURNING storage_key", (image_id,)
    ).fetchone()[0]
    return storage_key


def remove_with_generation(connection: sqlite3.Connection, image_id: str, now: int) -> None:
    """Delete the rows of an image that exists and of its generation."""
    connection.execute("DELETE FROM generations WHERE image_id = ?", (image_id,))
    remove_image(connection, image_id, now)


def _users(connection: sqlite3.Connection, image_id: str) -> list[sqlite3.Row]:
    """The generations that are, or were, painted from the image, or with it as their mask."""
    referring = (
        "generations.project_id = (SELECT project_id FROM images WHERE id = :id) "
        "AND reference_images <> '[]' AND EXISTS (SELECT 1 FROM json_each(reference_images) "
        "WHERE json_extract(value, '$.imageId') = :id)"
    )
    where = f"generations.mask_image_id = :id OR ({referring})"
    return connection.execute(f"{SELECT} WHERE {where}", {"id": image_id}).fetchall()


def _all(connection: sqlite3.Connection, where: str, values: tuple[str, ...]) -> list[sqlite3.Row]:
    return connection.execute(f"{SELECT} WHERE {where}", values).fetchall()
