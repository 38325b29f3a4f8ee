"""The paint stage: takes rows in batches, starts them, paints them and passes them on to be saved.

Rows of a batch whose texts differ in length, or that use references in other ways, are painted one
group after the other. A batch that
runs out of memory is painted again, one by one, with a smaller plan if there is one. How pictures
are painted or saved is not known here.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest

from PIL import Image as PillowImage

from banatie.errors import OutOfMemory, UnusablePicture
from banatie.imaging.formats import encode_preview
from banatie.painting.job import PaintJob
from banatie.records import Generation
from banatie.worker.claimed_rows import ClaimedRows
from banatie.worker.job_builder import JobBuilder
from banatie.worker.outcome import Finished, StageAborted, record_unfinished, run_stage
from banatie.worker.placement import ModelPlacement
from banatie.worker.save import PaintedJob, SaveStage
from banatie.worker.watchdog import Activity

logger = logging.getLogger(__name__)

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
        """Paint these in groups of the same prompt length and the same use of references."""
        groups: dict[object, list[StartedJob]] = defaultdict(list)
        for generation in batch:
            if started := self._start(generation):
                groups[started.chunks, started.job.batch_key].append(started)
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
            reference_strength=job.reference_strength if job.mode else None,
            reference_mode=job.mode,
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
            if not is_retry and (self._placement.step_down(_enlarged(group)) or len(group) > 1):
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
                    # Painted from a reference, or enlarged, it takes fewer or more steps than the
                    # record says, of which these are counted as parts.
                    counted = step * each.job.steps // steps
                    self._rows.claims.record_step(
                        each.generation.id, counted, self._rows.clock(), jpeg
                    )

        return on_step


def _enlarged(group: Sequence[StartedJob]) -> int:
    """The pixels of the picture if it is an enlarged one, else 0."""
    width, height = group[0].job.final_size
    return width * height if group[0].job.upscale > 1 else 0
