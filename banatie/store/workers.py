"""The workers' rows: each worker's state, device and memory, and its last heartbeat.

Whether a worker's process is alive is up to `locks`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal

import msgspec

from banatie.store.database import Database

HEARTBEAT_TIMEOUT_MILLISECONDS = 15_000
"""A worker without a heartbeat for longer counts as gone. Loading a large model may delay one."""


@dataclass(frozen=True)
class WorkerState:
    """What a worker reports about itself."""

    id: str
    pid: int
    state: Literal["starting", "ready", "broken"]
    reason: str | None = None
    """Why it is broken."""
    device: str | None = None
    language_model: str | None = None
    """None also while another worker runs it."""
    painting_model: str | None = None
    memory_bytes: int | None = None
    """The memory of the worker's process."""
    device_memory_used: int | None = None
    """Bytes in use on the GPU by all processes; None without a GPU."""
    device_memory_total: int | None = None
    plan: str | None = None
    """Its memory plan, as text for people."""
    devices: tuple[str, ...] | None = None
    """All devices of the machine, its own first; None if it was not asked to find them."""


_COLUMNS = [field.name for field in fields(WorkerState)]


class Workers:
    """The workers in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def report(self, worker: WorkerState, now: int) -> None:
        """Store the worker's state and the time of this heartbeat."""
        devices = msgspec.json.encode(worker.devices).decode() if worker.devices else None
        values = {name: getattr(worker, name) for name in _COLUMNS} | {"devices": devices}
        with self._database.writing() as connection:
            connection.execute(
                f"INSERT OR REPLACE INTO workers ({', '.join(_COLUMNS)}, seen_at) "
                f"VALUES ({', '.join('?' * len(_COLUMNS))}, ?)",
                (*values.values(), now),
            )

    def forget(self, worker_id: str) -> None:
        """Delete the worker's row."""
        with self._database.writing() as connection:
            connection.execute("DELETE FROM workers WHERE id = ?", (worker_id,))

    def forget_dead(self, is_alive: Callable[[str], bool]) -> int:
        """Delete the rows of workers for which `is_alive(id)` is false; how many there were."""
        ids = [row["id"] for row in self._database.query("SELECT id FROM workers")]
        dead = [worker_id for worker_id in ids if not is_alive(worker_id)]
        for worker_id in dead:
            self.forget(worker_id)
        return len(dead)

    def present(self, now: int) -> list[WorkerState]:
        """The workers with a recent heartbeat: ready ones first, then by device."""
        rows = self._database.query(
            "SELECT * FROM workers WHERE seen_at > ? ORDER BY state <> 'ready', device, id",
            (now - HEARTBEAT_TIMEOUT_MILLISECONDS,),
        )
        return [_worker(row) for row in rows]

    def silent(self, now: int, is_alive: Callable[[str], bool]) -> list[WorkerState]:
        """The workers that live without a recent heartbeat: as broken, with their process ids."""
        rows = self._database.query(
            "SELECT * FROM workers WHERE seen_at <= ? ORDER BY device, id",
            (now - HEARTBEAT_TIMEOUT_MILLISECONDS,),
        )
        found = []
        for row in rows:
            worker, seconds = _worker(row), (now - row["seen_at"]) // 1000
            if is_alive(worker.id):
                reason = f"The worker (process {worker.pid}) has not answered for {seconds} s"
                found.append(replace(worker, state="broken", reason=reason))
        return found


def state_of(workers: Sequence[WorkerState]) -> Literal["ready", "starting", "broken", "gone"]:
    """The state of the service: ready if any worker is, else starting, else broken, else gone."""
    states = {worker.state for worker in workers}
    order: tuple[Literal["ready", "starting", "broken"], ...] = ("ready", "starting", "broken")
    return next((state for state in order if state in states), "gone")


def _worker(row: sqlite3.Row) -> WorkerState:
    # The doctor reads databases that are not migrated, which lack some columns.
    values = {name: row[name] for name in _COLUMNS if name in row.keys()}  # noqa: SIM118
    if values.get("devices") is not None:
        values["devices"] = tuple(msgspec.json.decode(values["devices"]))
    return WorkerState(**values)
