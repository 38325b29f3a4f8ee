"""Organisations, projects, API keys, and the request count of each key.

Only the hash of a key is stored; its text is returned once, when it is created. How requests are
limited is unknown here.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import sqlite3
import uuid
from collections.abc import Mapping

from banatie.errors import NotFound, ValidationError
from banatie.records import DEFAULT_SLUG, Key, Project
from banatie.store.database import Database

KEY_PREFIX = "bnt_"
HINT_LENGTH = 8
SLUG = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")

_SELECT = """
    SELECT keys.*, projects.slug AS project_slug, organizations.slug AS organization_slug
    FROM keys
    JOIN projects ON projects.id = keys.project_id
    JOIN organizations ON organizations.id = projects.organization_id
"""


class Keys:
    """The keys in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        name: str,
        now: int,
        *,
        organization_slug: str = DEFAULT_SLUG,
        project_slug: str = DEFAULT_SLUG,
        requests_per_hour: int | None = None,
        expires_at: int | None = None,
    ) -> str:
        """Create a key, and its organisation and project if they do not exist; return its text.

        Raises ValidationError.
        """
        if not name.strip():
            raise ValidationError.of("name", "must not be blank")
        for what, slug in (("organization", organization_slug), ("project", project_slug)):
            # It becomes the name of a folder and a part of URLs.
            if not SLUG.fullmatch(slug):
                raise ValidationError.of(what, "takes letters a to z, digits and hyphens, up to 64")
        # 256 random bits cannot be guessed, so a fast hash without salt is enough.
        text = KEY_PREFIX + secrets.token_urlsafe(32)
        with self._database.writing() as connection:
            project_id = self._project_id(connection, organization_slug, project_slug, now)
            connection.execute(
                "INSERT INTO keys VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL)",
                (
                    str(uuid.uuid4()),
                    project_id,
                    name,
                    hash_key(text),
                    text[:HINT_LENGTH],
                    requests_per_hour,
                    now,
                    expires_at,
                ),
            )
        return text

    def default_project_id(self, now: int) -> str:
        """The id of the default project, which is created if it does not exist."""
        with self._database.writing() as connection:
            return self._project_id(connection, DEFAULT_SLUG, DEFAULT_SLUG, now)

    def is_empty(self) -> bool:
        """Whether no key was ever created: the first start."""
        return self._database.first("SELECT 1 FROM keys") is None

    def all(self) -> list[Key]:
        """All keys, oldest first, including revoked and expired ones."""
        rows = self._database.query(_SELECT + " ORDER BY keys.created_at, keys.id")
        return [_key(row) for row in rows]

    def authenticate(self, text: str) -> Key | None:
        """The key with this text, also if it is revoked or expired; see `is_active`."""
        # The lookup is by hash: the time that an index comparison takes tells nothing useful about
        # a hash that a caller cannot choose.
        hashed = hash_key(text)
        row = self._database.first(_SELECT + " WHERE keys.hash = ?", (hashed,))
        # Compared again in constant time, in case the database compares more loosely.
        return _key(row) if row and hmac.compare_digest(row["hash"], hashed) else None

    def state(self) -> tuple[object, ...]:
        """A value that differs after a key has been created or revoked."""
        [row] = self._database.query(
            "SELECT count(*), max(created_at), count(revoked_at), max(revoked_at) FROM keys"
        )
        return tuple(row)

    def find(self, key_id: str) -> Key | None:
        """The key with this id, whether it is active or not; see `is_active`."""
        row = self._database.first(_SELECT + " WHERE keys.id = ?", (key_id,))
        return _key(row) if row else None

    def revoke(self, reference: str, now: int) -> Key:
        """Revoke the key with this id, name or hint. Raises NotFound, also if several match."""
        matching = [
            key
            for key in self.all()
            if key.revoked_at is None and reference in (key.id, key.name, key.hint)
        ]
        if len(matching) != 1:
            what = "No key" if not matching else f"{len(matching)} keys"
            raise NotFound(f"{what} called {reference!r}; `banatie keys list` shows their ids")
        with self._database.writing() as connection:
            connection.execute("UPDATE keys SET revoked_at = ? WHERE id = ?", (now, matching[0].id))
        return matching[0]

    def organization_of(self, project_id: str) -> str:
        """The slug of the organisation of a project that exists."""
        [row] = self._database.query(
            "SELECT organizations.slug FROM organizations "
            "JOIN projects ON projects.organization_id = organizations.id WHERE projects.id = ?",
            (project_id,),
        )
        slug: str = row["slug"]
        return slug

    def request_counts(self) -> dict[str, tuple[int, int]]:
        """By key id: the start of its current window in milliseconds, and its requests since."""
        rows = self._database.query("SELECT * FROM request_counts")
        return {row["key_id"]: (row["window_start"], row["requests"]) for row in rows}

    def save_request_counts(self, counts: Mapping[str, tuple[int, int]]) -> None:
        """Store the start and the count of these keys' windows."""
        with self._database.writing() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO request_counts VALUES (?, ?, ?)",
                [(key_id, start, requests) for key_id, (start, requests) in counts.items()],
            )

    def _project_id(
        self, connection: sqlite3.Connection, organization_slug: str, project_slug: str, now: int
    ) -> str:
        connection.execute(
            "INSERT INTO organizations VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            (str(uuid.uuid4()), organization_slug, now),
        )
        (organization_id,) = connection.execute(
            "SELECT id FROM organizations WHERE slug = ?", (organization_slug,)
        ).fetchone()
        connection.execute(
            "INSERT INTO projects VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (str(uuid.uuid4()), organization_id, project_slug, now),
        )
        project_id: str = connection.execute(
            "SELECT id FROM projects WHERE organization_id = ? AND slug = ?",
            (organization_id, project_slug),
        ).fetchone()[0]
        return project_id


def hash_key(text: str) -> str:
    """The SHA-256 of a key's text, as the database stores it."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def is_active(key: Key, now: int) -> bool:
    """Whether the key is neither revoked nor expired at `now`."""
    return key.revoked_at is None and (key.expires_at is None or now < key.expires_at)


def _key(row: sqlite3.Row) -> Key:
    return Key(
        id=row["id"],
        project=Project(row["project_id"], row["project_slug"], row["organization_slug"]),
        name=row["name"],
        hint=row["hint"],
        requests_per_hour=row["requests_per_hour"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
    )
