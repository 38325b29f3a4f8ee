"""Sessions: browsers that have signed in, each with the rights of a key.

A browser signs in with a key, or with a token that works once: the address that carries it is
printed on the server's machine. Who can read that is the installation's owner, whose key is a
master key of the default project with a text that nobody knows. Only hashes are stored.
"""

from __future__ import annotations

import secrets
import sqlite3
import uuid

from banatie.errors import NotFound
from banatie.records import DEFAULT_SLUG, Key, Session
from banatie.store.database import Database
from banatie.store.keys import DAY_MILLISECONDS, HINT_LENGTH, hash_key, read_key
from banatie.store.projects import ensure_project

TOKEN_MILLISECONDS = 3_600_000
"""For how long a token can be used."""
SESSION_MILLISECONDS = 90 * DAY_MILLISECONDS
MAX_NAME_LENGTH = 200
OWNER_NAME = "The owner of this server"

_SELECT = """
    SELECT keys.*, projects.slug AS project_slug, projects.organization_id,
        organizations.slug AS organization_slug,
        sessions.id AS session_id, sessions.name AS session_name,
        sessions.created_at AS session_created_at, sessions.expires_at AS session_expires_at,
        sessions.revoked_at AS session_revoked_at
    FROM sessions
    JOIN keys ON keys.id = sessions.key_id
    JOIN projects ON projects.id = keys.project_id
    JOIN organizations ON organizations.id = projects.organization_id
"""
_CURRENT = (
    "sessions.revoked_at IS NULL AND sessions.expires_at > :now "
    "AND (:type = 'master' OR sessions.key_id = :key)"
)


class Sessions:
    """The sessions in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create_token(self, now: int) -> str:
        """A token with which a browser can sign in once, as the owner of the installation."""
        token = secrets.token_urlsafe(24)
        with self._database.writing() as connection:
            connection.execute("DELETE FROM sign_in_tokens WHERE expires_at <= ?", (now,))
            connection.execute(
                "INSERT INTO sign_in_tokens VALUES (?, ?)",
                (hash_key(token), now + TOKEN_MILLISECONDS),
            )
        return token

    def create_by_token(self, token: str, name: str, now: int) -> str | None:
        """Use up the token for a session of the owner; the cookie, or None if it is not valid."""
        with self._database.writing() as connection:
            used = connection.execute(
                "DELETE FROM sign_in_tokens WHERE hash = ? AND expires_at > ?",
                (hash_key(token), now),
            )
            if not used.rowcount:
                return None
            return _insert(connection, _owner_key_id(connection, now), name, now)

    def create_by_key(self, key: Key, name: str, now: int) -> str:
        """A session with the rights of the key; its cookie."""
        with self._database.writing() as connection:
            return _insert(connection, key.id, name, now)

    def authenticate(self, cookie: str) -> Session | None:
        """The session with this cookie, also if it has ended; see `is_current`."""
        row = self._database.first(_SELECT + " WHERE sessions.hash = ?", (hash_key(cookie),))
        return _session(row) if row else None

    def find(self, session_id: str) -> Session | None:
        """The session with this id, also if it has ended; see `is_current`."""
        row = self._database.first(_SELECT + " WHERE sessions.id = ?", (session_id,))
        return _session(row) if row else None

    def page(self, key: Key, now: int, limit: int, offset: int) -> tuple[list[Session], int]:
        """A page of the sessions that have not ended, newest first, and the number of all of them.

        For a master key all sessions, else the key's.
        """
        values = {"now": now, "type": key.type, "key": key.id, "limit": limit, "offset": offset}
        rows = self._database.query(
            f"{_SELECT} WHERE {_CURRENT} ORDER BY sessions.created_at DESC, sessions.id DESC "
            "LIMIT :limit OFFSET :offset",
            values,
        )
        total = self._database.scalar(f"SELECT count(*) FROM sessions WHERE {_CURRENT}", values)
        return [_session(row) for row in rows], total

    def revoke(self, session_id: str, key: Key, now: int) -> None:
        """End one of the sessions that `page` lists for the key. Raises NotFound."""
        with self._database.writing() as connection:
            revoked = connection.execute(
                f"UPDATE sessions SET revoked_at = :now WHERE id = :id AND {_CURRENT}",
                {"id": session_id, "now": now, "type": key.type, "key": key.id},
            )
            if not revoked.rowcount:
                raise NotFound(f"No session with the id {session_id!r}")


def is_current(session: Session, now: int) -> bool:
    """Whether the session itself has not ended at `now`; its key may have."""
    return session.revoked_at is None and now < session.expires_at


def _insert(connection: sqlite3.Connection, key_id: str, name: str, now: int) -> str:
    cookie = secrets.token_urlsafe(32)
    connection.execute(
        "INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, NULL)",
        (
            str(uuid.uuid4()),
            key_id,
            hash_key(cookie),
            name[:MAX_NAME_LENGTH],
            now,
            now + SESSION_MILLISECONDS,
        ),
    )
    return cookie


def _owner_key_id(connection: sqlite3.Connection, now: int) -> str:
    row = connection.execute("SELECT id FROM keys WHERE is_owner").fetchone()
    if row is not None:
        return str(row["id"])
    key_id = str(uuid.uuid4())
    # Nobody is told the text, so that the key works through its sessions alone.
    text = secrets.token_urlsafe(32)
    connection.execute(
        "INSERT INTO keys (id, project_id, type, name, hash, hint, created_at, is_owner) "
        "VALUES (?, ?, 'master', ?, ?, ?, ?, 1)",
        (
            key_id,
            ensure_project(connection, DEFAULT_SLUG, DEFAULT_SLUG, now),
            OWNER_NAME,
            hash_key(text),
            text[:HINT_LENGTH],
            now,
        ),
    )
    return key_id


def _session(row: sqlite3.Row) -> Session:
    return Session(
        id=row["session_id"],
        key=read_key(row),
        name=row["session_name"],
        created_at=row["session_created_at"],
        expires_at=row["session_expires_at"],
        revoked_at=row["session_revoked_at"],
    )
