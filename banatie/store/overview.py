"""What waits, what runs and what the disk holds, over all projects: for whoever runs the server."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from banatie.store.database import Database

MOST_LISTED = 50
"""Of the generations that have not ended."""
PROMPT_CHARACTERS = 200
"""So much of each prompt is read."""


@dataclass(frozen=True)
class UnfinishedGeneration:
    """A generation that waits, or that a worker has in hand."""

    id: str
    project: str
    """The slug."""
    prompt: str
    """Its beginning."""
    stage: Literal["enhance", "paint"]
    is_running: bool
    step: int
    steps: int | None
    created_at: int


@dataclass(frozen=True)
class DiskUse:
    """Bytes on the disk of the data folder."""

    free: int
    total: int
    pictures: int
    picture_count: int
    database: int


class Overview:
    """The figures of the whole installation. Reads the disk, so not for an event loop."""

    def __init__(self, database: Database, data: Path) -> None:
        self._database = database
        self._data = data

    def unfinished(self) -> list[UnfinishedGeneration]:
        """The generations that have not ended, in the order in which they are worked on."""
        return [
            UnfinishedGeneration(
                id=row["id"],
                project=row["slug"],
                prompt=row["beginning"],
                stage=row["stage"],
                is_running=bool(row["is_running"]),
                step=row["step"],
                steps=row["steps"],
                created_at=row["created_at"],
            )
            for row in self._database.query(
                "SELECT generations.id, projects.slug, substr(original_prompt, 1, ?) AS beginning, "
                "stage, claimed_by IS NOT NULL AS is_running, step, steps, generations.created_at "
                "FROM generations "
                "JOIN projects ON projects.id = generations.project_id "
                "WHERE stage IN ('enhance', 'paint') "
                "ORDER BY claimed_by IS NULL, number LIMIT ?",
                (PROMPT_CHARACTERS, MOST_LISTED),
            )
        ]

    def disk(self) -> DiskUse:
        """What the data folder's disk has, and what Banatie takes of it."""
        disk = shutil.disk_usage(self._data)
        [row] = self._database.query("SELECT coalesce(sum(file_size), 0), count(*) FROM images")
        path = self._database.path
        files = (path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm"))
        database = sum(file.stat().st_size for file in files if file.exists())
        return DiskUse(disk.free, disk.total, row[0], row[1], database)
