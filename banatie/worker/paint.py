"""The paint stage: takes rows in batches, starts them, paints them and passes them on to be saved.

Rows of a batch whose texts differ in length are painted one group after the other. A batch that
runs out of memory is painted again, one by one, with a smaller plan if there is one. How pictures
are painted or saved is not known here.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import zip_longest

from PIL import Image as PillowImage

from banatie.enhancement.prompt_syntax import without_tags
from banatie.errors import OutOfMemory, UnusablePicture
from banatie.imaging.formats import encode_preview
from banatie.models.catalog import Catalog
from banatie.models.known_words import KnownWords
from banatie.models.types import PaintingModel
from banatie.painting.job import PaintJob
from banatie.painting.lora import Lora
from banatie.records import Generation
from banatie.worker.claimed_rows import ClaimedRows
from banatie.worker.outcome import Finished, StageAborted, record_unfinished, run_stage
from banatie.worker.placement import ModelPlacement
from banatie.worker.save import PaintedJob, SaveStage
from banatie.worker.watchdog import Activity

logger = logging.getLogger(__name__)

LARGER_MODEL = "sdxl-lightning-4step"
"""What to get when the model does not know what a prompt names."""
PROGRESS_SECONDS = 0.25
"""How far apart the progress is recorded: a few times a second is enough for a progress bar."""


@dataclass(frozen=True)
class StartedJob:
    """A row that is being painted, and what it is painted from."""

    generation: Generation
    job: PaintJob
    chunks: int
    """The length of its texts; see `Painter.chunks`."""
    warnings: tuple[str, ...]
    """What the record is to say besides, once the picture is there."""


@dataclass(frozen=True)
class JobBuilder:
    """Makes paint jobs out of rows, with the painting model's defaults and the catalog's LoRAs."""

    model: PaintingModel
    catalog: Catalog

    def build(self, generation: Generation) -> PaintJob:
        """The row's job. Raises ModelNotFound for a LoRA that is not installed."""
        width, height = self.model.sizes[generation.aspect_ratio]
        guidance = generation.guidance_scale
        loras = [
            Lora(use.name, self.catalog.lora(use.name), use.weight) for use in generation.loras
        ]
        return PaintJob(
            # The tags are settings of other programs. Those of LoRAs that are here were applied.
            prompt=without_tags(generation.prompt),
            negative_prompt=without_tags(generation.negative_prompt),
            width=width,
            height=height,
            steps=generation.steps or self.model.steps,
            guidance_scale=self.model.guidance_scale if guidance is None else guidance,
            seed=generation.seed,
            loras=tuple(loras),
        )

    def warnings(self, generation: Generation) -> tuple[str, ...]:
        """What the model cannot paint of what the user asked for."""
        words = self._known_words
        if words is None or words.names_any(without_tags(generation.original_prompt)):
            return ()
        return (
            f"The model {self.model.name} knows nothing that this prompt names: it paints few "
            "things, each by its name in the singular. Get a larger "
            f"model: `banatie models pull {LARGER_MODEL}`, then `banatie models use "
            f"{LARGER_MODEL}`.",
        )

    @cached_property
    def _known_words(self) -> KnownWords | None:
        return KnownWords.load(self.model.folder)


class PaintStage:
    """Paints the rows that wait."""

    def __init__(
        self,
        rows: ClaimedRows,
        placement: ModelPlacement,
        jobs: JobBuilder,
        save: SaveStage,
        activity: Activity,
        *,
        previews: bool,
    ) -> None:
        """`activity` is told of each step. With `previews`, the progress has a small picture."""
        self._rows = rows
        self._placement = placement
        self._painter = placement.painter
        self._jobs = jobs
        self._save = save
        self._activity = activity
        self._previews = previews

    def run_waiting(self, _id: str = "") -> None:
        """Paint every row that waits for it, oldest first; returns when all are saved."""
        while True:
            if batch := self._rows.claim_batch(self._placement.plan.batch):
                try:
                    self._paint_batch(batch)
                finally:
                    self._rows.release(batch)
            elif not self._save.wait():
                return

    def _paint_batch(self, batch: Sequence[Generation]) -> None:
        """Paint these in groups of the same prompt length."""
        groups: dict[int, list[StartedJob]] = defaultdict(list)
        for generation in batch:
            if started := self._start(generation):
                groups[started.chunks].append(started)
        for group in groups.values():
            self._paint_group(group)

    def _start(self, generation: Generation) -> StartedJob | None:
        """Record what the row is painted with; None if it is not to be painted."""
        now = time.monotonic()
        outcome = run_stage([generation], partial(self._start_row, generation))
        if isinstance(outcome, Finished):
            return outcome.value
        record_unfinished(self._rows, [generation], outcome, now)
        return None

    def _start_row(self, generation: Generation) -> StartedJob:
        job = self._jobs.build(generation)
        if not self._rows.claims.start_painting(
            generation.id,
            model=self._jobs.model.name,
            steps=job.steps,
            guidance_scale=job.guidance_scale,
            now=self._rows.clock(),
        ):
            raise StageAborted
        logger.info("painting")
        warnings = self._jobs.warnings(generation)
        return StartedJob(generation, job, self._painter.chunks(job), warnings)

    def _paint_group(self, group: Sequence[StartedJob], *, is_retry: bool = False) -> None:
        started = time.monotonic()
        generations = [each.generation for each in group]
        outcome = run_stage(generations, partial(self._paint, group, is_retry))
        if not isinstance(outcome, Finished):
            record_unfinished(self._rows, generations, outcome, started)
        elif outcome.value is None:
            for each in group:
                self._paint_group([each], is_retry=True)
        else:
            ended = time.monotonic()
            self._save.submit(
                [
                    PaintedJob(each.generation, each.job, picture, started, ended, each.warnings)
                    for each, picture in zip(group, outcome.value, strict=True)
                ]
            )

    def _paint(
        self, group: Sequence[StartedJob], is_retry: bool
    ) -> Sequence[PillowImage.Image | UnusablePicture] | None:
        """The pictures; None if memory ran out and they are to be painted again one by one."""
        try:
            with self._activity.working(), self._placement.painting():
                return self._painter.paint_batch(
                    [each.job for each in group], self._progress(group)
                )
        except OutOfMemory:
            # Even without a smaller plan, one by one takes less than all at once.
            if not is_retry and (self._placement.step_down() or len(group) > 1):
                return None
            raise

    def _progress(self, group: Sequence[StartedJob]) -> Callable[[int, int], None]:
        """What the painter calls after each step; it raises StageAborted to stop the painting."""
        recorded = time.monotonic()

        def on_step(step: int, steps: int) -> None:
            nonlocal recorded
            self._activity.progress()
            # A cancelled job of a batch is still painted with the others, and then discarded.
            if not any(self._rows.is_wanted(each.generation) for each in group):
                raise StageAborted
            if step < steps and time.monotonic() - recorded >= PROGRESS_SECONDS:
                recorded = time.monotonic()
                previews = self._painter.previews() if self._previews else []
                for each, preview in zip_longest(group, previews):
                    jpeg = encode_preview(preview) if preview else None
                    self._rows.claims.record_step(
                        each.generation.id, step, self._rows.clock(), jpeg
                    )

        return on_step
