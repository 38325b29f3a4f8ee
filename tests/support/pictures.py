"""Pictures for tests, and how far two of them are apart."""

from __future__ import annotations

import numpy as np
from PIL import Image


def waves(size: tuple[int, int]) -> Image.Image:
    """A colourful picture without edges."""
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    bands = [128 + 100 * np.sin(x / 13 + y / (11 + 5 * band) + band) for band in range(3)]
    return Image.fromarray(np.stack(bands, -1).round().astype(np.uint8))


def difference(picture: Image.Image, other: Image.Image) -> float:
    """The mean difference of two RGB pictures' levels, from 0 to 255."""
    return float(np.abs(np.asarray(picture).astype(int) - np.asarray(other)).mean())


def low_frequencies(picture: Image.Image, side: int = 8) -> np.ndarray:
    """The mean colours of side × side parts."""
    return np.asarray(picture.resize((side, side), Image.Resampling.BOX)).astype(int)


def histogram_distance(picture: Image.Image, other: Image.Image) -> float:
    """How differently two pictures of one size are coloured, from 0 to 1."""
    bins = [
        np.histogramdd(np.asarray(each).reshape(-1, 3), bins=4, range=[(0, 256)] * 3)[0]
        for each in (picture, other)
    ]
    return float(np.abs(bins[0] - bins[1]).sum() / bins[0].sum() / 2)


def hash_distance(picture: Image.Image, other: Image.Image) -> int:
    """Of 256 bits of a perceptual hash (which of two neighbours is brighter), those that differ."""
    bits = []
    for each in (picture, other):
        small = np.asarray(each.convert("L").resize((17, 16), Image.Resampling.BOX)).astype(int)
        bits.append(small[:, 1:] > small[:, :-1])
    return int((bits[0] != bits[1]).sum())
