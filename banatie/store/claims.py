"""The worker's side of the generations: taking a row, reporting on it, giving it back.

A worker holds a row while `claimed_by` names it. Whatever it reports about a row that it holds no
longer (cancelled, deleted, given back) changes nothing and answers False. The rows of a worker that
is dead are given back by another; who is dead, `locks` knows.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Collection, Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

from banatie.logs import log_context
from banatie.records import EnhancementNote, Generation, Image
from banatie.store.database import Database
from banatie.store.generation_rows import update
from banatie.store.images import insert_image
from banatie.store.previews import write_preview
from banatie.store.statistics import count_durations

logger = logging.getLogger(__name__)

NO_DURATIONS: Mapping[str, float] = MappingProxyType({})


class Claims:
    """The rows as the worker `worker_id` may change them."""

    def __init__(self, database: Database, worker_id: str) -> None:
        self._database = database
        self.worker_id = worker_id

    def waiting(self, stage: str) -> bool:
        """Whether a row waits for this stage and nobody holds it."""
        return (
            self._database.first(
                "SELECT 1 FROM generations WHERE stage = ? AND claimed_by IS NULL LIMIT 1",
                (stage,),
            )
            is not None
        )

    def claim(self, stage: str, now: int) -> Generation | None:
        """Take the row that has waited longest for this stage; when painted, it is processing.

        A row that was held in a crash is worked on alone in its worker: should it bring that down
        again, no other row pays for it.
        """
        status = "processing" if stage == "paint" else "pending"
        with self._database.writing() as connection:
            taken = update(
                connection,
                "claimed_by = :worker, status = :status, step = 0",
                "number = (SELECT number FROM generations WHERE stage = :stage "
                "AND claimed_by IS NULL ORDER BY number LIMIT 1) AND NOT EXISTS (SELECT 1 "
                "FROM generations AS held WHERE held.claimed_by = :worker "
                "AND (held.crashes > 0 OR generations.crashes > 0))",
                {"worker": self.worker_id, "status": status, "stage": stage},
                now,
            )
            # One that is taken up again has not waited all that time.
            if taken is not None and not taken.retry_count:
                since = taken.enhanced_at or taken.created_at
                count_durations(connection, {f"{stage}_wait": (now - since) / 1000})
            return taken

    def claim_like(self, first: Generation, most: int, now: int) -> list[Generation]:
        """Take up to `most` more rows that can be painted with `first`, which is held.

        They have its ratio, steps, guidance and LoRAs. Neither they nor it were held in a crash.
        """
        if first.crashes:
            return []
        taken: list[Generation] = []
        alike = {
            "ratio": first.aspect_ratio,
            "steps": first.steps,
            "guidance": first.guidance_scale,
            "first": first.id,
        }
        with self._database.writing() as connection:
            while len(taken) < most:
                generation = update(
                    connection,
                    "claimed_by = :worker, status = 'processing', step = 0",
                    "number = (SELECT number FROM generations WHERE stage = 'paint' "
                    "AND claimed_by IS NULL AND crashes = 0 AND aspect_ratio = :ratio "
                    "AND steps IS :steps AND guidance_scale IS :guidance AND loras = "
                    "(SELECT loras FROM generations WHERE id = :first) ORDER BY number LIMIT 1)",
                    {"worker": self.worker_id, **alike},
                    now,
                )
                if generation is None:
                    break
                taken.append(generation)
        return taken

    def holds(self, generation_id: str) -> bool:
        """Whether the worker still holds the row: not so once it is cancelled or deleted."""
        return (
            self._database.first(
                "SELECT 1 FROM generations WHERE id = ? AND claimed_by = ?",
                (generation_id, self.worker_id),
            )
            is not None
        )

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
        """Give the row its prompt and let it wait for painting."""
        return self._change_held(
            generation_id,
            "stage = 'paint', claimed_by = NULL, crashes = 0, prompt = :prompt, "
            "enhancement = :note, warnings = :warnings, enhanced_at = :now",
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
    ) -> bool:
        """Write down what the row is painted with."""
        values = {"model": model, "steps": steps, "guidance": guidance_scale}
        assignments = "model = :model, steps = :steps, guidance_scale = :guidance"
        return self._change_held(generation_id, assignments, values, now)

    def record_step(
        self, generation_id: str, step: int, now: int, preview: bytes | None = None
    ) -> bool:
        """Write down how many denoising steps are done, and what the picture looks like by then.

        `preview` is a JPEG.
        """
        values = {"step": step, "id": generation_id, "worker": self.worker_id}
        where = "id = :id AND claimed_by = :worker"
        with self._database.writing() as connection:
            changed = update(connection, "step = :step", where, values, now) is not None
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
    ) -> bool:
        """Give the row its image, whose file must be there already."""
        with self._database.writing() as connection:
            held = connection.execute(
                "SELECT 1 FROM generations WHERE id = ? AND claimed_by = ?",
                (generation_id, self.worker_id),
            ).fetchone()
            if held is None:
                return False
            insert_image(connection, image)
            update(
                connection,
                "status = 'success', stage = 'done', claimed_by = NULL, image_id = :image_id, "
                "step = steps, processing_time_ms = :milliseconds",
                "id = :id",
                {"id": generation_id, "image_id": image.id, "milliseconds": processing_time_ms},
                now,
            )
            count_durations(connection, durations)
            return True

    def fail(self, generation_id: str, message: str, now: int, reason: str = "unforeseen") -> bool:
        """End the row with a message for people and a reason in a word."""
        assignments = (
            "status = 'failed', stage = 'done', claimed_by = NULL, error_message = :why, "
            "failure = :reason"
        )
        values = {"why": message, "reason": reason}
        return self._change_held(generation_id, assignments, values, now)

    def release_claims(self, now: int, *, but: Collection[str] = ()) -> int:
        """Let every row that this worker holds, `but` these, wait again; how many there were.

        For when it is going, or has let them fall.
        """
        find = "SELECT id FROM generations WHERE claimed_by = ?"
        if all(row["id"] in but for row in self._database.query(find, (self.worker_id,))):
            return 0
        with self._database.writing() as connection:
            return _release(connection, self.worker_id, now, crash=0, but=but)

    def other_holders(self) -> set[str]:
        """The other workers, dead or alive, that hold rows."""
        holders = self._database.query(
            "SELECT DISTINCT claimed_by FROM generations WHERE claimed_by IS NOT NULL"
        )
        return {row["claimed_by"] for row in holders} - {self.worker_id}

    def release_dead(self, worker_id: str, max_retries: int, now: int) -> tuple[int, int]:
        """Let every row that a dead worker held wait again; how many, and how many were given up.

        Its end is counted against them, and those with more than `max_retries` such ends are given
        up before anybody else can take them.
        """
        with self._database.writing() as connection:
            returned = _release(connection, worker_id, now, crash=1)
            return returned, _give_up(connection, max_retries, now)

    def give_up(self, max_retries: int, now: int) -> int:
        """End the rows that brought a worker down more than `max_retries` times; how many.

        Those that did so while they were enhanced are painted from the original prompt instead.
        """
        with self._database.writing() as connection:
            return _give_up(connection, max_retries, now)

    def _change_held(
        self,
        generation_id: str,
        assignments: str,
        values: dict[str, Any],
        now: int,
        durations: Mapping[str, float] = NO_DURATIONS,
    ) -> bool:
        values = {**values, "id": generation_id, "worker": self.worker_id}
        where = "id = :id AND claimed_by = :worker"
        with self._database.writing() as connection:
            changed = update(connection, assignments, where, values, now) is not None
            if changed:
                count_durations(connection, durations)
            return changed


def _release(
    connection: sqlite3.Connection, holder: str, now: int, *, crash: int, but: Collection[str] = ()
) -> int:
    find = "SELECT id FROM generations WHERE claimed_by = ?"
    held = [row["id"] for row in connection.execute(find, (holder,)) if row["id"] not in but]
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


def _give_up(connection: sqlite3.Connection, max_retries: int, now: int) -> int:
    warning = "The language model broke down on this prompt; the original prompt is used."
    while update(
        connection,
        "stage = 'paint', crashes = 0, warnings = :warnings, enhanced_at = :now",
        "number = (SELECT number FROM generations WHERE stage = 'enhance' "
        "AND claimed_by IS NULL AND crashes > :max_retries LIMIT 1)",
        {"warnings": json.dumps([warning]), "max_retries": max_retries},
        now,
    ):
        pass
    given_up = 0
    while ended := update(
        connection,
        "status = 'failed', stage = 'done', failure = 'given_up', error_message = "
        "'Given up: the worker broke down ' || crashes || ' times while it made this picture'",
        "number = (SELECT number FROM generations WHERE stage = 'paint' "
        "AND claimed_by IS NULL AND crashes > :max_retries LIMIT 1)",
        {"max_retries": max_retries},
        now,
    ):
        with log_context(generation_id=ended.id, request_id=ended.request_id):
            logger.error("failed: %s", ended.error_message)
        given_up += 1
    return given_up
