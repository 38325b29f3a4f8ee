"""The installations of models that the server was asked for: a row each, until long after its end.

How a model is installed is not known here.
"""

from __future__ import annotations

import sqlite3
import uuid
from dataclasses import dataclass, fields
from typing import Literal

from banatie.errors import NotFound, ValidationError
from banatie.store.database import Database

InstallationKind = Literal["pull", "import"]
InstallationState = Literal["waiting", "running", "done", "failed", "cancelled"]

KEPT = 50
"""So many rows are kept; older ones that have ended are deleted."""


@dataclass(frozen=True)
class InstallationRow:
    """One model that is, or was, downloaded or imported."""

    id: str
    kind: InstallationKind
    source: str
    """A name of the catalog, a hub's OWNER/REPOSITORY, or a path on this machine."""
    name: str | None
    """The name for the model; None: that of the source."""
    state: InstallationState
    message: str
    """The step that is being done, or why it has failed."""
    bytes_done: int
    bytes_total: int
    """0 as long as it is not known."""
    created_at: int
    updated_at: int


_COLUMNS = ", ".join(field.name for field in fields(InstallationRow))


class Installations:
    """The installations in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self, kind: InstallationKind, source: str, name: str | None, now: int
    ) -> InstallationRow:
        """A new row that waits. Raises ValidationError while the same source is not finished."""
        row = InstallationRow(str(uuid.uuid4()), kind, source, name, "waiting", "", 0, 0, now, now)
        with self._database.writing() as connection:
            if connection.execute(
                "SELECT 1 FROM installations WHERE source = ? AND state IN ('waiting', 'running')",
                (source,),
            ).fetchone():
                raise ValidationError.of(
                    "pull" if kind == "pull" else "path", f"{source} is being installed already"
                )
            connection.execute(
                f"INSERT INTO installations ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [getattr(row, field.name) for field in fields(row)],
            )
            connection.execute(
                "DELETE FROM installations WHERE state NOT IN ('waiting', 'running') AND id NOT IN "
                "(SELECT id FROM installations ORDER BY rowid DESC LIMIT ?)",
                (KEPT,),
            )
        return row

    def all(self) -> list[InstallationRow]:
        """All rows, newest first."""
        return [
            _row(row)
            for row in self._database.query(
                f"SELECT {_COLUMNS} FROM installations ORDER BY rowid DESC"
            )
        ]

    def get(self, installation_id: str) -> InstallationRow:
        """The row. Raises NotFound."""
        row = self._database.first(
            f"SELECT {_COLUMNS} FROM installations WHERE id = ?", (installation_id,)
        )
        if row is None:
            raise NotFound(f"No installation with the id {installation_id!r}")
        return _row(row)

    def start_next(self, now: int) -> InstallationRow | None:
        """Start the row that has waited longest; None if none waits."""
        with self._database.writing() as connection:
            row = connection.execute(
                f"SELECT {_COLUMNS} FROM installations WHERE state = 'waiting' "
                "ORDER BY rowid LIMIT 1"
            ).fetchone()
            if row is None:
                return None
            connection.execute(
                "UPDATE installations SET state = 'running', updated_at = ? WHERE id = ?",
                (now, row["id"]),
            )
        return self.get(row["id"])

    def resume_all(self, now: int) -> int:
        """Let those wait that were running when the server ended; how many there are."""
        with self._database.writing() as connection:
            return connection.execute(
                "UPDATE installations SET state = 'waiting', updated_at = ? "
                "WHERE state = 'running'",
                (now,),
            ).rowcount

    def report(self, installation_id: str, message: str, done: int, total: int, now: int) -> None:
        """Store the progress of a running one, in bytes."""
        with self._database.writing() as connection:
            connection.execute(
                "UPDATE installations SET message = ?, bytes_done = ?, bytes_total = ?, "
                "updated_at = ? WHERE id = ? AND state = 'running'",
                (message, done, total, now, installation_id),
            )

    def end(self, installation_id: str, state: InstallationState, message: str, now: int) -> bool:
        """End one that waits or runs; False if it has ended already."""
        with self._database.writing() as connection:
            return bool(
                connection.execute(
                    "UPDATE installations SET state = ?, message = ?, updated_at = ? "
                    "WHERE id = ? AND state IN ('waiting', 'running')",
                    (state, message, now, installation_id),
                ).rowcount
            )


def _row(row: sqlite3.Row) -> InstallationRow:
    return InstallationRow(*row)
