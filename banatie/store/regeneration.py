"""Making a generation again, and changing its record: PUT, regenerate.

The row waits anew, as after its submission, and keeps its image: the file and the image's row stay
as they are until the new picture replaces them.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from banatie.errors import GenerationNotFound, QueueFull
from banatie.records import AspectRatio, Generation, LoraUse
from banatie.store.aliases import rename_references
from banatie.store.database import Database
from banatie.store.flows import move_to_flow, touch_flow
from banatie.store.generation_rows import count_waiting, encode_references, find, update
from banatie.store.generations import SECONDS_PER_WAITING_JOB, require_room

# The number of the attempt tells the worker's reports on the picture before from those on this one.
_AGAIN = (
    "status = 'pending', stage = CASE WHEN auto_enhance THEN 'enhance' ELSE 'paint' END, "
    "claimed_by = NULL, prompt = original_prompt, enhancement = NULL, enhanced_at = NULL, "
    "model = NULL, step = 0, retry_count = retry_count + 1, crashes = 0, error_message = NULL, "
    "failure = NULL, processing_time_ms = NULL, reference_mode = NULL, warnings = :warnings"
)


@dataclass(frozen=True)
class Changes:
    """What a client changes of a generation's record; None: it stays as it is."""

    prompt: str | None = None
    loras: tuple[LoraUse, ...] = ()
    """Of a new prompt: those of its tags among them."""
    aspect_ratio: AspectRatio | None = None
    meta: Mapping[str, Any] | None = None
    favourite: bool | None = None
    flow_id: str | None = None
    moves: bool = False
    """Whether to put it into the flow `flow_id`, or into none."""


class Regeneration:
    """The generations that are changed or made again."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def change(
        self,
        project_id: str,
        generation_id: str,
        changes: Changes,
        now: int,
        *,
        queue_size: int,
        warnings: Sequence[str] = (),
    ) -> tuple[Generation, bool]:
        """Change the record; the generation, and whether it is made again.

        It is made again if its prompt or its aspect ratio differs from before. `warnings` tell what
        of the new prompt is not carried out. Raises GenerationNotFound, also for a soft-deleted
        one, QueueFull and DiskFull.
        """
        with self._database.writing() as connection:
            before = _require(connection, project_id, generation_id)
            is_new_prompt = changes.prompt not in (None, before.original_prompt)
            is_new_ratio = changes.aspect_ratio not in (None, before.aspect_ratio)
            values = {"id": generation_id}
            if changes.meta is not None:
                meta = {"meta": json.dumps(changes.meta, ensure_ascii=False)}
                update(connection, "meta = :meta", "id = :id", {**values, **meta}, now)
            if changes.favourite is not None:
                mark = {"favourite": changes.favourite}
                update(connection, "favourite = :favourite", "id = :id", {**values, **mark}, now)
            if changes.moves:
                if changes.flow_id is not None:
                    touch_flow(connection, project_id, changes.flow_id, now)
                move_to_flow(connection, generation_id, changes.flow_id, now)
            if is_new_ratio:
                ratio = {"ratio": changes.aspect_ratio}
                assignments = "aspect_ratio = :ratio, width = NULL, height = NULL"
                update(connection, assignments, "id = :id", {**values, **ratio}, now)
            if is_new_prompt:
                warnings = [*warnings, *_set_prompt(connection, before, changes, now)]
            is_again = is_new_prompt or is_new_ratio
            if is_again:
                _again(self._database, connection, before, warnings, now, queue_size)
            return _require(connection, project_id, generation_id), is_again

    def again(
        self,
        project_id: str,
        generation_id: str,
        now: int,
        *,
        queue_size: int,
        warnings: Sequence[str] = (),
    ) -> Generation:
        """Make the generation again as it is. Raises GenerationNotFound, QueueFull and DiskFull."""
        with self._database.writing() as connection:
            before = _require(connection, project_id, generation_id)
            _again(self._database, connection, before, warnings, now, queue_size)
            return _require(connection, project_id, generation_id)


def _set_prompt(
    connection: sqlite3.Connection, before: Generation, changes: Changes, now: int
) -> list[str]:
    """Change the prompt, and with it the images that it names; warnings."""
    prompt = changes.prompt or ""
    references, warnings = rename_references(connection, before, prompt)
    values = {
        "id": before.id,
        "prompt": prompt,
        "loras": json.dumps([asdict(lora) for lora in changes.loras]),
        "references": encode_references(references),
    }
    assignments = "original_prompt = :prompt, loras = :loras, reference_images = :references"
    update(connection, assignments, "id = :id", values, now)
    return warnings


def _again(
    database: Database,
    connection: sqlite3.Connection,
    before: Generation,
    warnings: Sequence[str],
    now: int,
    queue_size: int,
) -> None:
    require_room(database)
    if before.status != "pending" and count_waiting(connection) >= queue_size:
        raise QueueFull(queue_size, SECONDS_PER_WAITING_JOB)
    values = {"id": before.id, "warnings": json.dumps(warnings)}
    update(connection, _AGAIN, "id = :id", values, now)


def _require(connection: sqlite3.Connection, project_id: str, generation_id: str) -> Generation:
    generation = find(connection, generation_id)
    if (
        generation is None
        or generation.project_id != project_id
        or generation.deleted_at is not None
    ):
        raise GenerationNotFound(generation_id)
    return generation
