"""The worker's side of the generations: claiming a row, reporting on it, releasing it.

A worker holds a row while `claimed_by` names it. A report about a row that it no longer holds
(because it was cancelled, deleted or released) changes nothing and returns False. The rows of a
dead worker are released by another one; which worker is dead is up to `locks`.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

from banatie.logs import log_context
from banatie.records import EnhancementNote, Generation, Image
from banatie.store.database import Database
from banatie.store.generation_rows import find, update
from banatie.store.outputs import store_output
from banatie.store.previews import write_preview
from banatie.store.statistics import count_durations

logger = logging.getLogger(__name__)

NO_DURATIONS: Mapping[str, float] = MappingProxyType({})

# The earlier ones stay: they tell what became of the prompt's tags.
_ADD_WARNINGS = (
    "warnings = (SELECT json_group_array(value) FROM (SELECT value FROM "
    "json_each(generations.warnings) UNION ALL SELECT value FROM json_each(:warnings)))"
)
_CLAIM = "claimed_by = :worker, status = :status, step = 0"
# A worker that holds a row with crashes claims no other, and claims such a row only by itself.
_NEXT_ROW = (
    "number = (SELECT number FROM generations WHERE stage = :stage "
    "AND claimed_by IS NULL ORDER BY number LIMIT 1) AND NOT EXISTS (SELECT 1 "
    "FROM generations AS held WHERE held.claimed_by = :worker "
    "AND (held.crashes > 0 OR generations.crashes > 0))"
)
_HELD = "id = :id AND claimed_by = :worker"
_NEXT_ROW_LIKE = (
    "number = (SELECT number FROM generations WHERE stage = 'paint' "
    "AND claimed_by IS NULL AND crashes = 0 AND aspect_ratio = :ratio "
    "AND width IS :width AND height IS :height "
    "AND sampler IS :sampler AND scheduler IS :scheduler "
    "AND steps IS :steps AND guidance_scale IS :guidance AND upscale IS NULL "
    "AND (reference_images = '[]') = :plain AND (mask_image_id IS NULL) = :unmasked "
    "AND reference_strength IS :strength AND loras = "
    "(SELECT loras FROM generations WHERE id = :first) ORDER BY number LIMIT 1)"
)


class Claims:
    """The changes that the worker `worker_id` makes to generations."""

    def __init__(self, database: Database, worker_id: str) -> None:
        self._database = database
        self.worker_id = worker_id

    def waiting(self, stage: str) -> bool:
        """Whether an unclaimed row waits for this stage."""
        waiting = "SELECT 1 FROM generations WHERE stage = ? AND claimed_by IS NULL LIMIT 1"
        return self._database.first(waiting, (stage,)) is not None

    def claim(self, stage: str, now: int) -> Generation | None:
        """Claim the oldest row that waits for this stage; a row claimed for painting is processing.

        A row that was held during a crash is never claimed together with another row: if it crashes
        the worker again, no other row is affected.
        """
        status = "processing" if stage == "paint" else "pending"
        values = {"worker": self.worker_id, "status": status, "stage": stage}
        with self._database.writing() as connection:
            taken = update(connection, _CLAIM, _NEXT_ROW, values, now)
            # A retried row has spent a part of that time in work.
            if taken is not None and not taken.retry_count:
                since = taken.enhanced_at or taken.created_at
                count_durations(connection, {f"{stage}_wait": (now - since) / 1000})
            return taken

    def claim_like(self, first: Generation, limit: int, now: int) -> list[Generation]:
        """Claim up to `limit` more rows that can be painted in one batch with the claimed `first`.

        They have the same aspect ratio, size, sampler, steps, guidance and LoRAs, and if they are
        painted from images, a mask or none, and the same strength. A row that was held during a
        crash, or is enlarged, is never part of a batch.
        """
        if first.crashes or first.upscale:
            return []
        taken: list[Generation] = []
        values = _values_like(first, self.worker_id)
        with self._database.writing() as connection:
            while len(taken) < limit:
                generation = update(connection, _CLAIM, _NEXT_ROW_LIKE, values, now)
                if generation is None:
                    break
                taken.append(generation)
        return taken

    def holds(self, generation_id: str) -> bool:
        """Whether the worker still holds the row; it does not once it is cancelled or deleted."""
        held = "SELECT 1 FROM generations WHERE id = ? AND claimed_by = ?"
        return self._database.first(held, (generation_id, self.worker_id)) is not None

    def finish_enhancement(
        self,
        generation_id: str,
        *,
        prompt: str,
        note: EnhancementNote | None,
        warning: str | None,
        now: int,
        durations: Mapping[str, float] = NO_DURATIONS,
    ) -> bool:
        """Store the enhanced prompt and queue the row for painting; False if it is not held."""
        return self._change_held(
            generation_id,
            "stage = 'paint', claimed_by = NULL, crashes = 0, prompt = :prompt, "
            f"enhancement = :note, {_ADD_WARNINGS}, enhanced_at = :now",
            {
                "prompt": prompt,
                "note": json.dumps(asdict(note)) if note else None,
                "warnings": json.dumps([warning] if warning else []),
            },
            now,
            durations,
        )

    def start_painting(
        self,
        generation_id: str,
        *,
        model: str,
        steps: int,
        guidance_scale: float,
        now: int,
        reference_strength: float | None = None,
        reference_mode: str | None = None,
    ) -> bool:
        """Store what the row is painted with; False if it is not held."""
        values: dict[str, Any] = {"model": model, "steps": steps, "guidance": guidance_scale}
        values |= {"strength": reference_strength, "mode": reference_mode}
        assignments = (
            "model = :model, steps = :steps, guidance_scale = :guidance, "
            "reference_strength = :strength, reference_mode = :mode"
        )
        return self._change_held(generation_id, assignments, values, now)

    def record_step(
        self, generation_id: str, step: int, now: int, preview: bytes | None = None
    ) -> bool:
        """Store the number of finished steps, and a preview (JPEG); False if it is not held."""
        with self._database.writing() as connection:
            changed = _update_held(
                connection, self.worker_id, generation_id, "step = :step", {"step": step}, now
            )
            if changed and preview is not None:
                write_preview(connection, generation_id, step, preview)
            return changed

    def succeed(
        self,
        generation_id: str,
        image: Image,
        processing_time_ms: int,
        now: int,
        durations: Mapping[str, float] = NO_DURATIONS,
        *,
        warnings: Sequence[str] = (),
        publish: Callable[[], None] = lambda: None,
        attempt: int | None = None,
    ) -> bool:
        """End the row with its image and more warnings; False if it is not held.

        A generation that was made again keeps its image, whose file has been replaced. `publish` is
        called last in the transaction: it makes the prepared file appear (`Files.prepared`), so no
        file appears for a row that is not held. Without it, the file exists already. `attempt` is
        the row's `retry_count` when the picture was begun: a row that was changed since is not held
        for that picture, even if this worker has claimed it again.
        """
        with self._database.writing() as connection:
            held = find(connection, generation_id)
            if held is None or not _is_held(connection, generation_id, self.worker_id):
                return False
            if attempt not in (None, held.retry_count):
                return False
            _finish(connection, held, image, processing_time_ms, warnings, now)
            count_durations(connection, durations)
            publish()
            return True

    def fail(self, generation_id: str, message: str, now: int, reason: str = "unforeseen") -> bool:
        """End the row with a message for people and a reason for statistics; False if not held."""
        assignments = (
            "status = 'failed', stage = 'done', claimed_by = NULL, error_message = :why, "
            "failure = :reason"
        )
        values = {"why": message, "reason": reason}
        return self._change_held(generation_id, assignments, values, now)

    def release_claims(self, now: int, *, keep: Collection[str] = ()) -> int:
        """Requeue the rows that this worker holds, except the ids in `keep`; how many there were.

        For a worker that stops, or has dropped them. No crash is counted.
        """
        find = "SELECT id FROM generations WHERE claimed_by = ?"
        if all(row["id"] in keep for row in self._database.query(find, (self.worker_id,))):
            return 0
        with self._database.writing() as connection:
            return _release(connection, self.worker_id, now, crash=0, keep=keep)

    def other_holders(self) -> set[str]:
        """The ids of the other workers, dead or alive, that hold rows."""
        holders = self._database.query(
            "SELECT DISTINCT claimed_by FROM generations WHERE claimed_by IS NOT NULL"
        )
        return {row["claimed_by"] for row in holders} - {self.worker_id}

    def release_dead(self, worker_id: str, max_retries: int, now: int) -> tuple[int, int]:
        """Requeue the rows of a dead worker, and fail those that are exhausted; the number of each.

        A crash is counted against each of its rows. Those with more than `max_retries` crashes are
        failed in the same transaction, before another worker can claim them.
        """
        with self._database.writing() as connection:
            released = _release(connection, worker_id, now, crash=1)
            return released, _fail_exhausted(connection, max_retries, now)

    def fail_exhausted(self, max_retries: int, now: int) -> int:
        """Fail the rows that crashed a worker more than `max_retries` times; how many there were.

        Rows that did so during enhancement are painted from the original prompt instead.
        """
        with self._database.writing() as connection:
            return _fail_exhausted(connection, max_retries, now)

    def _change_held(
        self,
        generation_id: str,
        assignments: str,
        values: dict[str, Any],
        now: int,
        durations: Mapping[str, float] = NO_DURATIONS,
    ) -> bool:
        with self._database.writing() as connection:
            changed = _update_held(
                connection, self.worker_id, generation_id, assignments, values, now
            )
            if changed:
                count_durations(connection, durations)
            return changed


def _values_like(first: Generation, worker_id: str) -> dict[str, Any]:
    """What `_NEXT_ROW_LIKE` compares."""
    return {
        "worker": worker_id,
        "status": "processing",
        "ratio": first.aspect_ratio,
        "width": first.width,
        "height": first.height,
        "steps": first.steps,
        "guidance": first.guidance_scale,
        "sampler": first.sampler,
        "scheduler": first.scheduler,
        "plain": not first.reference_images,
        "unmasked": first.mask_image_id is None,
        "strength": first.reference_strength,
        "first": first.id,
    }


def _finish(
    connection: sqlite3.Connection,
    held: Generation,
    image: Image,
    milliseconds: int,
    warnings: Sequence[str],
    now: int,
) -> None:
    """End the row as a success with this image."""
    store_output(connection, held, image)
    update(
        connection,
        "status = 'success', stage = 'done', claimed_by = NULL, image_id = :image_id, "
        f"step = steps, processing_time_ms = :milliseconds, {_ADD_WARNINGS}",
        "id = :id",
        {
            "id": held.id,
            "image_id": image.id,
            "milliseconds": milliseconds,
            "warnings": json.dumps(warnings),
        },
        now,
    )


def _update_held(
    connection: sqlite3.Connection,
    worker_id: str,
    generation_id: str,
    assignments: str,
    values: dict[str, Any],
    now: int,
) -> bool:
    """Update the row if this worker holds it; whether it does."""
    values = {**values, "id": generation_id, "worker": worker_id}
    return update(connection, assignments, _HELD, values, now) is not None


def _release(
    connection: sqlite3.Connection, holder: str, now: int, *, crash: int, keep: Collection[str] = ()
) -> int:
    find = "SELECT id FROM generations WHERE claimed_by = ?"
    held = [row["id"] for row in connection.execute(find, (holder,)) if row["id"] not in keep]
    for generation_id in held:
        update(
            connection,
            "claimed_by = NULL, status = 'pending', step = 0, retry_count = retry_count + 1, "
            "crashes = crashes + :crash",
            "id = :id",
            {"id": generation_id, "crash": crash},
            now,
        )
    return len(held)


def _fail_exhausted(connection: sqlite3.Connection, max_retries: int, now: int) -> int:
    warning = "Enhancing this prompt crashed the worker repeatedly; the original prompt is used."
    while update(
        connection,
        f"stage = 'paint', crashes = 0, {_ADD_WARNINGS}, enhanced_at = :now",
        "number = (SELECT number FROM generations WHERE stage = 'enhance' "
        "AND claimed_by IS NULL AND crashes > :max_retries LIMIT 1)",
        {"warnings": json.dumps([warning]), "max_retries": max_retries},
        now,
    ):
        pass
    failed = 0
    while ended := update(
        connection,
        "status = 'failed', stage = 'done', failure = 'given_up', error_message = "
        "'Abandoned: the worker crashed ' || crashes || ' times while it painted this picture'",
        "number = (SELECT number FROM generations WHERE stage = 'paint' "
        "AND claimed_by IS NULL AND crashes > :max_retries LIMIT 1)",
        {"max_retries": max_retries},
        now,
    ):
        with log_context(generation_id=ended.id, request_id=ended.request_id):
            logger.error("failed: %s", ended.error_message)
        failed += 1
    return failed


def _is_held(connection: sqlite3.Connection, generation_id: str, worker_id: str) -> bool:
    sql = "SELECT 1 FROM generations WHERE id = ? AND claimed_by = ?"
    return connection.execute(sql, (generation_id, worker_id)).fetchone() is not None
