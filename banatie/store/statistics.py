"""What is counted for whoever watches the service: how long the stages take, how generations end.

Counted in the transaction of what is counted, so the figures survive every restart and no row is
read again for them. How generations end, triggers count (`database`). No project is in any of it.
"""

from __future__ import annotations

import math
import sqlite3
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field

from banatie.store.database import Database

STAGES = ("enhance_wait", "enhance", "paint_wait", "paint", "encode", "save")
BUCKETS = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0),
    *(60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, math.inf),
)
"""Seconds; a duration is counted under the smallest that is not smaller."""

Queue = tuple[str, bool]
"""A stage, and whether its rows are being worked on."""


@dataclass(frozen=True)
class Durations:
    """How long a stage took, all told."""

    counts: Mapping[float, int]
    """For each of `BUCKETS`, how many durations fell under it and not under a smaller one."""
    seconds: float


@dataclass(frozen=True)
class Statistics:
    """The figures at a moment."""

    accepted: int
    """How many generations there ever were."""
    ended: Mapping[tuple[str, str], int]
    """By status and, where it is `failed`, by reason."""
    queues: Mapping[Queue, int]
    oldest_waiting_seconds: float
    """0 while none waits."""
    durations: Mapping[str, Durations] = field(default_factory=dict)


def count_durations(connection: sqlite3.Connection, durations: Mapping[str, float]) -> None:
    """Count how many seconds each of these stages took."""
    for stage, seconds in durations.items():
        # A clock that was set back must not take away from the sum.
        seconds = max(0.0, seconds)
        connection.execute(
            "INSERT INTO stage_durations VALUES (?, ?, 1, ?) ON CONFLICT DO UPDATE SET "
            "durations = durations + 1, seconds = seconds + excluded.seconds",
            (stage, BUCKETS[bisect_left(BUCKETS, seconds)], seconds),
        )


def read_statistics(database: Database, now: int) -> Statistics:
    """The figures now; waits for the disk."""
    accepted = database.first("SELECT seq FROM sqlite_sequence WHERE name = 'generations'")
    ended = database.query("SELECT status, reason, generations FROM outcomes")
    # Answered by a partial index, which holds no more rows than have not ended.
    waiting = database.query(
        "SELECT stage, claimed_by IS NOT NULL AS held, count(*) AS generations, "
        "min(created_at) AS oldest FROM generations WHERE stage IN ('enhance', 'paint') "
        "GROUP BY stage, held"
    )
    oldest = min((row["oldest"] for row in waiting if not row["held"]), default=now)
    queues = {(stage, held): 0 for stage in ("enhance", "paint") for held in (False, True)}
    queues |= {(row["stage"], bool(row["held"])): row["generations"] for row in waiting}
    return Statistics(
        accepted=accepted[0] if accepted else 0,
        ended={(row["status"], row["reason"]): row["generations"] for row in ended},
        queues=queues,
        oldest_waiting_seconds=max(0, now - oldest) / 1000,
        durations=_durations(database.query("SELECT * FROM stage_durations")),
    )


def _durations(rows: list[sqlite3.Row]) -> dict[str, Durations]:
    durations = {}
    for stage in STAGES:
        own = [row for row in rows if row["stage"] == stage]
        counts = dict.fromkeys(BUCKETS, 0)
        for row in own:
            # The buckets may have been others when it was counted.
            counts[BUCKETS[bisect_left(BUCKETS, row["at_most"])]] += row["durations"]
        durations[stage] = Durations(counts, sum(row["seconds"] for row in own))
    return durations
