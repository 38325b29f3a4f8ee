"""API keys, and the request count of each key.

Only the hash of a key is stored; its text is returned once, when it is created. How requests are
limited is unknown here.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import sqlite3
import uuid
from collections.abc import Mapping

from banatie.errors import Forbidden, NotFound, ValidationError
from banatie.records import DEFAULT_SLUG, Key, KeyType, Project
from banatie.store.database import Database
from banatie.store.projects import check_slugs, ensure_project

KEY_PREFIX = "bnt_"
HINT_LENGTH = 8
DAY_MILLISECONDS = 86_400_000

SELECT_KEYS = """
    SELECT keys.*, projects.slug AS project_slug, projects.organization_id,
        organizations.slug AS organization_slug
    FROM keys
    JOIN projects ON projects.id = keys.project_id
    JOIN organizations ON organizations.id = projects.organization_id
"""
_ANY_KEY = "SELECT 1 FROM keys WHERE NOT is_owner"
_LISTED = " WHERE NOT keys.is_owner ORDER BY keys.created_at, keys.id"


class Keys:
    """The keys in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        name: str,
        now: int,
        *,
        type: KeyType = "project",
        organization_slug: str = DEFAULT_SLUG,
        project_slug: str = DEFAULT_SLUG,
        requests_per_hour: int | None = None,
        expires_at: int | None = None,
        only_first: bool = False,
    ) -> str:
        """Create a key, and its organisation and project if they do not exist; return its text.

        Raises ValidationError, and Forbidden if it is to be the `only_first` and is not the first.
        """
        if not name.strip():
            raise ValidationError.of("name", "must not be blank")
        if type == "master" and expires_at is not None:
            raise ValidationError.of(
                "expiresInDays", "is for project keys: a master key does not expire"
            )
        check_slugs(organization_slug, project_slug)
        # 256 random bits cannot be guessed, so a fast hash without salt is enough.
        text = KEY_PREFIX + secrets.token_urlsafe(32)
        with self._database.writing() as connection:
            if only_first and connection.execute(_ANY_KEY).fetchone():
                raise Forbidden("There is an API key already; the first one is made only once")
            columns = {
                "id": str(uuid.uuid4()),
                "project_id": ensure_project(connection, organization_slug, project_slug, now),
                "type": type,
                "name": name,
                "hash": hash_key(text),
                "hint": text[:HINT_LENGTH],
                "requests_per_hour": requests_per_hour,
                "created_at": now,
                "expires_at": expires_at,
            }
            connection.execute(
                f"INSERT INTO keys ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})",
                list(columns.values()),
            )
        return text

    def default_project_id(self, now: int) -> str:
        """The id of the default project, which is created if it does not exist."""
        with self._database.writing() as connection:
            return ensure_project(connection, DEFAULT_SLUG, DEFAULT_SLUG, now)

    def is_empty(self) -> bool:
        """Whether no key was ever created, but the owner's: the first start."""
        return self._database.first(_ANY_KEY) is None

    def all(self) -> list[Key]:
        """All keys but the owner's, oldest first, including revoked and expired ones."""
        rows = self._database.query(SELECT_KEYS + _LISTED)
        return [read_key(row) for row in rows]

    def page(self, limit: int, offset: int) -> tuple[list[Key], int]:
        """A page of `all`, and the number of all keys."""
        rows = self._database.query(SELECT_KEYS + _LISTED + " LIMIT ? OFFSET ?", (limit, offset))
        total = self._database.scalar("SELECT count(*) FROM keys WHERE NOT is_owner")
        return [read_key(row) for row in rows], total

    def authenticate(self, text: str) -> Key | None:
        """The key with this text, also if it is revoked or expired; see `is_active`."""
        # The lookup is by hash: the time that an index comparison takes tells nothing useful about
        # a hash that a caller cannot choose.
        hashed = hash_key(text)
        row = self._database.first(SELECT_KEYS + " WHERE keys.hash = ?", (hashed,))
        # Compared again in constant time, in case the database compares more loosely.
        return read_key(row) if row and hmac.compare_digest(row["hash"], hashed) else None

    def state(self) -> tuple[object, ...]:
        """A value that differs after a key or a session has been created or revoked."""
        counted = "SELECT count(*), max(created_at), count(revoked_at), max(revoked_at) FROM"
        rows = self._database.query(f"{counted} keys UNION ALL {counted} sessions")
        return tuple(tuple(row) for row in rows)

    def find(self, key_id: str) -> Key | None:
        """The key with this id, whether it is active or not; see `is_active`."""
        row = self._database.first(SELECT_KEYS + " WHERE keys.id = ?", (key_id,))
        return read_key(row) if row else None

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
        self.revoke_id(matching[0].id, now)
        return matching[0]

    def revoke_id(self, key_id: str, now: int) -> None:
        """Revoke the key with this id. Raises NotFound, also if it is revoked already."""
        with self._database.writing() as connection:
            revoked = connection.execute(
                "UPDATE keys SET revoked_at = ? "
                "WHERE id = ? AND revoked_at IS NULL AND NOT is_owner",
                (now, key_id),
            )
            if not revoked.rowcount:
                raise NotFound(f"No active key with the id {key_id!r}")

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


def hash_key(text: str) -> str:
    """The SHA-256 of a key's text, as the database stores it."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def is_active(key: Key, now: int) -> bool:
    """Whether the key is neither revoked nor expired at `now`."""
    return key.revoked_at is None and (key.expires_at is None or now < key.expires_at)


def read_key(row: sqlite3.Row) -> Key:
    """The key in a row that has the columns of `SELECT_KEYS`."""
    return Key(
        id=row["id"],
        project=Project(
            row["project_id"],
            row["project_slug"],
            row["organization_slug"],
            row["organization_id"],
        ),
        type=row["type"],
        name=row["name"],
        hint=row["hint"],
        requests_per_hour=row["requests_per_hour"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
    )
