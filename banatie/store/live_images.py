"""The cache of live URLs: which generation made the image of a URL.

A URL's key stands for its project, scope and parameters. Its image counts as long as it is there:
a generation that failed, was cancelled, or was deleted with its image makes room for a new one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

from banatie.errors import Forbidden, ScopeNotFound, TooManyNewImages
from banatie.store.database import Database
from banatie.store.generation_rows import find
from banatie.store.generations import Submitted
from banatie.store.scopes import find_scope, insert_scope

HOUR_MILLISECONDS = 3_600_000


@dataclass(frozen=True)
class LiveImage:
    """The finished image of a live URL."""

    generation_id: str
    image_id: str
    storage_key: str
    mime_type: str


class LiveImages:
    """The images of live URLs in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, key: str) -> LiveImage | None:
        """The finished image under this key; while it is made again, that of before."""
        row = self._database.first(
            "SELECT generations.id, images.id, images.storage_key, images.mime_type "
            "FROM live_images JOIN generations ON generations.id = live_images.generation_id "
            "JOIN images ON images.id = generations.image_id "
            "WHERE live_images.key = ? AND generations.deleted_at IS NULL",
            (key,),
        )
        return LiveImage(*row) if row else None


@dataclass(frozen=True)
class LiveRequest:
    """A request for the image of a live URL; it makes one generation, however often it comes.

    Its two methods are called within the transaction that inserts the generation.
    """

    key: str
    project_id: str
    scope_slug: str
    scope_limit: int
    """New images an hour of a scope that has no limit of its own."""
    admit: Callable[[], None]
    """Called last before a new generation is inserted; may raise to refuse it."""

    def earlier(self, connection: sqlite3.Connection) -> Submitted | None:
        """The generation of an earlier request, unless it has ended without an image.

        Raises ScopeNotFound where the scope is new and the project takes no new ones.
        """
        row = connection.execute(
            "SELECT generations.id FROM live_images "
            "JOIN generations ON generations.id = live_images.generation_id "
            "WHERE live_images.key = ? AND generations.deleted_at IS NULL AND "
            "(generations.status IN ('pending', 'processing') OR generations.image_id IS NOT NULL)",
            (self.key,),
        ).fetchone()
        return Submitted(find(connection, row["id"]), is_new=False) if row else None

    def record(self, connection: sqlite3.Connection, generation_id: str, now: int) -> None:
        """Count the new generation for its scope, which is made on first use, and remember it.

        Raises ScopeNotFound, Forbidden, TooManyNewImages, and what `admit` raises.
        """
        scope = find_scope(connection, self.project_id, self.scope_slug)
        if scope is None:
            self._require_new_scopes(connection)
            insert_scope(connection, self.project_id, self.scope_slug, now)
            scope = find_scope(connection, self.project_id, self.scope_slug)
            assert scope is not None
        if not scope["allow_new_generations"]:
            raise Forbidden(f"The scope {self.scope_slug!r} takes no new images")
        limit, start = scope["new_generations_limit"] or self.scope_limit, scope["window_start"]
        # A start in the future means that the clock was set back.
        is_same_hour = start <= now < start + HOUR_MILLISECONDS
        made = scope["window_generations"] if is_same_hour else 0
        start = start if is_same_hour else now
        if made >= limit:
            raise TooManyNewImages("in this scope", limit, start + HOUR_MILLISECONDS - now)
        self.admit()
        connection.execute(
            "UPDATE scopes SET window_start = ?, window_generations = ? WHERE id = ?",
            (start, made + 1, scope["id"]),
        )
        connection.execute(
            "INSERT OR REPLACE INTO live_images (key, scope_id, generation_id, created_at) "
            "VALUES (?, ?, ?, ?)",
            (self.key, scope["id"], generation_id, now),
        )

    def _require_new_scopes(self, connection: sqlite3.Connection) -> None:
        (allowed,) = connection.execute(
            "SELECT allow_new_scopes FROM projects WHERE id = ?", (self.project_id,)
        ).fetchone()
        if not allowed:
            raise ScopeNotFound(self.scope_slug)
