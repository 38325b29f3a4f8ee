"""What of a submission can be carried out: the limits of each parameter.

Whether an image that it refers to exists is found when it is stored. How the parameters arrive is
unknown here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from banatie.config import Limits
from banatie.errors import ModelError, ModelNotFound, ValidationError
from banatie.limits import (
    MAX_GUIDANCE_SCALE,
    MAX_LORA_WEIGHT,
    MAX_LORAS,
    MAX_META_DEPTH,
    MAX_QUALITY,
    MAX_REFERENCES,
    MAX_SEED,
    MAX_SIDE,
    MAX_SIZE_FACTOR,
    MAX_STEPS,
    MAX_UPSCALE,
    MIN_SIDE,
    MIN_STEPS,
    SIDE_STEP,
)
from banatie.models.catalog import Catalog
from banatie.models.samplers import SamplerUnusable, choose_sampler
from banatie.models.types import PaintingModel, Size
from banatie.records import ASPECT_RATIOS, AspectRatio, LoraUse, Submission
from banatie.store.aliases import check_alias
from banatie.webhooks import WebhookRules


class SubmissionChecks:
    """Checks submissions against the limits, the painting model and what is installed."""

    def __init__(
        self,
        limits: Limits,
        catalog: Catalog,
        painting_model: Callable[[], str],
        webhooks: WebhookRules,
    ) -> None:
        """`painting_model` returns the name or folder of the model that paints."""
        self._webhooks = webhooks
        self._limits = limits
        self._catalog = catalog
        self._painting_model = painting_model

    def check(self, submission: Submission) -> None:
        """Raise ValidationError for what cannot be carried out, naming the parameter."""
        self.check_prompt(submission.prompt)
        self._check_length("negativePrompt", submission.negative_prompt)
        _check_range("seed", submission.seed, 0, MAX_SEED)
        _check_range("steps", submission.steps, MIN_STEPS, MAX_STEPS)
        _check_range("guidanceScale", submission.guidance_scale, 0, MAX_GUIDANCE_SCALE)
        self._check_loras(submission.loras)
        self._check_picture(submission)
        self.check_meta(submission.meta)
        _check_names(submission)
        if submission.webhook is not None:
            self._webhooks.check(submission.webhook)

    def with_sampler(self, submission: Submission) -> Submission:
        """The submission with its sampler's and schedule's exact names. Raises ValidationError."""
        if submission.sampler is None:
            if submission.scheduler is not None:
                raise ValidationError.of("scheduler", "is a sampler's: give sampler too")
            return submission
        try:
            choice = choose_sampler(submission.sampler, submission.scheduler, self.painting_model())
        except SamplerUnusable as error:
            raise ValidationError.of(error.field, str(error)) from error
        return replace(submission, sampler=choice.sampler, scheduler=choice.schedule)

    def check_prompt(self, prompt: str) -> None:
        """Raise ValidationError for a prompt that is blank, or would not be read whole."""
        if not prompt.strip():
            raise ValidationError.of("prompt", "must not be blank")
        self._check_length("prompt", prompt)

    def _check_length(self, name: str, prompt: str) -> None:
        if len(prompt) > self._limits.prompt_characters:
            raise ValidationError.of(
                name,
                f"has {len(prompt)} characters; at most {self._limits.prompt_characters} are read",
            )

    def check_meta(self, meta: Mapping[str, Any]) -> None:
        """Raise ValidationError for metadata that is too deep or too large."""
        if _depth(meta) > MAX_META_DEPTH:
            raise ValidationError.of("meta", f"is nested deeper than {MAX_META_DEPTH} levels")
        if len(msgspec.json.encode(meta)) > self._limits.meta_bytes:
            raise ValidationError.of(
                "meta", f"is larger than {self._limits.meta_bytes} bytes of JSON"
            )

    def _check_picture(self, submission: Submission) -> None:
        """The picture's size, its format, and what it is painted from."""
        if submission.size is not None:
            self._check_size(*submission.size)
        _check_range("upscale", submission.upscale, 1, MAX_UPSCALE)
        _check_range("quality", submission.quality, 1, MAX_QUALITY)
        if submission.quality is not None and submission.output_format == "png":
            raise ValidationError.of("quality", "is for jpeg and webp; a png loses nothing")
        _check_range("referenceStrength", submission.reference_strength, 0, 1)
        if len(submission.references) > MAX_REFERENCES:
            raise ValidationError.of("referenceImages", f"takes at most {MAX_REFERENCES} images")

    def _check_size(self, width: int, height: int) -> None:
        for side in (width, height):
            if not MIN_SIDE <= side <= MAX_SIDE or side % SIDE_STEP:
                raise ValidationError.of(
                    "size",
                    f"takes multiples of {SIDE_STEP} from {MIN_SIDE} to {MAX_SIDE}, such as "
                    f"1216x832, not {width}x{height}",
                )
        pixels = self._own_pixels()
        # Without a model nothing is painted; the worker says so.
        if pixels is None:
            return
        most = MAX_SIZE_FACTOR * pixels
        if width * height > most:
            raise ValidationError.of(
                "size",
                f"{width}x{height} has {width * height} pixels; the model {self._painting_model()} "
                f"paints at most {most}",
            )

    def painting_model(self) -> PaintingModel | None:
        """The model that paints; None while it is not installed."""
        try:
            return self._catalog.painting_model(self._painting_model())
        except ModelError:
            return None

    def nearest_size(self, width: int, height: int, *, own_pixels: bool) -> Size:
        """The size in this shape to paint for one that may be too large, too small or uneven.

        Where it is too large, or with `own_pixels`, of no more pixels than the model's own sizes:
        up to the limit many a model paints things twice, which only who asks for that should get.
        """
        pixels = self._own_pixels()
        most = MAX_SIDE * MAX_SIDE
        width, height = max(width, 1), max(height, 1)
        if pixels is not None:
            is_paintable = width * height <= MAX_SIZE_FACTOR * pixels
            most = MAX_SIZE_FACTOR * pixels if is_paintable and not own_pixels else pixels
        scale = min(1.0, math.sqrt(most / (width * height)), MAX_SIDE / max(width, height))
        sides = [_nearest_side(side * scale) for side in (width, height)]
        while sides[0] * sides[1] > most and max(sides) > MIN_SIDE:
            sides[sides.index(max(sides))] -= SIDE_STEP
        return sides[0], sides[1]

    def _own_pixels(self) -> int | None:
        """The number of pixels that the model was made for; None while it is not installed."""
        model = self.painting_model()
        return None if model is None else model.sizes["1:1"][0] * model.sizes["1:1"][1]

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


def _nearest_side(side: float) -> int:
    return min(max(round(side / SIDE_STEP) * SIDE_STEP, MIN_SIDE), MAX_SIDE)


def parse_size(text: str) -> tuple[int, int]:
    """Width and height of `WIDTHxHEIGHT`. Raises ValidationError."""
    found = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text, re.ASCII)
    if found is None:
        raise ValidationError.of("size", f"{text!r} is not WIDTHxHEIGHT, such as 1216x832")
    return int(found[1]), int(found[2])


def nearest_ratio(width: int, height: int) -> AspectRatio:
    """The aspect ratio that is nearest to a size, by the factor between them."""

    def distance(ratio: AspectRatio) -> float:
        across, down = map(int, ratio.split(":"))
        factor = (max(width, 1) * down) / (max(height, 1) * across)
        return max(factor, 1 / factor)

    return min(ASPECT_RATIOS, key=distance)


def _check_names(submission: Submission) -> None:
    """The names that the output image gets."""
    for field, alias in (("alias", submission.alias), ("flowAlias", submission.flow_alias)):
        if alias is not None:
            check_alias(field, alias)
    if submission.flow_alias is not None and not (submission.flow_id or submission.starts_flow):
        raise ValidationError.of("flowAlias", "needs a flow, and flowId is null")


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
