"""The rows of webhooks: whom to tell of a generation's end, and the messages that wait to be sent.

A trigger (`migrations`) writes a message for each of a generation's webhooks in the transaction in
which it ends, however it ends and as often as it is made again. Deleting a generation deletes both.
What a message says, and how it is sent, is unknown here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass

from banatie.store.database import Database


@dataclass(frozen=True)
class Delivery:
    """A message that waits to be sent."""

    id: str
    generation_id: str
    url: str
    is_server_wide: bool
    """Whether the URL is of the configuration and not of the request."""
    attempts: int
    ended_at: int


class Webhooks:
    """The messages in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def due(self, now: int, limit: int) -> list[Delivery]:
        """The messages whose time has come, those that have waited longest first."""
        rows = self._database.query(
            "SELECT id, generation_id, url, is_server_wide, attempts, ended_at "
            "FROM webhook_deliveries WHERE due_at <= ? ORDER BY due_at, id LIMIT ?",
            (now, limit),
        )
        return [
            Delivery(
                row["id"],
                row["generation_id"],
                row["url"],
                bool(row["is_server_wide"]),
                row["attempts"],
                row["ended_at"],
            )
            for row in rows
        ]

    def remove(self, delivery_id: str) -> None:
        """Forget the message: it has arrived, or never will."""
        with self._database.writing() as connection:
            connection.execute("DELETE FROM webhook_deliveries WHERE id = ?", (delivery_id,))

    def postpone(self, delivery_id: str, due_at: int) -> None:
        """Note an attempt that failed, and when the next one is due."""
        with self._database.writing() as connection:
            connection.execute(
                "UPDATE webhook_deliveries SET attempts = attempts + 1, due_at = ? WHERE id = ?",
                (due_at, delivery_id),
            )


def add_webhooks(
    connection: sqlite3.Connection,
    generation_id: str,
    own: str | None,
    server_wide: Iterable[str],
) -> None:
    """Note whom to tell of this generation's end: the request's own URL, and those of all."""
    rows = [(generation_id, url, True) for url in server_wide]
    if own is not None:
        rows.append((generation_id, own, False))
    # One that is named twice is told once.
    connection.executemany("INSERT INTO webhooks VALUES (?, ?, ?) ON CONFLICT DO NOTHING", rows)
