"""The workers' rows: who is there, in which state, and when it was last seen."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields, replace
from typing import Literal

import msgspec

from banatie.store.database import Database

HEARTBEAT_TIMEOUT_MILLISECONDS = 15_000
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
    """None, too, while another worker has it."""
    painting_model: str | None = None
    memory_bytes: int | None = None
    """What the worker's process holds."""
    device_memory_used: int | None = None
    """Bytes in use on the GPU, by anybody; None where there is no GPU."""
    device_memory_total: int | None = None
    plan: str | None = None
    """How it has laid its models out in memory, for people."""
    devices: tuple[str, ...] | None = None
    """What there is to compute on, its own device first, if it was to find that out."""


_COLUMNS = [field.name for field in fields(WorkerState)]


class Workers:
    """The workers in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def report(self, worker: WorkerState, now: int) -> None:
        """Write down the worker's state, and that it was seen."""
        devices = msgspec.json.encode(worker.devices).decode() if worker.devices else None
        values = astuple(replace(worker, devices=devices))
        with self._database.writing() as connection:
            connection.execute(
                f"INSERT OR REPLACE INTO workers ({', '.join(_COLUMNS)}, seen_at) "
                f"VALUES ({', '.join('?' * len(_COLUMNS))}, ?)",
                (*values, now),
            )

    def forget(self, worker_id: str) -> None:
        """Remove the worker's row."""
        with self._database.writing() as connection:
            connection.execute("DELETE FROM workers WHERE id = ?", (worker_id,))

    def forget_dead(self, is_alive: Callable[[str], bool]) -> int:
        """Remove the rows of those that are not at work any more; how many there were."""
        ids = [row["id"] for row in self._database.query("SELECT id FROM workers")]
        dead = [worker_id for worker_id in ids if not is_alive(worker_id)]
        for worker_id in dead:
            self.forget(worker_id)
        return len(dead)

    def present(self, now: int) -> list[WorkerState]:
        """The workers that were seen lately: ready ones first, in the order of devices."""
        rows = self._database.query(
            "SELECT * FROM workers WHERE seen_at > ? ORDER BY state <> 'ready', device, id",
            (now - HEARTBEAT_TIMEOUT_MILLISECONDS,),
        )
        return [_worker(row) for row in rows]


def state_of(workers: Sequence[WorkerState]) -> Literal["ready", "starting", "broken", "gone"]:
    """The state of all of them together: that of the one that has come furthest."""
    states = {worker.state for worker in workers}
    return next((state for state in ("ready", "starting", "broken") if state in states), "gone")


def _worker(row: sqlite3.Row) -> WorkerState:
    # A database that is not up to date, which the doctor reads, lacks some.
    values = {name: row[name] for name in _COLUMNS if name in row.keys()}  # noqa: SIM118
    if values.get("devices") is not None:
        values["devices"] = tuple(msgspec.json.decode(values["devices"]))
    return WorkerState(**values)
