"""Tiles: overlapping parts of a large picture, and how much each counts where they overlap."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from types import EllipsisType

import torch

OVERLAP_SHARE = 4
"""Neighbouring tiles share at least this part of a tile's side."""


@dataclass(frozen=True)
class Tile:
    """A part of a picture; all in latents."""

    top: int
    left: int
    height: int
    width: int

    @property
    def window(self) -> tuple[EllipsisType, slice, slice]:
        """The index of this part in a tensor (…, height, width)."""
        rows = slice(self.top, self.top + self.height)
        return (..., rows, slice(self.left, self.left + self.width))

    def weight(self) -> torch.Tensor:
        """How much it counts at each place, (height, width): most in the middle, never nothing."""
        return torch.outer(_ramp(self.height), _ramp(self.width))


def tiles_of(height: int, width: int, side: int | None) -> list[Tile]:
    """Tiles of at most side × side that cover height × width; one where it needs no more."""
    if side is None:
        return [Tile(0, 0, height, width)]
    tall, wide = min(side, height), min(side, width)
    places = product(_starts(height, tall), _starts(width, wide))
    return [Tile(top, left, tall, wide) for top, left in places]


def _starts(length: int, side: int) -> list[int]:
    step = max(side - side // OVERLAP_SHARE, 1)
    gaps = math.ceil((length - side) / step)
    return [round(number * (length - side) / max(gaps, 1)) for number in range(gaps + 1)]


def _ramp(length: int) -> torch.Tensor:
    position = torch.arange(length) + 0.5
    return torch.minimum(position, length - position)
