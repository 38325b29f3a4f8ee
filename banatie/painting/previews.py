"""Previews: approximate pictures of latents by a linear map to RGB, without the VAE.

Each latent becomes a few pixels. The map is fitted by least squares to what the VAE decoded: first
random latents, then every painted picture, so that it suits any model and improves with use.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from PIL import Image

PREVIEW_SIDE = 128
"""Most pixels of a preview's longer side, unless there are more latents than that."""
RANDOM_SIDE = 16
"""Side of the random latents that the map is fitted to first."""
RIDGE = 1e-3
"""Ridge regularisation, for channels about which the latents so far say too little."""


class LatentToRgb:
    """The linear map from latents of a number of channels, and the sums that it is fitted to.

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
    def is_fitted(self) -> bool:
        """Whether the map was fitted to anything yet."""
        return bool(self._squares.any())

    def fit_random(self, decode: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Fit the map to random latents if it is not fitted yet; `decode` gets a batch of one."""
        if self.is_fitted:
            return
        generator = torch.Generator().manual_seed(0)
        shape = (1, self._channels, RANDOM_SIDE, RANDOM_SIDE)
        rough = torch.randn(shape, generator=generator)
        # Half of it smooth, since neighbouring latents of a picture are alike.
        smooth = F.avg_pool2d(torch.randn(shape, generator=generator), 5, 1, 2) * 5
        latents = (rough + smooth) / 2**0.5
        self.fit(latents[0], decode(latents)[0].float().cpu())

    def fit(self, latents: torch.Tensor, pixels: torch.Tensor) -> None:
        """Fit the map to another picture: latents (channels, height, width), pixels (3, …)."""
        height, width = latents.shape[1:]
        small = F.adaptive_avg_pool2d(pixels[None], (height * self._patch, width * self._patch))
        rgb = F.pixel_unshuffle(small, self._patch)[0].flatten(1).T.double()
        inputs = _with_bias(latents)
        self._squares += inputs.T @ inputs
        self._products += inputs.T @ rgb
        self._map = None

    def render(self, latents: torch.Tensor) -> Image.Image:
        """The approximate picture of latents (channels, height, width)."""
        if self._map is None:
            damping = RIDGE * self._squares.diagonal().mean() * torch.eye(len(self._squares))
            self._map = torch.linalg.solve(self._squares + damping, self._products)
        height, width = latents.shape[1:]
        rgb = (_with_bias(latents) @ self._map).T.reshape(-1, height, width)
        pixels = F.pixel_shuffle(rgb[None], self._patch)[0]
        levels = pixels.mul(127.5).add_(127.5).nan_to_num_().clamp_(0, 255).byte()
        return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())


def _with_bias(latents: torch.Tensor) -> torch.Tensor:
    """A row for each latent: its channels, and a one for the bias."""
    rows = latents.flatten(1).T.double()
    return torch.cat([rows, torch.ones(len(rows), 1, dtype=torch.float64)], 1)
