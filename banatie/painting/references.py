"""Pictures that go in: a reference fitted to the picture's size, and a mask.

Only pixels; knows no models.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter, ImageOps

FEATHER_SHARE = 128
"""The edge of a mask is blended over this part of the picture's shorter side, inwards and outwards;
at least over two pixels."""
PAINTED_LEVEL = 128
"""Mask levels from here on are painted anew."""


def fit(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture in this size: scaled to cover it, and what is too much cut off on both sides."""
    return ImageOps.fit(image, size, Image.Resampling.LANCZOS)


def extend(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture with its last row and column repeated up to this size."""
    if image.size == size:
        return image
    width, height = image.size
    extended = Image.new(image.mode, size)
    extended.paste(image)
    if size[0] > width:
        column = extended.crop((width - 1, 0, width, height))
        extended.paste(column.resize((size[0] - width, height)), (width, 0))
    if size[1] > height:
        row = extended.crop((0, height - 1, size[0], height))
        extended.paste(row.resize((size[0], size[1] - height)), (0, height))
    return extended


@dataclass(frozen=True)
class Mask:
    """A mask in the size of a picture, mode L: white (255) is painted anew, black (0) kept."""

    levels: Image.Image

    @classmethod
    def of(cls, mask: Image.Image, reference: Image.Image, size: tuple[int, int]) -> Mask:
        """The mask laid over the whole reference and fitted with it; each level becomes 0 or 255.

        A mask in another size than the reference is stretched to it.
        """
        whole = mask.convert("L")
        if whole.size != reference.size:
            whole = whole.resize(reference.size, Image.Resampling.BILINEAR)
        fitted = ImageOps.fit(whole, size, Image.Resampling.BILINEAR)
        return cls(fitted.point([255 * (level >= PAINTED_LEVEL) for level in range(256)]))

    def blend(self, painted: Image.Image, reference: Image.Image) -> Image.Image:
        """The painted picture where the mask is white, and the reference, unchanged, elsewhere.

        Only along the mask's edge the two are mixed; all pictures have the mask's size.
        """
        radius = max(min(self.levels.size) // FEATHER_SHARE, 2)
        alpha = self.levels.filter(ImageFilter.BoxBlur(radius))
        return Image.composite(painted, reference, alpha)

    def cut_out(self, reference: Image.Image) -> Image.Image:
        """The reference with medium grey where it is painted anew, as inpainting UNets see it."""
        return Image.composite(Image.new("RGB", reference.size, (128,) * 3), reference, self.levels)

    def in_latents(self, canvas: tuple[int, int], factor: int) -> torch.Tensor:
        """1 for every latent that has a pixel to be painted, (1, 1, height, width), else 0."""
        levels = torch.from_numpy(np.array(extend(self.levels, canvas)))[None, None]
        return F.max_pool2d((levels > 0).float(), factor)
