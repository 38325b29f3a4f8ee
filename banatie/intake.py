"""What a client can do with generations: submit, get, change, cancel, delete, restore them.

The web's side, whatever the protocol: HTTP and the command line both call it. Every method may wait
for the disk, so the API calls them in threads.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from banatie.checks import SubmissionChecks
from banatie.config import Limits
from banatie.enhancement.prompt_tags import apply_tags
from banatie.errors import GenerationNotFound
from banatie.jobs import JobQueue, Stage
from banatie.logs import log_context
from banatie.models.catalog import Catalog
from banatie.models.types import Entry, PaintingModel, Size
from banatie.records import CANCELLED, Generation, LoraUse, Submission
from banatie.store.aliases import as_uuid
from banatie.store.files import Files
from banatie.store.generations import Generations, IdempotentRequest, LiveSubmission, Submitted
from banatie.store.regeneration import Changes, Regeneration

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
        checks: SubmissionChecks,
        regeneration: Regeneration,
        clock: Callable[[], int],
        webhooks: Sequence[str] = (),
    ) -> None:
        """`webhooks` are told of the end of every generation."""
        self._webhooks = webhooks
        self._generations = generations
        self._files = files
        self._queues = queues
        self._limits = limits
        self._catalog = catalog
        self._checks = checks
        self._regeneration = regeneration
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
        self._checks.check(submission)
        submission = self._checks.with_sampler(submission)
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
            webhooks=self._webhooks,
        )
        generation = submitted.generation
        if submitted.is_new and generation is not None:
            _log(generation, "accepted")
            self._notify(generation)
        return submitted

    def change(self, project_id: str, generation_id: str, changes: Changes) -> Generation:
        """Change the record; a new prompt or aspect ratio makes the picture again.

        Raises ValidationError, GenerationNotFound and QueueFull.
        """
        before = self.get(project_id, generation_id)
        if changes.meta is not None:
            self._checks.check_meta(changes.meta)
        prompt = before.original_prompt if changes.prompt is None else changes.prompt
        self._checks.check_prompt(prompt)
        loras, warnings = self._applied_tags(before, prompt)
        generation, is_again = self._regeneration.change(
            project_id,
            before.id,
            replace(changes, loras=loras),
            self._clock(),
            queue_size=self._limits.queue_size,
            warnings=warnings,
        )
        if is_again:
            _log(generation, "to be made again")
            self._notify(generation)
        return generation

    def regenerate(self, project_id: str, generation_id: str) -> Generation:
        """Make the picture again as it is. Raises GenerationNotFound and QueueFull."""
        before = self.get(project_id, generation_id)
        generation = self._regeneration.again(
            project_id,
            before.id,
            self._clock(),
            queue_size=self._limits.queue_size,
            warnings=self._applied_tags(before, before.original_prompt)[1],
        )
        _log(generation, "to be made again")
        self._notify(generation)
        return generation

    def save_answer(self, idempotent: IdempotentRequest, answer: bytes) -> bytes:
        """Keep the answer for the same request sent again; the one that was kept first."""
        return self._generations.save_answer(idempotent, answer)

    def get(self, project_id: str, generation_id: str) -> Generation:
        """The project's generation. Raises GenerationNotFound, also for what is no UUID."""
        return self._generations.get(project_id, _uuid(generation_id))

    def cancel(self, project_id: str, generation_id: str) -> Generation:
        """Stop the generation within one denoising step; one that has ended stays as it is."""
        generation = self._generations.cancel(project_id, _uuid(generation_id), self._clock())
        if generation.error_message == CANCELLED:
            _log(generation, "cancelled")
        return generation

    def delete(self, project_id: str, generation_id: str) -> None:
        """Remove the generation for good, and its picture unless that has a name."""
        storage_key = self._generations.delete(project_id, _uuid(generation_id), self._clock())
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

    def painting_model(self) -> PaintingModel | None:
        """The model that paints; None while it is not installed."""
        return self._checks.painting_model()

    def nearest_size(self, width: int, height: int, *, own_pixels: bool = False) -> Size:
        """The size in this shape to paint for one that may be too large, too small or uneven.

        With `own_pixels`, of no more pixels than the model's own sizes have.
        """
        return self._checks.nearest_size(width, height, own_pixels=own_pixels)

    def loras(self) -> list[str]:
        """The names of the LoRAs that a submission may ask for."""
        return sorted(self._catalog.loras())

    def painting_models(self) -> list[Entry]:
        """The painting models that are installed."""
        return [each for each in self._catalog.installed() if each.kind == "painting"]

    def _notify(self, generation: Generation) -> None:
        stage: Stage = "enhance" if generation.stage == "enhance" else "paint"
        self._queues[stage].notify(generation.id)

    def _applied_tags(
        self, before: Generation, prompt: str
    ) -> tuple[tuple[LoraUse, ...], tuple[str, ...]]:
        """The LoRAs of the generation with this prompt, and warnings of what is left out."""
        syntax = before.prompt_syntax
        own = Submission(before.original_prompt)
        of_tags = {lora.name for lora in apply_tags(own, self._catalog)[0].loras}
        others = tuple(lora for lora in before.loras if lora.name not in of_tags)
        changed = Submission(
            prompt, negative_prompt=before.negative_prompt, loras=others, prompt_syntax=syntax
        )
        submission, warnings = apply_tags(changed, self._catalog)
        return submission.loras, warnings


def _log(generation: Generation, what: str) -> None:
    with log_context(generation_id=generation.id, request_id=generation.request_id):
        logger.info(what)


def _uuid(text: str) -> str:
    generation_id = as_uuid(text)
    if generation_id is None:
        raise GenerationNotFound(text)
    return generation_id
