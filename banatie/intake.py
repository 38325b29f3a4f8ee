"""What a client can do with generations: submit, get, list, cancel, delete and restore them.

The web's side, whatever the protocol: HTTP and the command line both call it. Every method may wait
for the disk, so the API calls them in threads.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec

from banatie.config import Limits
from banatie.enhancement.prompt_tags import apply_tags
from banatie.errors import GenerationNotFound, ModelNotFound, ValidationError
from banatie.jobs import JobQueue, Stage
from banatie.limits import (
    MAX_GUIDANCE_SCALE,
    MAX_LORA_WEIGHT,
    MAX_LORAS,
    MAX_META_DEPTH,
    MAX_SEED,
    MAX_STEPS,
    MIN_STEPS,
)
from banatie.logs import log_context
from banatie.models.catalog import Catalog
from banatie.records import CANCELLED, Generation, LoraUse, Submission
from banatie.store.files import Files
from banatie.store.generations import Generations, IdempotentRequest, LiveSubmission, Submitted

logger = logging.getLogger(__name__)


class Intake:
    """What a client can do with generations."""

    def __init__(
        self,
        generations: Generations,
        files: Files,
        queues: Mapping[Stage, JobQueue],
        limits: Limits,
        catalog: Catalog,
        clock: Callable[[], int],
    ) -> None:
        self._generations = generations
        self._files = files
        self._queues = queues
        self._limits = limits
        self._catalog = catalog
        self._clock = clock

    def submit(
        self,
        project_id: str,
        submission: Submission,
        idempotent: IdempotentRequest | None = None,
        request_id: str | None = None,
        live: LiveSubmission | None = None,
    ) -> Submitted:
        """Accept a generation: once this returns, it is never lost.

        `request_id` goes with it into the worker's logs. Raises ValidationError and QueueFull.
        """
        self._check(submission)
        submission, warnings = apply_tags(submission, self._catalog)
        submitted = self._generations.submit(
            project_id,
            submission,
            self._clock(),
            queue_size=self._limits.queue_size,
            idempotent=idempotent,
            live=live,
            request_id=request_id,
            warnings=warnings,
        )
        generation = submitted.generation
        if submitted.is_new and generation is not None:
            _log(generation, "accepted")
            stage: Stage = "enhance" if generation.stage == "enhance" else "paint"
            self._queues[stage].notify(generation.id)
        return submitted

    def save_answer(self, idempotent: IdempotentRequest, answer: bytes) -> bytes:
        """Keep the answer for the same request sent again; the one that was kept first."""
        return self._generations.save_answer(idempotent, answer)

    def get(self, project_id: str, generation_id: str) -> Generation:
        """The project's generation. Raises GenerationNotFound, also for what is no UUID."""
        return self._generations.get(project_id, _uuid(generation_id))

    def page(
        self,
        project_id: str,
        *,
        status: str | None,
        limit: int,
        offset: int,
        include_deleted: bool,
    ) -> tuple[list[Generation], int]:
        """A page of the project's generations, newest first, and their number in all."""
        return self._generations.page(
            project_id, status=status, limit=limit, offset=offset, include_deleted=include_deleted
        )

    def cancel(self, project_id: str, generation_id: str) -> Generation:
        """Stop the generation within one denoising step; one that has ended stays as it is."""
        generation = self._generations.cancel(project_id, _uuid(generation_id), self._clock())
        if generation.error_message == CANCELLED:
            _log(generation, "cancelled")
        return generation

    def delete(self, project_id: str, generation_id: str) -> None:
        """Remove the generation and its picture for good."""
        storage_key = self._generations.delete(project_id, _uuid(generation_id))
        with log_context(generation_id=generation_id.lower()):
            logger.info("deleted")
        if storage_key is not None:
            # After the row: a crash in between leaves a file that the next sweep removes.
            self._files.remove(storage_key)

    def soft_delete(self, project_id: str, generation_id: str) -> Generation:
        """Hide the generation from the list, and cancel it if it has not ended."""
        generation = self._generations.soft_delete(project_id, _uuid(generation_id), self._clock())
        _log(generation, "soft-deleted")
        return generation

    def restore(self, project_id: str, generation_id: str) -> Generation:
        """Take the generation out of the bin."""
        return self._generations.restore(project_id, _uuid(generation_id), self._clock())

    def loras(self) -> list[str]:
        """The names of the LoRAs that a submission may ask for."""
        return sorted(self._catalog.loras())

    def check_meta(self, meta: Mapping[str, Any]) -> None:
        """Raise ValidationError if a client's own data is too large or nested too deeply."""
        if _depth(meta) > MAX_META_DEPTH:
            raise ValidationError.of("meta", f"is nested deeper than {MAX_META_DEPTH} levels")
        if len(msgspec.json.encode(meta)) > self._limits.meta_bytes:
            raise ValidationError.of(
                "meta", f"is larger than {self._limits.meta_bytes} bytes of JSON"
            )

    def _check(self, submission: Submission) -> None:
        if not submission.prompt.strip():
            raise ValidationError.of("prompt", "must not be blank")
        for field in ("prompt", "negative_prompt"):
            length = len(getattr(submission, field))
            if length > self._limits.prompt_characters:
                name = "prompt" if field == "prompt" else "negativePrompt"
                raise ValidationError.of(
                    name,
                    f"has {length} characters; at most {self._limits.prompt_characters} are read",
                )
        _check_range("seed", submission.seed, 0, MAX_SEED)
        _check_range("steps", submission.steps, MIN_STEPS, MAX_STEPS)
        _check_range("guidanceScale", submission.guidance_scale, 0, MAX_GUIDANCE_SCALE)
        self._check_loras(submission.loras)
        self.check_meta(submission.meta)

    def _check_loras(self, loras: Sequence[LoraUse]) -> None:
        if len(loras) > MAX_LORAS:
            raise ValidationError.of(
                "loras", f"at most {MAX_LORAS} can be used at once, not {len(loras)}"
            )
        names = [lora.name for lora in loras]
        for lora in loras:
            # The comparison is false for a weight that is not a number, too.
            if not -MAX_LORA_WEIGHT <= lora.weight <= MAX_LORA_WEIGHT:
                raise ValidationError.of(
                    "loras",
                    f"the weight of {lora.name!r} must be from {-MAX_LORA_WEIGHT} to "
                    f"{MAX_LORA_WEIGHT}",
                )
            if names.count(lora.name) > 1:
                raise ValidationError.of("loras", f"{lora.name!r} is named more than once")
            try:
                self._catalog.lora(lora.name)
            except ModelNotFound as error:
                raise ValidationError.of("loras", str(error)) from error


def _check_range(field: str, value: float | None, lowest: int, highest: int) -> None:
    if value is not None and not lowest <= value <= highest:
        raise ValidationError.of(field, f"must be from {lowest} to {highest}")


def _log(generation: Generation, what: str) -> None:
    with log_context(generation_id=generation.id, request_id=generation.request_id):
        logger.info(what)


def _depth(value: object) -> int:
    """How deep objects and lists lie in each other; no further than it matters."""
    depth, level = 0, [value]
    while level and depth <= MAX_META_DEPTH:
        inner = [
            v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list)
        ]
        depth += bool(inner)
        level = [each for values in inner for each in values]
    return depth


def _uuid(text: str) -> str:
    # Ids are stored in lower case with hyphens; other spellings are other ids.
    try:
        well_formed = str(UUID(text)) == text.lower()
    except ValueError:
        well_formed = False
    if not well_formed:
        raise GenerationNotFound(text)
    return text.lower()
