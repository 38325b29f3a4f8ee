"""What becomes of a generation's output image: its row, and the names that it takes over.

The functions take the connection of the transaction that ends the generation.
"""

from __future__ import annotations

import sqlite3
from dataclasses import replace

from banatie.records import Generation, Image
from banatie.store.flows import name_in_flow, touch_flow
from banatie.store.images import insert_image


def store_output(connection: sqlite3.Connection, generation: Generation, image: Image) -> None:
    """Insert the generation's image, or update it if the generation was made again.

    A new image takes the generation's names over from the images that have them. An image that was
    there before keeps its own: a name that was given to another one since is not taken back.
    """
    if generation.image is not None and generation.image.id == image.id:
        connection.execute(
            "UPDATE images SET mime_type = ?, width = ?, height = ?, file_size = ? WHERE id = ?",
            (image.mime_type, image.width, image.height, image.file_size, image.id),
        )
        return
    if generation.alias is not None:
        connection.execute(
            "UPDATE images SET alias = NULL WHERE project_id = ? AND alias = ?",
            (generation.project_id, generation.alias),
        )
    insert_image(connection, replace(image, flow_id=generation.flow_id, alias=generation.alias))
    if generation.flow_alias is not None and generation.flow_id is not None:
        # A change of the generation may have put it into a flow that does not exist yet.
        touch_flow(connection, generation.project_id, generation.flow_id, image.created_at)
        name_in_flow(
            connection,
            generation.project_id,
            generation.flow_id,
            generation.flow_alias,
            image.id,
        )
