"""A paint job: one picture to be painted, and the pictures that it is painted from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from PIL import Image

from banatie.models.samplers import SamplerChoice
from banatie.painting.lora import Lora
from banatie.painting.prompt_weights import Prompt, read_prompt
from banatie.painting.references import Mask, fit
from banatie.records import PromptSyntax

OnStep = Callable[[int, int], None]
"""Called with the number of finished steps and of all steps; may raise to stop the painting."""

ReferenceMode = Literal["guide", "inpaint", "ip-adapter"]
"""Whether the picture starts from the reference, what a mask covers is painted anew, or an
IP-Adapter reads several references."""
DEFAULT_REFERENCE_STRENGTH = 0.6
"""Of a guide: its colours and its layout are seen, and what the prompt asks for, too."""
DEFAULT_EDIT_STRENGTH = 0.0
"""With a mask: what it covers is painted anew, and sees only what is around it."""

DEFAULT_IMAGE_PROMPT_STRENGTH = 0.6
"""Of an IP-Adapter: the scale that its authors use beside a text."""


@dataclass(frozen=True)
class PaintJob:
    """One picture to be painted; width and height in pixels, the seed from 0 to 2⁵³ − 1."""

    prompt: str
    negative_prompt: str
    width: int
    height: int
    steps: int
    guidance_scale: float
    seed: int
    loras: tuple[Lora, ...] = ()
    reference: Image.Image | None = field(default=None, compare=False)
    """The picture that guides this one, or that is edited where there is a mask: RGB, any size."""
    reference_strength: float = DEFAULT_REFERENCE_STRENGTH
    """From 0 (the reference is not seen at all) to 1 (hardly anything but the reference)."""
    image_prompts: tuple[Image.Image, ...] = field(default=(), compare=False)
    """Pictures that an IP-Adapter reads, instead of a reference: RGB, any size."""
    mask: Image.Image | None = field(default=None, compare=False)
    """What of the reference is painted anew (white) or kept (black): any mode and size."""
    sampler: SamplerChoice | None = None
    """None: the model's own."""
    prompt_syntax: PromptSyntax = "plain"
    upscale: float = 1.0
    """The factor, from 1 to 2, by which the finished picture is enlarged and painted over."""

    @property
    def texts(self) -> tuple[Prompt, Prompt]:
        """The prompt and the negative prompt, as their syntax says."""
        return (
            read_prompt(self.prompt, self.prompt_syntax),
            read_prompt(self.negative_prompt, self.prompt_syntax),
        )

    @property
    def size(self) -> tuple[int, int]:
        """The size that is painted first."""
        return self.width, self.height

    @property
    def final_size(self) -> tuple[int, int]:
        """The size of the picture, enlarged if that is asked for."""
        return round(self.width * self.upscale), round(self.height * self.upscale)

    @property
    def denoise(self) -> float:
        """The part of the schedule that is painted; the rest is the reference's."""
        return 1.0 if self.reference is None else 1 - self.reference_strength

    @property
    def mode(self) -> ReferenceMode | None:
        """How the references are used; None without one."""
        if self.image_prompts:
            return "ip-adapter"
        if self.reference is None:
            return None
        return "guide" if self.mask is None else "inpaint"

    @property
    def batch_key(self) -> object:
        """What all jobs of one batch have in common; nothing is like an enlarged picture."""
        if self.upscale > 1:
            return object()
        return (
            *(self.size, self.steps, self.guidance_scale, self.loras, self.denoise),
            self.sampler,
            *(self.reference is None, self.mask is None),
            *(len(self.image_prompts), self.image_prompts and self.reference_strength),
        )

    def fitted_reference(self, size: tuple[int, int]) -> Image.Image | None:
        """The reference in this size."""
        return None if self.reference is None else fit(self.reference, size)

    def fitted_mask(self, size: tuple[int, int]) -> Mask | None:
        """The mask in this size; None without a mask or without a reference to lay it on."""
        if self.mask is None or self.reference is None:
            return None
        return Mask.of(self.mask, self.reference, size)

    def keep_unmasked(self, picture: Image.Image) -> Image.Image:
        """The painted picture with the pixels of the reference where the mask keeps them."""
        mask, reference = self.fitted_mask(picture.size), self.fitted_reference(picture.size)
        return picture if mask is None or reference is None else mask.blend(picture, reference)
