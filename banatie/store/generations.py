"""The generations' rows, which are the source of truth, and the client's side of their states.

    pending/enhance ──finish_enhancement──▶ pending/paint ──claim──▶ processing/paint
           │                                     │                         │
           └──────────────── cancel, fail ───────┴─────────────────────────┴──▶ failed/done
                                                                   succeed ──▶ success/done

The client's side: submit, find, cancel, delete. The worker's side is in `claims`. Each change
is one transaction. Files and queues are unknown here.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from banatie.errors import (
    AliasNotFound,
    DiskFull,
    GenerationNotFound,
    ImageNotFound,
    QueueFull,
    ValidationError,
)
from banatie.limits import MAX_SEED
from banatie.records import CANCELLED, Generation, Submission
from banatie.store.aliases import find_image, find_references
from banatie.store.database import Database
from banatie.store.disk import is_full
from banatie.store.flows import touch_flow
from banatie.store.generation_rows import (
    SELECT,
    count_waiting,
    encode_references,
    find,
    next_revision,
    to_generation,
    update,
)
from banatie.store.image_removal import remove_image
from banatie.store.webhooks import add_webhooks

IDEMPOTENCY_HOURS = 24
SECONDS_PER_WAITING_JOB = 5
"""A low estimate for Retry-After: the device's speed is unknown, and clients can ask again."""


@dataclass(frozen=True)
class IdempotentRequest:
    """A POST that may be sent repeatedly and must take effect once."""

    key_id: str
    idempotency_key: str
    body_hash: str


@dataclass(frozen=True)
class Submitted:
    """The result of a submission: the new row, or the row of the same request sent earlier."""

    generation: Generation | None
    """None when the earlier request's generation has been deleted since."""
    is_new: bool
    answer: bytes | None = None
    """The answer to the earlier request, if it was answered."""


class LiveSubmission(Protocol):
    """A live URL's request: many of them make one generation (see `live_images`)."""

    def earlier(self, connection: sqlite3.Connection) -> Submitted | None:
        """The generation of an earlier request, if it will do."""

    def record(self, connection: sqlite3.Connection, generation_id: str, now: int) -> None:
        """Remember the generation that was inserted; what this raises undoes that."""


class Generations:
    """The generations in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # Submitting

    def submit(
        self,
        project_id: str,
        submission: Submission,
        now: int,
        *,
        queue_size: int,
        idempotent: IdempotentRequest | None = None,
        live: LiveSubmission | None = None,
        request_id: str | None = None,
        warnings: Sequence[str] = (),
        webhooks: Sequence[str] = (),
    ) -> Submitted:
        """Insert a pending row, unless the same request came before.

        `warnings` tell what of the request is not carried out. `webhooks` are told of the end,
        beside the submission's own. Raises QueueFull if `queue_size`
        rows are pending already, DiskFull, ValidationError if the idempotency key was used with
        another body or a reference means no image, and what `live` raises.
        """
        row = _pending_row(project_id, submission, now, request_id)
        require_room(self._database)
        with self._database.writing() as connection:
            if idempotent is not None:
                earlier = _find_earlier(connection, idempotent, now)
                if earlier is not None:
                    return earlier
            if live is not None and (earlier := live.earlier(connection)) is not None:
                return earlier
            if count_waiting(connection) >= queue_size:
                raise QueueFull(queue_size, SECONDS_PER_WAITING_JOB)
            row["revision"] = next_revision(connection)
            # A live URL is open to all, so its prompt must not name the project's images.
            is_open = live is not None
            more_warnings = [] if is_open else _resolve(connection, project_id, submission, row)
            row["warnings"] = json.dumps([*warnings, *more_warnings])
            _insert(connection, row)
            add_webhooks(connection, row["id"], submission.webhook, webhooks)
            if idempotent is not None:
                connection.execute(
                    "INSERT INTO idempotent_requests VALUES (?, ?, ?, ?, NULL, ?)",
                    (*asdict(idempotent).values(), row["id"], now),
                )
            if live is not None:
                live.record(connection, row["id"], now)
            return Submitted(find(connection, row["id"]), is_new=True)

    def save_answer(self, idempotent: IdempotentRequest, answer: bytes) -> bytes:
        """Store the answer for repeated requests, unless one is stored; return the stored one."""
        with self._database.writing() as connection:
            kept = connection.execute(
                "UPDATE idempotent_requests SET answer = coalesce(answer, ?) "
                "WHERE key_id = ? AND idempotency_key = ? RETURNING answer",
                (answer, idempotent.key_id, idempotent.idempotency_key),
            ).fetchone()
            return kept["answer"] if kept else answer

    # Reading

    def find(self, generation_id: str) -> Generation | None:
        """The generation of any project, if it exists."""
        row = self._database.first(SELECT + " WHERE generations.id = ?", (generation_id,))
        return to_generation(row) if row else None

    def get(self, project_id: str, generation_id: str) -> Generation:
        """The project's generation, also if soft-deleted. Raises GenerationNotFound."""
        generation = self.find(generation_id)
        if generation is None or generation.project_id != project_id:
            raise GenerationNotFound(generation_id)
        return generation

    def count(self) -> int:
        """The number of generations of all projects."""
        return self._database.scalar("SELECT coalesce(sum(generations), 0) FROM generation_counts")

    def changed_since(self, revision: int) -> list[Generation]:
        """The generations changed after `revision`, in the order of the changes."""
        rows = self._database.query(SELECT + " WHERE revision > ? ORDER BY revision", (revision,))
        return [to_generation(row) for row in rows]

    def latest_revision(self) -> int:
        """The revision of the latest change."""
        return self._database.scalar("SELECT latest FROM revisions")

    # Changing

    def cancel(self, project_id: str, generation_id: str, now: int) -> Generation:
        """Cancel the generation unless it has ended; return it. Raises GenerationNotFound."""
        self._change(
            "status = 'failed', stage = 'done', claimed_by = NULL, error_message = :why, "
            "failure = 'cancelled'",
            "id = :id AND project_id = :project AND status IN ('pending', 'processing')",
            {"id": generation_id, "project": project_id, "why": CANCELLED},
            now,
        )
        return self.get(project_id, generation_id)

    def delete(self, project_id: str, generation_id: str, now: int) -> str | None:
        """Delete the row and its image's row; the storage key of the file to delete afterwards.

        An image with an alias in the project stays. Raises GenerationNotFound.
        """

        return self._database.free_space(
            lambda connection: _delete(connection, project_id, generation_id, now)
        )

    def soft_delete(self, project_id: str, generation_id: str, now: int) -> Generation:
        """Mark the row as deleted, and cancel it unless it has ended. Raises GenerationNotFound."""
        ended = "status IN ('success', 'failed')"
        changed = self._change(
            "deleted_at = :now, stage = 'done', claimed_by = NULL, "
            f"error_message = CASE WHEN {ended} THEN error_message ELSE :why END, "
            f"failure = CASE WHEN {ended} THEN failure ELSE 'cancelled' END, "
            f"status = CASE WHEN {ended} THEN status ELSE 'failed' END",
            "id = :id AND project_id = :project AND deleted_at IS NULL",
            {"id": generation_id, "project": project_id, "why": CANCELLED},
            now,
        )
        if changed is None:
            raise GenerationNotFound(generation_id)
        return changed

    def restore(self, project_id: str, generation_id: str, now: int) -> Generation:
        """Undo a soft deletion; a row that is not deleted stays as it is.

        Raises GenerationNotFound.
        """
        self._change(
            "deleted_at = NULL",
            "id = :id AND project_id = :project AND deleted_at IS NOT NULL",
            {"id": generation_id, "project": project_id},
            now,
        )
        return self.get(project_id, generation_id)

    # Housekeeping

    def purge_deleted(self, deleted_before: int, now: int) -> list[str]:
        """Delete the rows soft-deleted before then; the storage keys of the files to delete."""
        rows = self._database.query(
            "SELECT project_id, id FROM generations WHERE deleted_at < ?", (deleted_before,)
        )
        keys = [self.delete(row["project_id"], row["id"], now) for row in rows]
        return [key for key in keys if key is not None]

    def purge_idempotent_requests(self, now: int) -> None:
        """Delete the idempotency keys that have expired."""
        with self._database.writing() as connection:
            connection.execute(
                "DELETE FROM idempotent_requests WHERE created_at < ?",
                (now - IDEMPOTENCY_HOURS * 3_600_000,),
            )

    def _change(
        self, assignments: str, where: str, values: dict[str, Any], now: int
    ) -> Generation | None:
        with self._database.writing() as connection:
            return update(connection, assignments, where, values, now)


def _delete(
    connection: sqlite3.Connection, project_id: str, generation_id: str, now: int
) -> str | None:
    deleted = connection.execute(
        "DELETE FROM generations WHERE id = ? AND project_id = ? RETURNING image_id",
        (generation_id, project_id),
    ).fetchone()
    if deleted is None:
        raise GenerationNotFound(generation_id)
    image = connection.execute(
        "SELECT id FROM images WHERE id = ? AND alias IS NULL", (deleted["image_id"],)
    ).fetchone()
    return remove_image(connection, image["id"], now) if image else None


def require_room(database: Database) -> None:
    """On a full disk no picture could be saved, and what room there is serves to delete others."""
    if is_full(database.path.parent):
        raise DiskFull


def _pending_row(
    project_id: str, submission: Submission, now: int, request_id: str | None
) -> dict[str, Any]:
    """The columns of a new row, but for its revision."""
    seed = secrets.randbelow(MAX_SEED + 1) if submission.seed is None else submission.seed
    return {
        "id": str(uuid.uuid4()),
        "project_id": project_id,
        "status": "pending",
        "stage": "enhance" if submission.auto_enhance else "paint",
        "prompt": submission.prompt,
        "original_prompt": submission.prompt,
        "auto_enhance": submission.auto_enhance,
        "template": submission.template,
        "aspect_ratio": submission.aspect_ratio,
        "negative_prompt": submission.negative_prompt,
        "seed": seed,
        "steps": submission.steps,
        "guidance_scale": submission.guidance_scale,
        "loras": json.dumps([asdict(lora) for lora in submission.loras]),
        "width": submission.size[0] if submission.size else None,
        "height": submission.size[1] if submission.size else None,
        "flow_id": submission.flow_id or (str(uuid.uuid4()) if submission.starts_flow else None),
        "alias": submission.alias,
        "flow_alias": submission.flow_alias,
        "reference_strength": submission.reference_strength,
        "upscale": submission.upscale,
        "output_format": submission.output_format,
        "quality": submission.quality,
        "sampler": submission.sampler,
        "scheduler": submission.scheduler,
        "prompt_syntax": submission.prompt_syntax,
        "meta": json.dumps(submission.meta, ensure_ascii=False),
        "created_at": now,
        "updated_at": now,
        "request_id": request_id,
    }


def _resolve(
    connection: sqlite3.Connection, project_id: str, submission: Submission, row: dict[str, Any]
) -> list[str]:
    """Fill in the images that the row refers to, and make its flow; warnings.

    Raises ValidationError naming the parameter whose image does not exist.
    """
    # Nothing is in a flow that is only offered: without a flow, aliases mean the whole project.
    flow_id = submission.flow_id
    references, warnings = find_references(
        connection, project_id, flow_id, submission.references, submission.prompt
    )
    if not references:
        for name, value in (
            ("referenceStrength", submission.reference_strength),
            ("mask", submission.mask),
        ):
            if value is not None:
                raise ValidationError.of(name, "needs a reference image: give referenceImages")
    row["reference_images"] = encode_references(references)
    if submission.mask is not None:
        try:
            mask = find_image(connection, project_id, submission.mask, flow_id)
        except (ImageNotFound, AliasNotFound) as error:
            raise ValidationError.of("mask", str(error)) from error
        row["mask_image_id"] = mask.id
    # An id that was only offered becomes a flow when it is used again, or has a name in it.
    if flow_id is not None or submission.flow_alias is not None:
        touch_flow(connection, project_id, row["flow_id"], row["created_at"])
    return warnings


def _find_earlier(
    connection: sqlite3.Connection, idempotent: IdempotentRequest, now: int
) -> Submitted | None:
    row = connection.execute(
        "SELECT * FROM idempotent_requests WHERE key_id = ? AND idempotency_key = ?",
        (idempotent.key_id, idempotent.idempotency_key),
    ).fetchone()
    if row is None:
        return None
    if row["created_at"] < now - IDEMPOTENCY_HOURS * 3_600_000:
        connection.execute(
            "DELETE FROM idempotent_requests WHERE key_id = ? AND idempotency_key = ?",
            (idempotent.key_id, idempotent.idempotency_key),
        )
        return None
    if row["body_hash"] != idempotent.body_hash:
        raise ValidationError.of(
            "Idempotency-Key", "was used before with another body; use a new key"
        )
    generation = find(connection, row["generation_id"])
    return Submitted(generation, is_new=False, answer=row["answer"])


def _insert(connection: sqlite3.Connection, row: dict[str, Any]) -> None:
    columns, values = ", ".join(row), ", ".join(f":{column}" for column in row)
    connection.execute(f"INSERT INTO generations ({columns}) VALUES ({values})", row)
