"""What latents look like, without decoding them: a linear map from latents to colours.

Each latent becomes a few pixels. The map is fitted by least squares to what the decoder itself made
of latents, first of random ones and then of every picture that was painted, so that it suits any
model and gets better with use.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from PIL import Image

PREVIEW_SIDE = 128
"""A preview's longer side has at most as many pixels, unless there are more latents."""
GUESS_SIDE = 16
"""Of the random latents that the first guess is made from."""
RIDGE = 1e-3
"""Keeps the fit sane where the latents so far do not say enough."""


class LatentToRgb:
    """The map from latents of a number of channels, and what it was fitted to.

    One latent stands for `factor` × `factor` pixels; `side` is the largest picture's, in latents.
    """

    def __init__(self, channels: int, factor: int, side: int) -> None:
        self._channels = channels
        self._patch = factor
        while self._patch > 1 and self._patch * side > PREVIEW_SIDE:
            self._patch //= 2
        self._squares = torch.zeros((channels + 1, channels + 1), dtype=torch.float64)
        self._products = torch.zeros((channels + 1, 3 * self._patch**2), dtype=torch.float64)
        self._map: torch.Tensor | None = None

    @property
    def are_known(self) -> bool:
        """Whether the map was fitted to anything yet."""
        return bool(self._squares.any())

    def guess(self, decode: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Fit the map to random latents, if to nothing yet; `decode` takes a batch of one."""
        if self.are_known:
            return
        generator = torch.Generator().manual_seed(0)
        shape = (1, self._channels, GUESS_SIDE, GUESS_SIDE)
        rough = torch.randn(shape, generator=generator)
        # Half of it smooth, since a picture's latents are like their neighbours.
        smooth = F.avg_pool2d(torch.randn(shape, generator=generator), 5, 1, 2) * 5
        latents = (rough + smooth) / 2**0.5
        self.learn(latents[0], decode(latents)[0].float().cpu())

    def learn(self, latents: torch.Tensor, pixels: torch.Tensor) -> None:
        """Fit the map to what was decoded too: (channels, height, width) to (3, rows, columns)."""
        height, width = latents.shape[1:]
        small = F.adaptive_avg_pool2d(pixels[None], (height * self._patch, width * self._patch))
        colours = F.pixel_unshuffle(small, self._patch)[0].flatten(1).T.double()
        inputs = _with_one(latents)
        self._squares += inputs.T @ inputs
        self._products += inputs.T @ colours
        self._map = None

    def draw(self, latents: torch.Tensor) -> Image.Image:
        """The picture that latents of (channels, height, width) are about to become."""
        if self._map is None:
            damping = RIDGE * self._squares.diagonal().mean() * torch.eye(len(self._squares))
            self._map = torch.linalg.solve(self._squares + damping, self._products)
        height, width = latents.shape[1:]
        colours = (_with_one(latents) @ self._map).T.reshape(-1, height, width)
        pixels = F.pixel_shuffle(colours[None], self._patch)[0]
        levels = pixels.mul(127.5).add_(127.5).nan_to_num_().clamp_(0, 255).byte()
        return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())


def _with_one(latents: torch.Tensor) -> torch.Tensor:
    """A row for each latent: its channels, and a one for what is there without any."""
    rows = latents.flatten(1).T.double()
    return torch.cat([rows, torch.ones(len(rows), 1, dtype=torch.float64)], 1)
