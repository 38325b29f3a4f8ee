"""From a row to a paint job: the model's defaults, installed LoRAs, and the pictures that go in.

What cannot be had fails the row, with a message for the person who asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from PIL import Image as PillowImage

from banatie.enhancement.prompt_syntax import without_tags
from banatie.errors import PaintingError
from banatie.imaging.formats import flatten
from banatie.models.catalog import Catalog
from banatie.models.known_words import KnownWords
from banatie.models.samplers import SamplerChoice, SamplerUnusable, choose_sampler
from banatie.models.types import PaintingModel
from banatie.painting.job import (
    DEFAULT_EDIT_STRENGTH,
    DEFAULT_IMAGE_PROMPT_STRENGTH,
    DEFAULT_REFERENCE_STRENGTH,
    PaintJob,
)
from banatie.painting.lora import Lora
from banatie.records import Generation, Image
from banatie.store.files import Files

LARGER_MODEL = "sdxl-lightning-4step"
"""What to get when the model does not know what a prompt names."""
ONLY_THE_FIRST = (
    "Only the first of the reference images is used: no IP-Adapter for this model is loaded."
)
ONLY_THE_FIRST_WITH_A_MASK = (
    "Only the first of the reference images is used: it is what is painted into with a mask."
)


@dataclass(frozen=True)
class SourcePictures:
    """The stored pictures that others are painted from."""

    find_image: Callable[[str], Image | None]
    files: Files

    def load(self, image_id: str, background: str) -> PillowImage.Image:
        """The picture in RGB, what is transparent in it filled with `background`.

        Raises PaintingError when its row or its file is gone, or the file is damaged.
        """
        image = self.find_image(image_id)
        if image is None:
            raise PaintingError(f"the image {image_id}, which is to be painted from, was deleted")
        try:
            with PillowImage.open(self.files.path(image.storage_key)) as opened:
                return flatten(opened, background)
        except FileNotFoundError:
            raise PaintingError(
                f"the file of the image {image_id}, which is to be painted from, is gone"
            ) from None
        except (OSError, SyntaxError) as error:
            raise PaintingError(
                f"the file of the image {image_id}, which is to be painted from, is damaged"
            ) from error


@dataclass(frozen=True)
class JobBuilder:
    """Makes paint jobs out of rows."""

    model: PaintingModel
    catalog: Catalog
    sources: SourcePictures
    combines_references: bool = False
    """Whether an IP-Adapter is loaded."""

    def build(self, generation: Generation) -> PaintJob:
        """The row's job.

        Raises ModelNotFound for a LoRA that is not installed, and PaintingError for a picture that
        is gone.
        """
        width, height = self.model.sizes[generation.aspect_ratio]
        guidance = generation.guidance_scale
        loras = [
            Lora(use.name, self.catalog.lora(use.name), use.weight) for use in generation.loras
        ]
        # A reference's transparency shows white. A mask's keeps what is below it.
        combines = self._combines(generation)
        used = generation.reference_images if combines else generation.reference_images[:1]
        references = [self.sources.load(each.image_id, "white") for each in used]
        mask = generation.mask_image_id and self.sources.load(generation.mask_image_id, "black")
        strength = generation.reference_strength
        if strength is None:
            strength = DEFAULT_EDIT_STRENGTH if mask else DEFAULT_REFERENCE_STRENGTH
            strength = DEFAULT_IMAGE_PROMPT_STRENGTH if combines else strength
        return PaintJob(
            # The tags are settings of other programs. Those of LoRAs that are here were applied.
            prompt=without_tags(generation.prompt),
            negative_prompt=without_tags(generation.negative_prompt),
            width=generation.width or width,
            height=generation.height or height,
            steps=generation.steps or self.model.steps,
            guidance_scale=self.model.guidance_scale if guidance is None else guidance,
            seed=generation.seed,
            loras=tuple(loras),
            reference=references[0] if references and not combines else None,
            image_prompts=tuple(references) if combines else (),
            reference_strength=strength,
            mask=mask or None,
            upscale=generation.upscale or 1.0,
            sampler=self._sampler(generation),
            prompt_syntax=generation.prompt_syntax,
        )

    def _sampler(self, generation: Generation) -> SamplerChoice | None:
        """Checked once more: another model may paint than when the row was accepted."""
        if generation.sampler is None:
            return None
        try:
            return choose_sampler(generation.sampler, generation.scheduler, self.model)
        except SamplerUnusable as error:
            raise PaintingError(str(error)) from error

    def warnings(self, generation: Generation) -> tuple[str, ...]:
        """What the model cannot paint of what the user asked for."""
        warnings: tuple[str, ...] = ()
        if len(generation.reference_images) > 1 and not self._combines(generation):
            has_mask = generation.mask_image_id is not None
            warnings = (ONLY_THE_FIRST_WITH_A_MASK if has_mask else ONLY_THE_FIRST,)
        words = self._known_words
        if words is None or words.names_any(without_tags(generation.original_prompt)):
            return warnings
        return (
            *warnings,
            f"The model {self.model.name} knows nothing that this prompt names: it paints few "
            "things, each by its name in the singular. Get a larger "
            f"model: `banatie models pull {LARGER_MODEL}`, then `banatie models use "
            f"{LARGER_MODEL}`.",
        )

    def _combines(self, generation: Generation) -> bool:
        """Whether several references are read by the IP-Adapter."""
        several = len(generation.reference_images) > 1 and generation.mask_image_id is None
        return self.combines_references and several

    @cached_property
    def _known_words(self) -> KnownWords | None:
        return KnownWords.load(self.model.folder)
