"""The worker's side: enhance one prompt, paint one picture, and let no failure out of its row.

Painting is six steps in order: take, start, paint, encode, save, finish. Every way out of them ends
in the row: a picture, a reason, or the row waiting again. This is the one place that catches what
nobody foresaw.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable
from typing import Protocol

import banatie
from banatie.config import Config
from banatie.errors import BanatieError, ServiceUnavailable
from banatie.imaging import Picture, encode_png, parameters_text
from banatie.inference.catalog import Catalog, PaintingModel
from banatie.inference.enhancer import Enhancement, Enhancer, Stopped
from banatie.inference.loras import Lora
from banatie.inference.painter import Painter, PaintJob
from banatie.jobs import Stage
from banatie.logs import about
from banatie.records import EnhancementNote, Generation, Image
from banatie.store.claims import Claims
from banatie.store.files import Files, generated_key

logger = logging.getLogger(__name__)

PROGRESS_SECONDS = 0.25
"""How far apart the progress is written down: a few times a second is enough for a progress bar."""

HUNG_SECONDS = 10.0
"""The language model looks at its time limit between words; past twice that and this, it hangs."""


class LetGo(Exception):
    """The row is no longer this worker's, or the worker is to stop: put the brush down."""


class OrganizationOf(Protocol):
    """Finds the slug that a project's files lie under."""

    def __call__(self, project_id: str) -> str: ...


class Runner:
    """Does what the rows ask for, with the models it was given."""

    def __init__(
        self,
        claims: Claims,
        files: Files,
        painter: Painter,
        painting_model: PaintingModel,
        enhancer: Enhancer | None,
        organization_of: OrganizationOf,
        wants_painting: Callable[[str], None],
        config: Config,
        clock: Callable[[], int],
        catalog: Catalog,
    ) -> None:
        self._claims = claims
        self._files = files
        self._painter = painter
        self._painting_model = painting_model
        self._enhancer = enhancer
        self._organization_of = organization_of
        self._wants_painting = wants_painting
        self._config = config
        self._clock = clock
        self._catalog = catalog
        self._in_hand: set[str] = set()
        self._enhancing: tuple[Generation, float] | None = None
        self._taking = threading.Lock()
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
        """Paint every row that waits for it, oldest first."""
        while generation := self._take("paint"):
            try:
                with about(generation_id=generation.id, request_id=generation.request_id):
                    self._attempt(self._paint, generation)
            finally:
                self._in_hand.discard(generation.id)

    def pick_up_fallen(self) -> int:
        """Let the rows wait again that were taken and then dropped; how many there were.

        That happens when the database could not be written at the very end of the work.
        """
        with self._taking:
            return self._claims.take_back(self._clock(), after_crash=False, but=self._in_hand)

    def pick_up_hung(self) -> bool:
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
            generation = self._claims.take(stage, self._clock())
            if generation is not None:
                self._in_hand.add(generation.id)
            return generation

    def _enhance(self, generation: Generation) -> None:
        logger.info("enhancing")
        started = time.monotonic()
        patience = 2 * self._config.enhancement.time_limit + HUNG_SECONDS
        self._enhancing = (generation, started + patience)
        enhancement = self._attempt(self._ask_enhancer, generation)
        self._enhancing = None
        seconds = time.monotonic() - started
        if self.stopping.is_set():
            return
        note = None
        if enhancement is not None and enhancement.warning is None:
            note = EnhancementNote(
                enhancement.template, enhancement.model, enhancement.way, enhancement.seconds
            )
        warning = None if note else _warning(enhancement, self._enhancer)
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
        if self._enhancer is None:
            return None
        return self._enhancer.enhance(
            generation.original_prompt,
            generation.template,
            seed=generation.seed,
            count_tokens=self._painter.count_tokens,
            time_limit=self._config.enhancement.time_limit,
            stop=lambda: self.stopping.is_set() or not self._claims.holds(generation.id),
        )

    def _paint(self, generation: Generation) -> None:
        started = time.monotonic()
        job = self._start(generation)
        logger.info("painting")
        image = self._painter.paint(job, self._reporter(generation.id))
        painted = time.monotonic()
        picture = encode_png(image, self._text_chunks(generation, job))
        durations = {"paint": painted - started, "encode": time.monotonic() - painted}
        self._save(generation, picture, started, durations)

    def _start(self, generation: Generation) -> PaintJob:
        model = self._painting_model
        width, height = model.sizes[generation.aspect_ratio]
        steps = generation.steps or model.steps
        guidance = generation.guidance_scale
        job = PaintJob(
            prompt=generation.prompt,
            negative_prompt=generation.negative_prompt,
            width=width,
            height=height,
            steps=steps,
            guidance_scale=model.guidance_scale if guidance is None else guidance,
            seed=generation.seed,
            loras=tuple(
                Lora(lora.name, self._catalog.lora(lora.name), lora.weight)
                for lora in generation.loras
            ),
        )
        started = self._claims.start_painting(
            generation.id,
            model=model.name,
            steps=job.steps,
            guidance_scale=job.guidance_scale,
            now=self._clock(),
        )
        if not started:
            raise LetGo
        return job

    def _reporter(self, generation_id: str) -> Callable[[int, int], None]:
        written = time.monotonic()

        def report(step: int, steps: int) -> None:
            nonlocal written
            if self.stopping.is_set() or not self._claims.holds(generation_id):
                raise LetGo
            if step < steps and time.monotonic() - written >= PROGRESS_SECONDS:
                written = time.monotonic()
                self._claims.record_step(generation_id, step, self._clock())

        return report

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
            raise LetGo
        logger.info("finished", extra=_seconds_since(started))

    def _attempt(self, work: Callable[[Generation], Enhancement | None], generation: Generation):
        """Do `work`; whatever goes wrong in painting ends in the row, never in the thread."""
        started = time.monotonic()
        try:
            return work(generation)
        except (LetGo, Stopped):
            logger.info("let go", extra=_seconds_since(started))
            return None
        except ServiceUnavailable as error:
            # Not its fault, nor for good: the row was dropped, and `pick_up_fallen` finds it.
            logger.warning("dropped: %s", error, extra=_seconds_since(started))
            return None
        except BanatieError as error:
            logger.error("failed: %s", error, extra=_seconds_since(started))
            message, reason = str(error), error.code.lower()
        except Exception as error:
            logger.exception("failed", extra=_seconds_since(started))
            message = f"Unforeseen: {type(error).__name__}; the worker's log has it"
            reason = "unforeseen"
        if generation.stage == "paint":
            self._claims.fail(generation.id, message, self._clock(), reason)
        return None


def _seconds_since(started: float) -> dict[str, float]:
    return {"seconds": round(time.monotonic() - started, 3)}


def _warning(enhancement: Enhancement | None, enhancer: Enhancer | None) -> str:
    if enhancement is not None and enhancement.warning:
        return enhancement.warning
    if enhancer is None:
        return "The language model is not there; the original prompt is used."
    return "The language model failed on this prompt; the original prompt is used."
