"""The scopes of live URLs: named groups of images that may each grow by so many images an hour.

The images in them are kept by `live_images`.
"""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Mapping
from typing import Any

import msgspec

from banatie.errors import ImageNotInScope, ScopeAlreadyExists, ScopeNotFound
from banatie.records import Scope
from banatie.store.database import Database

_SELECT = """
    SELECT scopes.*, count(images.id) AS current_generations,
        max(images.created_at) AS last_generated_at
    FROM scopes
    LEFT JOIN live_images ON live_images.scope_id = scopes.id
    LEFT JOIN generations ON generations.id = live_images.generation_id
    LEFT JOIN images ON images.id = generations.image_id
"""


class Scopes:
    """The scopes in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        project_id: str,
        slug: str,
        *,
        allow_new_generations: bool,
        new_generations_limit: int | None,
        meta: Mapping[str, Any],
        now: int,
    ) -> Scope:
        """Create a scope. Raises ScopeAlreadyExists."""
        with self._database.writing() as connection:
            if find_scope(connection, project_id, slug) is not None:
                raise ScopeAlreadyExists(slug)
            insert_scope(
                connection,
                project_id,
                slug,
                now,
                allow_new_generations=allow_new_generations,
                new_generations_limit=new_generations_limit,
                meta=meta,
            )
        return self.get(project_id, slug)

    def get(self, project_id: str, slug: str) -> Scope:
        """The project's scope. Raises ScopeNotFound."""
        row = self._database.first(
            f"{_SELECT} WHERE scopes.project_id = ? AND scopes.slug = ? GROUP BY scopes.id",
            (project_id, slug),
        )
        if row is None:
            raise ScopeNotFound(slug)
        return _scope(row)

    def page(
        self, project_id: str, *, slug: str | None, limit: int, offset: int
    ) -> tuple[list[Scope], int]:
        """A page of the project's scopes, newest first, and the total number."""
        where, parameters = "scopes.project_id = ?", [project_id]
        if slug is not None:
            where, parameters = f"{where} AND scopes.slug = ?", [*parameters, slug]
        rows = self._database.query(
            f"{_SELECT} WHERE {where} GROUP BY scopes.id "
            "ORDER BY scopes.created_at DESC, scopes.id DESC LIMIT ? OFFSET ?",
            (*parameters, limit, offset),
        )
        total = self._database.scalar(f"SELECT count(*) FROM scopes WHERE {where}", parameters)
        return [_scope(row) for row in rows], total

    def change(self, project_id: str, slug: str, now: int, changes: Mapping[str, Any]) -> Scope:
        """Set those of `allow_new_generations`, `new_generations_limit` and `meta` that are given.

        Raises ScopeNotFound.
        """
        values = dict(changes)
        if "meta" in values:
            values["meta"] = json.dumps(values["meta"], ensure_ascii=False)
        assignments = "".join(f", {column} = :{column}" for column in values)
        with self._database.writing() as connection:
            connection.execute(
                f"UPDATE scopes SET updated_at = :now{assignments} "
                "WHERE project_id = :project AND slug = :slug",
                {**values, "now": now, "project": project_id, "slug": slug},
            )
        return self.get(project_id, slug)

    def delete(self, project_id: str, slug: str) -> None:
        """Delete the scope; the images in it are only no longer in it. Raises ScopeNotFound."""
        with self._database.writing() as connection:
            deleted = connection.execute(
                "DELETE FROM scopes WHERE project_id = ? AND slug = ?", (project_id, slug)
            )
            if not deleted.rowcount:
                raise ScopeNotFound(slug)

    def generations(
        self, scope: Scope, image_id: str | None = None, *, only_finished: bool = False
    ) -> list[str]:
        """The ids of the scope's generations, or of one image's; `only_finished`: with an image.

        Raises ImageNotInScope if the image is not in it.
        """
        rows = self._database.query(
            "SELECT generations.id, generations.image_id FROM live_images "
            "JOIN generations ON generations.id = live_images.generation_id "
            "WHERE live_images.scope_id = ? ORDER BY live_images.created_at, generations.number",
            (scope.id,),
        )
        if only_finished:
            rows = [row for row in rows if row["image_id"] is not None]
        found = [row["id"] for row in rows if image_id in (None, row["image_id"])]
        if image_id is not None and not found:
            raise ImageNotInScope(image_id, scope.slug)
        return found


def find_scope(connection: sqlite3.Connection, project_id: str, slug: str) -> sqlite3.Row | None:
    """The row of the project's scope, if it exists."""
    row: sqlite3.Row | None = connection.execute(
        "SELECT * FROM scopes WHERE project_id = ? AND slug = ?", (project_id, slug)
    ).fetchone()
    return row


def insert_scope(
    connection: sqlite3.Connection,
    project_id: str,
    slug: str,
    now: int,
    *,
    allow_new_generations: bool = True,
    new_generations_limit: int | None = None,
    meta: Mapping[str, Any] | None = None,
) -> None:
    """Insert the row of a scope that does not exist."""
    columns = {
        "id": str(uuid.uuid4()),
        "project_id": project_id,
        "slug": slug,
        "allow_new_generations": allow_new_generations,
        "new_generations_limit": new_generations_limit,
        "meta": json.dumps(meta or {}, ensure_ascii=False),
        "created_at": now,
        "updated_at": now,
    }
    connection.execute(
        f"INSERT INTO scopes ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})",
        list(columns.values()),
    )


def _scope(row: sqlite3.Row) -> Scope:
    return Scope(
        id=row["id"],
        project_id=row["project_id"],
        slug=row["slug"],
        allow_new_generations=bool(row["allow_new_generations"]),
        new_generations_limit=row["new_generations_limit"],
        meta=msgspec.json.decode(row["meta"]),
        current_generations=row["current_generations"],
        last_generated_at=row["last_generated_at"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
