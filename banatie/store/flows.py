"""Flows: generations and images that belong together, and the names of images within a flow.

A flow id is offered with every generation. The flow is made when the id is used again; until then
only the generation has it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from banatie.errors import AliasNotFound, FlowNotFound
from banatie.records import Flow
from banatie.store.aliases import as_uuid, find_image
from banatie.store.database import Database
from banatie.store.generation_rows import update
from banatie.store.image_removal import remove_image

_COUNT = (
    "(SELECT count(*) FROM {table} "
    "WHERE {table}.project_id = flows.project_id AND {table}.flow_id = flows.id{more})"
)
_SELECT = (
    "SELECT flows.*, "
    f"{_COUNT.format(table='generations', more=' AND generations.deleted_at IS NULL')} "
    f"AS generation_count, {_COUNT.format(table='images', more='')} AS image_count FROM flows"
)


class Flows:
    """The flows of each project."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, project_id: str, flow_id: str) -> Flow:
        """The project's flow. Raises FlowNotFound."""
        row = self._database.first(
            f"{_SELECT} WHERE flows.project_id = ? AND flows.id = ?", (project_id, as_uuid(flow_id))
        )
        if row is None:
            raise FlowNotFound(flow_id)
        return self._flow(row)

    def page(self, project_id: str, *, limit: int, offset: int) -> tuple[list[Flow], int]:
        """A page of the flows, newest first, and their number in all."""
        total = self._database.scalar(
            "SELECT count(*) FROM flows WHERE project_id = ?", (project_id,)
        )
        rows = self._database.query(
            f"{_SELECT} WHERE flows.project_id = ? "
            "ORDER BY flows.created_at DESC, flows.id DESC LIMIT ? OFFSET ?",
            (project_id, limit, offset),
        )
        return [self._flow(row) for row in rows], total

    def latest_generation(self, project_id: str, flow_id: str) -> str | None:
        """The id of the flow's latest generation, if it has one. Raises FlowNotFound."""
        flow = self.get(project_id, flow_id)
        row = self._database.first(
            "SELECT id FROM generations WHERE project_id = ? AND flow_id = ? "
            "AND deleted_at IS NULL ORDER BY created_at DESC, id DESC LIMIT 1",
            (project_id, flow.id),
        )
        return row["id"] if row else None

    def merge_aliases(
        self, project_id: str, flow_id: str, aliases: Mapping[str, str], now: int
    ) -> Flow:
        """Give images these names in the flow; each is named by its id or an alias.

        Raises FlowNotFound, ImageNotFound and AliasNotFound.
        """
        with self._database.writing() as connection:
            _require_flow(connection, project_id, flow_id)
            touch_flow(connection, project_id, flow_id.lower(), now)
            for alias, reference in aliases.items():
                image = find_image(connection, project_id, reference, flow_id.lower())
                name_in_flow(connection, project_id, flow_id.lower(), alias, image.id)
        return self.get(project_id, flow_id)

    def remove_alias(self, project_id: str, flow_id: str, alias: str, now: int) -> Flow:
        """Take a name away in the flow. Raises FlowNotFound and AliasNotFound."""
        with self._database.writing() as connection:
            _require_flow(connection, project_id, flow_id)
            removed = connection.execute(
                "DELETE FROM flow_aliases WHERE project_id = ? AND flow_id = ? AND alias = ?",
                (project_id, flow_id.lower(), alias),
            )
            if not removed.rowcount:
                raise AliasNotFound(alias)
            touch_flow(connection, project_id, flow_id.lower(), now)
        return self.get(project_id, flow_id)

    def delete(self, project_id: str, flow_id: str, now: int) -> list[str]:
        """Delete the flow with its generations and images; the storage keys of files to delete.

        An image with an alias in the project stays, outside any flow. A generation that is being
        painted is cancelled. Raises FlowNotFound.
        """

        def delete(connection: sqlite3.Connection) -> list[str]:
            _require_flow(connection, project_id, flow_id)
            place = (project_id, flow_id.lower())
            images = connection.execute(
                "SELECT id FROM images WHERE project_id = ?1 AND alias IS NULL AND (flow_id = ?2 "
                "OR id IN (SELECT image_id FROM generations WHERE project_id = ?1 "
                "AND flow_id = ?2))",
                place,
            ).fetchall()
            connection.execute(
                "DELETE FROM generations WHERE project_id = ? AND flow_id = ?", place
            )
            keys = [remove_image(connection, row["id"], now) for row in images]
            connection.execute(
                "UPDATE images SET flow_id = NULL WHERE project_id = ? AND flow_id = ?", place
            )
            connection.execute("DELETE FROM flows WHERE project_id = ? AND id = ?", place)
            return keys

        return self._database.free_space(delete)

    def _flow(self, row: sqlite3.Row) -> Flow:
        aliases = self._database.query(
            "SELECT alias, image_id FROM flow_aliases WHERE project_id = ? AND flow_id = ? "
            "ORDER BY alias",
            (row["project_id"], row["id"]),
        )
        return Flow(
            id=row["id"],
            project_id=row["project_id"],
            aliases={each["alias"]: each["image_id"] for each in aliases},
            generation_count=row["generation_count"],
            image_count=row["image_count"],
            created_at=row["created_at"],
            updated_at=row["updated_at"],
        )


def touch_flow(connection: sqlite3.Connection, project_id: str, flow_id: str, now: int) -> None:
    """Make the flow if it does not exist, and note the time of this use."""
    connection.execute(
        "INSERT INTO flows VALUES (:project, :flow, :now, :now) "
        "ON CONFLICT DO UPDATE SET updated_at = :now",
        {"project": project_id, "flow": flow_id, "now": now},
    )


def name_in_flow(
    connection: sqlite3.Connection, project_id: str, flow_id: str, alias: str, image_id: str
) -> None:
    """Give the image this name in the flow, in place of the image that has it."""
    connection.execute(
        "INSERT OR REPLACE INTO flow_aliases VALUES (?, ?, ?, ?)",
        (project_id, flow_id, alias, image_id),
    )


def move_to_flow(
    connection: sqlite3.Connection, generation_id: str, flow_id: str | None, now: int
) -> None:
    """Put the generation and its image into this flow, or into none."""
    values = {"id": generation_id, "flow": flow_id}
    update(connection, "flow_id = :flow", "id = :id", values, now)
    connection.execute(
        "UPDATE images SET flow_id = :flow "
        "WHERE id = (SELECT image_id FROM generations WHERE id = :id)",
        values,
    )


def _require_flow(connection: sqlite3.Connection, project_id: str, flow_id: str) -> None:
    exists = connection.execute(
        "SELECT 1 FROM flows WHERE project_id = ? AND id = ?", (project_id, as_uuid(flow_id))
    ).fetchone()
    if exists is None:
        raise FlowNotFound(flow_id)
