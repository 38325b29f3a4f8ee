"""The worker's side: enhance one prompt, paint pictures, and let no failure out of its row.

Painting is six steps in order: take, start, paint, encode, save, finish; the last three go on in a
thread of their own while the next pictures are painted. Every way out of them ends in the row: a
picture, a reason, or the row waiting again. This is the one place that catches what nobody foresaw.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from typing import Protocol

from PIL import Image as PillowImage

import banatie
from banatie.config import Config
from banatie.enhancement.enhancer import Enhancement, Enhancer, Stopped
from banatie.errors import BanatieError, OutOfMemory, PaintingError, ServiceUnavailable
from banatie.imaging import Picture, encode_png, encode_preview, parameters_text
from banatie.jobs import Stage
from banatie.logs import about
from banatie.models.catalog import Catalog
from banatie.models.types import PaintingModel
from banatie.painting.lora import Lora
from banatie.painting.painter import PaintJob
from banatie.records import EnhancementNote, Generation, Image
from banatie.store.claims import Claims
from banatie.store.files import Files, generated_key
from banatie.worker.placement import ModelPlacement

logger = logging.getLogger(__name__)

PROGRESS_SECONDS = 0.25
"""How far apart the progress is written down: a few times a second is enough for a progress bar."""

HUNG_SECONDS = 10.0
"""The language model looks at its time limit between words; past twice that and this, it hangs."""


class Abandoned(Exception):
    """The row is no longer this worker's, or the worker is to stop: put the brush down."""


class OrganizationOf(Protocol):
    """Finds the slug that a project's files lie under."""

    def __call__(self, project_id: str) -> str: ...


@dataclass(frozen=True)
class _StartedJob:
    """A row that is being painted, and as what."""

    generation: Generation
    job: PaintJob
    chunks: int
    """The length of its texts; see `Painter.chunks`."""


class Runner:
    """Does what the rows ask for, with the models it was given."""

    def __init__(
        self,
        claims: Claims,
        files: Files,
        residency: ModelPlacement,
        painting_model: PaintingModel,
        organization_of: OrganizationOf,
        wants_painting: Callable[[str], None],
        config: Config,
        clock: Callable[[], int],
        catalog: Catalog,
    ) -> None:
        self._claims = claims
        self._files = files
        self._residency = residency
        self._painter = residency.painter
        self._painting_model = painting_model
        self._organization_of = organization_of
        self._wants_painting = wants_painting
        self._config = config
        self._clock = clock
        self._catalog = catalog
        self._in_hand: set[str] = set()
        self._at_finish: set[str] = set()
        self._enhancing: tuple[Generation, float] | None = None
        self._taking = threading.Lock()
        self._finisher = ThreadPoolExecutor(1, thread_name_prefix="finish")
        self._finishing: list[Future[None]] = []
        self.stopping = threading.Event()

    def enhance_waiting(self, _id: str = "") -> None:
        """Enhance every row that waits for it, oldest first."""
        while generation := self._take("enhance"):
            try:
                with about(generation_id=generation.id, request_id=generation.request_id):
                    self._enhance(generation)
            finally:
                self._in_hand.discard(generation.id)

    def paint_waiting(self, _id: str = "") -> None:
        """Paint every row that waits for it, oldest first; returns when all are finished."""
        while True:
            if batch := self._take_batch():
                try:
                    self._paint_batch(batch)
                finally:
                    self._in_hand.difference_update(each.id for each in batch)
            elif self._finishing:
                self._await_finished()
            else:
                return

    def requeue_dropped(self) -> int:
        """Let the rows wait again that were taken and then dropped; how many there were.

        That happens when the database could not be written at the very end of the work.
        """
        with self._taking:
            return self._claims.release_claims(self._clock(), but=self._in_hand | self._at_finish)

    def recover_hung(self) -> bool:
        """Let the row be painted whose prompt the language model does not come back from.

        Whether there was one: the thread is lost then, and the process is to end.
        """
        if self._enhancing is None or time.monotonic() < self._enhancing[1]:
            return False
        generation, _ = self._enhancing
        self._claims.finish_enhancement(
            generation.id,
            prompt=generation.original_prompt,
            note=None,
            warning="The language model hung on this prompt; the original prompt is used.",
            now=self._clock(),
        )
        self._enhancing = None
        return True

    def _take(self, stage: Stage) -> Generation | None:
        with self._taking:
            if self.stopping.is_set() or not self._claims.waiting(stage):
                return None
            generation = self._claims.claim(stage, self._clock())
            if generation is not None:
                self._in_hand.add(generation.id)
            return generation

    def _take_batch(self) -> list[Generation]:
        first = self._take("paint")
        if first is None:
            return []
        more = self._residency.plan.batch - 1
        if more < 1:
            return [first]
        others: list[Generation] = []
        # The first has been taken, and is painted alone if the database cannot be written just now.
        with self._taking, contextlib.suppress(ServiceUnavailable):
            others = self._claims.claim_like(first, more, self._clock())
            self._in_hand.update(each.id for each in others)
        return [first, *others]

    def _enhance(self, generation: Generation) -> None:
        started = time.monotonic()
        enhancement = None
        with self._ending_in_rows([generation], started), self._residency.writing():
            logger.info("enhancing")
            patience = 2 * self._config.enhancement.time_limit + HUNG_SECONDS
            self._enhancing = (generation, time.monotonic() + patience)
            enhancement = self._ask_enhancer(generation)
        self._enhancing = None
        seconds = time.monotonic() - started
        if self.stopping.is_set():
            return
        note = None
        if enhancement is not None and enhancement.warning is None:
            note = EnhancementNote(
                enhancement.template, enhancement.model, enhancement.mode, enhancement.seconds
            )
        warning = None if note else _warning(enhancement, self._residency.enhancer)
        held = self._claims.finish_enhancement(
            generation.id,
            prompt=enhancement.text if note else generation.original_prompt,
            note=note,
            warning=warning,
            now=self._clock(),
            durations={"enhance": seconds},
        )
        if held:
            logger.info(warning or "enhanced", extra=_seconds_since(started))
        self._wants_painting(generation.id)

    def _ask_enhancer(self, generation: Generation) -> Enhancement | None:
        enhancer = self._residency.enhancer
        if enhancer is None:
            return None
        while True:
            try:
                return enhancer.enhance(
                    generation.original_prompt,
                    generation.template,
                    seed=generation.seed,
                    count_tokens=self._painter.count_tokens,
                    time_limit=self._config.enhancement.time_limit,
                    stop=lambda: self.stopping.is_set() or not self._claims.holds(generation.id),
                )
            except OutOfMemory:
                if not self._residency.move_language_model_to_cpu():
                    raise

    def _paint_batch(self, generations: Sequence[Generation]) -> None:
        """Paint these together, as far as their texts are of one length."""
        alike: dict[int, list[_StartedJob]] = defaultdict(list)
        for generation in generations:
            if begun := self._start(generation):
                alike[begun.chunks].append(begun)
        for each in alike.values():
            self._paint_alike(each)

    def _paint_alike(self, begun: Sequence[_StartedJob], *, again: bool = True) -> None:
        started = time.monotonic()
        pictures: list[PillowImage.Image | PaintingError] = []
        is_over = True
        with self._ending_in_rows([each.generation for each in begun], started):
            try:
                with self._residency.painting():
                    jobs = [each.job for each in begun]
                    pictures = self._painter.paint_batch(jobs, self._reporter(begun))
            except OutOfMemory:
                if not again:
                    raise
                # Without a rung left, one by one is still less than all at once.
                if not self._residency.step_down() and len(begun) == 1:
                    raise
                is_over = False
        if not is_over:
            for each in begun:
                self._paint_alike([each], again=False)
            return
        painted = time.monotonic()
        self._await_finished()
        # Without pictures there is nothing left to do: the rows have been told.
        for each, picture in zip(begun, pictures, strict=False):
            self._at_finish.add(each.generation.id)
            times = (started, painted)
            self._finishing.append(self._finisher.submit(self._finish, each, picture, times))

    def _start(self, generation: Generation) -> _StartedJob | None:
        """Write down what the row is painted with; None when it is no longer this worker's."""
        begun = None
        with self._ending_in_rows([generation], time.monotonic()):
            job = self._job_of(generation)
            if not self._claims.start_painting(
                generation.id,
                model=self._painting_model.name,
                steps=job.steps,
                guidance_scale=job.guidance_scale,
                now=self._clock(),
            ):
                raise Abandoned
            logger.info("painting")
            begun = _StartedJob(generation, job, self._painter.chunks(job))
        return begun

    def _job_of(self, generation: Generation) -> PaintJob:
        model = self._painting_model
        width, height = model.sizes[generation.aspect_ratio]
        guidance = generation.guidance_scale
        loras = [
            Lora(use.name, self._catalog.lora(use.name), use.weight) for use in generation.loras
        ]
        return PaintJob(
            prompt=generation.prompt,
            negative_prompt=generation.negative_prompt,
            width=width,
            height=height,
            steps=generation.steps or model.steps,
            guidance_scale=model.guidance_scale if guidance is None else guidance,
            seed=generation.seed,
            loras=tuple(loras),
        )

    def _reporter(self, begun: Sequence[_StartedJob]) -> Callable[[int, int], None]:
        written = time.monotonic()

        def report(step: int, steps: int) -> None:
            nonlocal written
            # Of several, one that is cancelled is painted with the others and then thrown away.
            held = any(self._claims.holds(each.generation.id) for each in begun)
            if self.stopping.is_set() or not held:
                raise Abandoned
            if step < steps and time.monotonic() - written >= PROGRESS_SECONDS:
                written = time.monotonic()
                previews = self._painter.previews() if self._config.painting.previews else []
                for each, preview in zip_longest(begun, previews):
                    jpeg = encode_preview(preview) if preview else None
                    self._claims.record_step(each.generation.id, step, self._clock(), jpeg)

        return report

    def _await_finished(self) -> None:
        """Wait for the pictures before: no more than one batch of them is ever kept in memory."""
        for each in wait(self._finishing).done:
            if error := each.exception():
                # The database could not be written: `requeue_dropped` finds the row.
                logger.warning("dropped: %s", error)
        self._finishing.clear()

    def _finish(
        self,
        begun: _StartedJob,
        painted: PillowImage.Image | PaintingError,
        times: tuple[float, float],
    ) -> None:
        """Encode and save the picture; `times` are when its painting started and ended."""
        generation, (started, ended) = begun.generation, times
        try:
            with self._ending_in_rows([generation], started):
                if isinstance(painted, PaintingError):
                    raise painted
                encoding = time.monotonic()
                picture = encode_png(painted, self._text_chunks(generation, begun.job))
                durations = {"paint": ended - started, "encode": time.monotonic() - encoding}
                self._save(generation, picture, started, durations)
        finally:
            self._at_finish.discard(generation.id)

    def _text_chunks(self, generation: Generation, job: PaintJob) -> dict[str, str]:
        if not self._config.storage.metadata:
            return {}
        parameters = parameters_text(
            prompt=job.prompt,
            original_prompt=generation.original_prompt,
            negative_prompt=job.negative_prompt,
            steps=job.steps,
            sampler=self._painter.sampler,
            guidance_scale=job.guidance_scale,
            seed=job.seed,
            width=job.width,
            height=job.height,
            model=self._painting_model.name,
            model_hash=self._painter.fingerprint,
            version=f"Banatie {banatie.__version__}",
            loras={lora.name: lora.weight for lora in job.loras},
        )
        return {"parameters": parameters}

    def _save(
        self,
        generation: Generation,
        picture: Picture,
        started: float,
        durations: dict[str, float],
    ) -> None:
        image_id = str(uuid.uuid4())
        organization = self._organization_of(generation.project_id)
        image = Image(
            id=image_id,
            project_id=generation.project_id,
            storage_key=generated_key(organization, generation.project_id, image_id),
            mime_type=picture.mime_type,
            width=picture.width,
            height=picture.height,
            file_size=len(picture.data),
            created_at=self._clock(),
        )
        self._files.save(image.storage_key, picture.data)
        seconds = time.monotonic() - started
        durations = {**durations, "save": seconds - sum(durations.values())}
        elapsed = round(seconds * 1000)
        if not self._claims.succeed(generation.id, image, elapsed, self._clock(), durations):
            # Cancelled or deleted while the file was being written: it must not appear.
            self._files.remove(image.storage_key)
            raise Abandoned
        logger.info("finished", extra=_seconds_since(started))

    @contextmanager
    def _ending_in_rows(self, generations: Sequence[Generation], started: float) -> Iterator[None]:
        """Whatever goes wrong with these ends in their rows, never in the thread."""
        alone = generations[0] if len(generations) == 1 else None
        with about(
            generation_id=alone.id if alone else None,
            request_id=alone.request_id if alone else None,
        ):
            try:
                yield
            except Exception as error:  # noqa: BLE001
                for generation in generations:
                    with about(generation_id=generation.id, request_id=generation.request_id):
                        self._end(generation, error, started)

    def _end(self, generation: Generation, error: Exception, started: float) -> None:
        seconds = _seconds_since(started)
        if isinstance(error, Abandoned | Stopped):
            logger.info("let go", extra=seconds)
            return
        if isinstance(error, ServiceUnavailable):
            # Not its fault, nor for good: the row was dropped, and `requeue_dropped` finds it.
            logger.warning("dropped: %s", error, extra=seconds)
            return
        if isinstance(error, BanatieError):
            logger.error("failed: %s", error, extra=seconds)
            message, reason = str(error), error.code.lower()
        else:
            logger.error("failed", exc_info=error, extra=seconds)
            message = f"Unforeseen: {type(error).__name__}; the worker's log has it"
            reason = "unforeseen"
        if generation.stage == "paint":
            self._claims.fail(generation.id, message, self._clock(), reason)


def _seconds_since(started: float) -> dict[str, float]:
    return {"seconds": round(time.monotonic() - started, 3)}


def _warning(enhancement: Enhancement | None, enhancer: Enhancer | None) -> str:
    if enhancement is not None and enhancement.warning:
        return enhancement.warning
    if enhancer is None:
        return "The language model is not there; the original prompt is used."
    return "The language model failed on this prompt; the original prompt is used."
