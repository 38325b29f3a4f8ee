"""The workers' rows: who is there, in which state, and when it was last seen."""

from __future__ import annotations

import sqlite3
from dataclasses import astuple, dataclass, fields
from typing import Literal

from banatie.store.database import Database

SILENCE_MILLISECONDS = 15_000
"""A worker not seen for longer than this is gone; loading a large model may keep it that quiet."""


@dataclass(frozen=True)
class WorkerState:
    """What a worker says of itself."""

    id: str
    pid: int
    state: Literal["starting", "ready", "broken"]
    reason: str | None = None
    """Why it is broken."""
    device: str | None = None
    language_model: str | None = None
    painting_model: str | None = None
    memory_bytes: int | None = None
    """What the worker's process holds."""
    device_memory_used: int | None = None
    """Bytes in use on the GPU, by anybody; None where there is no GPU."""
    device_memory_total: int | None = None


_COLUMNS = [field.name for field in fields(WorkerState)]


class Workers:
    """The workers in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def report(self, worker: WorkerState, now: int) -> None:
        """Write down the worker's state, and that it was seen."""
        with self._database.writing() as connection:
            connection.execute(
                f"INSERT OR REPLACE INTO workers ({', '.join(_COLUMNS)}, seen_at) "
                f"VALUES ({', '.join('?' * len(_COLUMNS))}, ?)",
                (*astuple(worker), now),
            )

    def forget_all(self) -> None:
        """Remove every worker's row: for the one that has just locked the others out."""
        with self._database.writing() as connection:
            connection.execute("DELETE FROM workers")

    def present(self, now: int) -> WorkerState | None:
        """The worker that was seen lately, if there is one."""
        row = self._database.first(
            "SELECT * FROM workers WHERE seen_at > ? ORDER BY seen_at DESC",
            (now - SILENCE_MILLISECONDS,),
        )
        return _worker(row) if row else None


def _worker(row: sqlite3.Row) -> WorkerState:
    return WorkerState(**{field: row[field] for field in row.keys() if field != "seen_at"})  # noqa: SIM118
