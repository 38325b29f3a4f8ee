"""The images of a project as its clients see and change them. Each change is one transaction."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from banatie.records import FocalPoint, Image, ImageSource
from banatie.store.aliases import find_image, require_free
from banatie.store.database import Database
from banatie.store.flows import name_in_flow, touch_flow
from banatie.store.image_removal import remove_image
from banatie.store.images import SELECT, insert_image, to_image


class ProjectImages:
    """The images of each project."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, project_id: str, reference: str) -> Image:
        """The image with this id or alias. Raises ImageNotFound and AliasNotFound."""
        return find_image(self._database, project_id, reference)

    def page(
        self,
        project_id: str,
        *,
        limit: int,
        offset: int,
        flow_id: str | None = None,
        source: ImageSource | None = None,
        alias: str | None = None,
    ) -> tuple[list[Image], int]:
        """A page of the images, newest first, and their number in all."""
        values = {"project": project_id, "flow_id": flow_id, "source": source, "alias": alias}
        filters = "".join(
            f" AND images.{name} = :{name}"
            for name in ("flow_id", "source", "alias")
            if values[name] is not None
        )
        where = f"images.project_id = :project{filters}"
        total = self._database.scalar(f"SELECT count(*) FROM images WHERE {where}", values)
        rows = self._database.query(
            f"{SELECT} WHERE {where} ORDER BY images.created_at DESC, images.id DESC "
            "LIMIT :limit OFFSET :offset",
            {**values, "limit": limit, "offset": offset},
        )
        return [to_image(row) for row in rows], total

    def add(
        self,
        image: Image,
        *,
        flow_exists: bool,
        flow_alias: str | None,
        publish: Callable[[], None],
    ) -> None:
        """Insert the row of an upload, with its names, and make its file appear.

        `flow_exists` says that the flow is made if it does not exist. Raises AliasConflict.
        """
        with self._database.writing() as connection:
            if image.alias is not None:
                require_free(connection, image.project_id, image.alias)
            insert_image(connection, image)
            if image.flow_id is not None and flow_exists:
                touch_flow(connection, image.project_id, image.flow_id, image.created_at)
                if flow_alias is not None:
                    name_in_flow(connection, image.project_id, image.flow_id, flow_alias, image.id)
            publish()

    def update(
        self,
        project_id: str,
        reference: str,
        *,
        focal_point: FocalPoint | None,
        meta: Mapping[str, Any] | None,
        changed: frozenset[str],
    ) -> Image:
        """Change the fields that `changed` names. Raises ImageNotFound and AliasNotFound."""
        values = {
            "focal_point": json.dumps(asdict(focal_point)) if focal_point else None,
            "meta": json.dumps(meta or {}, ensure_ascii=False),
        }
        with self._database.writing() as connection:
            image = find_image(connection, project_id, reference)
            for name in sorted(changed):
                connection.execute(
                    f"UPDATE images SET {name} = ? WHERE id = ?", (values[name], image.id)
                )
            return find_image(connection, project_id, image.id)

    def set_alias(self, project_id: str, reference: str, alias: str | None) -> Image:
        """Give the image this alias in the project, or none.

        Raises ImageNotFound, AliasNotFound and AliasConflict.
        """
        with self._database.writing() as connection:
            image = find_image(connection, project_id, reference)
            if alias is not None:
                require_free(connection, project_id, alias, image.id)
            connection.execute("UPDATE images SET alias = ? WHERE id = ?", (alias, image.id))
            return find_image(connection, project_id, image.id)

    def delete(self, project_id: str, reference: str, now: int) -> Image:
        """Delete the image's row; the file is to be deleted afterwards.

        Raises ImageNotFound and AliasNotFound.
        """

        def delete(connection: sqlite3.Connection) -> Image:
            image = find_image(connection, project_id, reference)
            remove_image(connection, image.id, now)
            return image

        return self._database.free_space(delete)
