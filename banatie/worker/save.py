"""The save stage: encodes a painted picture, writes its file, then its row.

It runs in a thread of its own while the next batch is painted, and keeps no more than one batch in
memory. How pictures are painted or encoded is not known here.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from PIL import Image as PillowImage
from PIL import ImageStat

import banatie
from banatie.enhancement.prompt_syntax import without_tags
from banatie.errors import ModelBroken, PaintingError
from banatie.imaging.formats import encode
from banatie.imaging.parameters import parameters_text
from banatie.imaging.picture import Picture
from banatie.models.manifest import Manifest, read_manifest
from banatie.models.types import PaintingModel
from banatie.painting.job import PaintJob
from banatie.painting.painter import Painter
from banatie.records import Generation, Image
from banatie.store.files import Files, generated_key
from banatie.worker.claimed_rows import ClaimedRows
from banatie.worker.outcome import (
    Finished,
    StageAborted,
    record_unfinished,
    run_stage,
    seconds_since,
)
from banatie.worker.watchdog import Activity

logger = logging.getLogger(__name__)

BLANK_DEVIATION = 5.0
"""A picture whose colours deviate less, of 255 levels, shows nothing that a person would see."""
BLANK = (
    "The picture is nearly all one colour. Try another seed, or other words; a model that does "
    "not know what the prompt names may paint nothing."
)


MODEL_HASH_DIGITS = 10
LORA_HASH_DIGITS = 12
"""As Stable Diffusion WebUI writes them, and Civitai finds them (AutoV2 and AutoV3)."""


@dataclass(frozen=True)
class PaintedJob:
    """A picture to be saved, and what it was painted from."""

    generation: Generation
    job: PaintJob
    picture: PillowImage.Image | PaintingError
    """Or why this one of its batch cannot be used."""
    started: float
    """When its painting started and ended, by `time.monotonic`."""
    ended: float
    warnings: tuple[str, ...] = ()
    """What its record is to say besides."""


@dataclass(frozen=True)
class Provenance:
    """The text in a picture's file that tells how it was made."""

    painter: Painter
    model: PaintingModel

    def parameters(self, generation: Generation, job: PaintJob) -> str:
        """The parameters as image browsers read them."""
        return parameters_text(
            prompt=job.prompt,
            original_prompt=without_tags(generation.original_prompt),
            negative_prompt=job.negative_prompt,
            steps=job.steps,
            sampler=job.sampler.sampler if job.sampler else self.painter.sampler,
            guidance_scale=job.guidance_scale,
            seed=job.seed,
            width=job.width,
            height=job.height,
            model=self.model.name,
            hashes=self._hashes,
            version=f"Banatie {banatie.__version__}",
            loras={lora.name: lora.weight for lora in job.loras},
            lora_hashes=_lora_hashes(job),
            further=_further_settings(generation, job),
        )

    @cached_property
    def _hashes(self) -> dict[str, str]:
        manifest = _manifest(self.model.folder)
        if manifest and manifest.original_sha256:
            # Other programs and model sites know a checkpoint by its file.
            return {"Model hash": manifest.original_sha256[:MODEL_HASH_DIGITS]}
        # A folder has no such file, and no reader is told that one of its files is it.
        return {"UNet hash": self.painter.fingerprint}


def _lora_hashes(job: PaintJob) -> dict[str, str]:
    """The hashes by which other programs know the job's LoRAs; of those that have one."""
    manifests = {lora.name: _manifest(lora.file.parent) for lora in job.loras}
    return {
        name: manifest.original_weights_sha256[:LORA_HASH_DIGITS]
        for name, manifest in manifests.items()
        if manifest and manifest.original_weights_sha256
    }


def _manifest(folder: Path) -> Manifest | None:
    # The picture is painted, and worth more than its hashes.
    try:
        return read_manifest(folder)
    except ModelBroken:
        return None


def _further_settings(generation: Generation, job: PaintJob) -> dict[str, object]:
    """What was painted from, and the enlargement, under WebUI's names where it has one."""
    settings: dict[str, object] = {}
    if job.sampler is not None and job.sampler.schedule is not None:
        settings["Schedule type"] = job.sampler.schedule
    if job.reference is not None:
        settings["Denoising strength"] = f"{job.denoise:.12g}"
        settings["Reference image"] = generation.reference_images[0].image_id
    if job.image_prompts:
        settings["Reference images"] = " ".join(
            each.image_id for each in generation.reference_images
        )
        settings["IP-Adapter strength"] = f"{job.reference_strength:.12g}"
    if job.mask is not None:
        settings["Mask image"] = generation.mask_image_id
    if job.upscale > 1:
        settings["Hires upscale"] = f"{job.upscale:.12g}"
        settings["Hires upscaler"] = "Lanczos"
    return settings


class SaveStage:
    """Saves pictures in the background, one after the other."""

    def __init__(
        self,
        rows: ClaimedRows,
        files: Files,
        organization_of: Callable[[str], str],
        provenance: Provenance | None,
        activity: Activity,
    ) -> None:
        """`organization_of` is the slug of a project's organization, by the project's id.

        Without `provenance` the files carry no text. `activity` is told of each picture.
        """
        self._rows = rows
        self._files = files
        self._organization_of = organization_of
        self._provenance = provenance
        self._activity = activity
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="save")
        self._pending: list[Future[None]] = []

    def submit(self, batch: Sequence[PaintedJob]) -> None:
        """Save these once the batch before is saved, which this waits for."""
        self.wait()
        for painted in batch:
            self._rows.retain([painted.generation])
            self._pending.append(self._executor.submit(self._run, painted))

    def wait(self) -> bool:
        """Wait until everything is saved; False if there was nothing to wait for."""
        done = wait(self._pending).done
        self._pending.clear()
        for future in done:
            if not future.cancelled() and (error := future.exception()):
                logger.error("uncaught exception while saving", exc_info=error)
        return bool(done)

    def close(self, timeout: float) -> None:
        """End the thread; what is not saved within `timeout` seconds is painted again later."""
        unfinished = wait(list(self._pending), timeout).not_done
        self._executor.shutdown(wait=not unfinished, cancel_futures=True)

    def _run(self, painted: PaintedJob) -> None:
        generations = [painted.generation]
        try:
            with self._activity.working():
                outcome = run_stage(generations, partial(self._save, painted))
            if not isinstance(outcome, Finished):
                record_unfinished(self._rows, generations, outcome, painted.started)
        finally:
            self._rows.release(generations)

    def _save(self, painted: PaintedJob) -> None:
        if isinstance(painted.picture, PaintingError):
            raise painted.picture
        encoding = time.monotonic()
        generation = painted.generation
        parameters = (
            self._provenance.parameters(generation, painted.job) if self._provenance else ""
        )
        picture = encode(painted.picture, generation.output_format, generation.quality, parameters)
        encoded = time.monotonic()
        image = self._image(painted.generation, picture)
        is_blank = max(ImageStat.Stat(painted.picture.convert("RGB")).stddev) < BLANK_DEVIATION
        with self._files.prepared(image.storage_key, picture.data) as publish:
            durations = {"paint": painted.ended - painted.started, "encode": encoded - encoding}
            seconds = time.monotonic() - painted.started
            durations["save"] = seconds - sum(durations.values())
            # One that was cancelled or deleted meanwhile is not held, and its file never appears.
            is_held = self._rows.claims.succeed(
                painted.generation.id,
                image,
                round(seconds * 1000),
                self._rows.clock(),
                durations,
                warnings=(*painted.warnings, *((BLANK,) if is_blank else ())),
                publish=publish,
                attempt=painted.generation.retry_count,
            )
        if not is_held:
            raise StageAborted
        logger.info("finished", extra=seconds_since(painted.started))

    def _image(self, generation: Generation, picture: Picture) -> Image:
        before = generation.image
        image_id = before.id if before else str(uuid.uuid4())
        organization = self._organization_of(generation.project_id)
        storage_key = generated_key(
            organization, generation.project_id, image_id, generation.output_format
        )
        return Image(
            id=image_id,
            project_id=generation.project_id,
            storage_key=before.storage_key if before else storage_key,
            mime_type=picture.mime_type,
            width=picture.width,
            height=picture.height,
            file_size=len(picture.data),
            created_at=self._rows.clock(),
        )
