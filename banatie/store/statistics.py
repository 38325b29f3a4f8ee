"""Statistics for monitoring: durations of stages, outcomes of generations, length of queues.

They are counted in the transaction of the event itself, so they survive restarts and need no scan
of the rows. Outcomes are counted by triggers (`migrations`). Nothing is kept by project. How
figures are published is unknown here.
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
"""Upper bounds in seconds; a duration is counted in the first bucket that holds it."""

Queue = tuple[str, bool]
"""A stage, and whether its rows are claimed."""


@dataclass(frozen=True)
class Durations:
    """How long a stage took: a histogram and the sum."""

    counts: Mapping[float, int]
    """For each of `BUCKETS`, the durations in it alone (not cumulative)."""
    seconds: float


@dataclass(frozen=True)
class Statistics:
    """The figures at one moment."""

    accepted: int
    """Generations ever accepted."""
    ended: Mapping[tuple[str, str], int]
    """Ended generations by status and, for `failed`, by reason."""
    queues: Mapping[Queue, int]
    oldest_waiting_seconds: float
    """0 while none is waiting."""
    durations: Mapping[str, Durations] = field(default_factory=dict)


def count_durations(connection: sqlite3.Connection, durations: Mapping[str, float]) -> None:
    """Add durations, in seconds by stage, to the histograms."""
    for stage, seconds in durations.items():
        # A clock that was set back must not reduce the sum.
        seconds = max(0.0, seconds)
        connection.execute(
            "INSERT INTO stage_durations VALUES (?, ?, 1, ?) ON CONFLICT DO UPDATE SET "
            "durations = durations + 1, seconds = seconds + excluded.seconds",
            (stage, BUCKETS[bisect_left(BUCKETS, seconds)], seconds),
        )


def read_statistics(database: Database, now: int) -> Statistics:
    """The figures now. Reads the disk, so not for an event loop."""
    accepted = database.first("SELECT seq FROM sqlite_sequence WHERE name = 'generations'")
    ended = database.query("SELECT status, reason, generations FROM outcomes")
    # Answered by the partial index of the generations that have not ended.
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
            # An earlier version may have counted with other bounds.
            counts[BUCKETS[bisect_left(BUCKETS, row["at_most"])]] += row["durations"]
        durations[stage] = Durations(counts, sum(row["seconds"] for row in own))
    return durations
