"""The latent space: each 16×16 patch of pixels as its 64 principal components.

Found by algebra in seconds, so the UNet can train at once while the autoencoder is still taught
to write and read these numbers. Equal patches have equal latents wherever they lie, and an error
in a latent is an error in pixels. It knows nothing of networks.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy
import torch
from training import optimizing
from training.scenes import Studio
from training.world import CANVASES, COLOURS, OBJECTS, SETTINGS, SIZES, STYLES, Scene

FACTOR = 16
CHANNELS = 64


def random_scene(chance: random.Random) -> Scene:
    """Return any scene, held out or not: latents never see a prompt."""
    return Scene(
        object=chance.choice(tuple(OBJECTS)),
        colour=chance.choice((*COLOURS, None)),
        setting=chance.choice((*SETTINGS, None)),
        style=chance.choice(STYLES),
        size=chance.choice(("normal", *SIZES)),
    )


def to_patches(pixels: torch.Tensor) -> torch.Tensor:
    """Return pictures, N × 3 × H × W, as N × 768 × H/16 × W/16."""
    return torch.nn.functional.pixel_unshuffle(pixels, FACTOR)


class PatchBasis:
    """The linear map between patches of pixels in [-1, 1] and latents of about unit variance."""

    def __init__(self, mean: torch.Tensor, components: torch.Tensor, gain: torch.Tensor) -> None:
        self.mean, self.components, self.gain = mean, components, gain

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the latents of pictures, N × 3 × H × W."""
        patches = to_patches(pixels).movedim(1, -1) - self.mean
        return ((patches @ self.components) * self.gain).movedim(-1, 1).contiguous()

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the pictures nearest to latents: the linear answer, a little rough."""
        patches = (latents.movedim(1, -1) / self.gain) @ self.components.T + self.mean
        return torch.nn.functional.pixel_shuffle(patches.movedim(-1, 1), FACTOR)


def find_basis(studio: Studio, folder: Path, pictures: int = 900) -> PatchBasis:
    """Return the basis stored in `folder`, or find it from random scenes and store it."""
    path = folder / "basis.pt"
    if not path.exists():
        chance = random.Random(1)
        rows = []
        for _ in range(pictures):
            scene = random_scene(chance)
            width, height = chance.choice(tuple(CANVASES.values()))
            pixels, mask = studio.paint(scene, width, height, chance.random() < 0.5)
            patches = to_patches(_tensor(pixels))[0].flatten(1).T
            covered = torch.nn.functional.avg_pool2d(
                torch.from_numpy(mask)[None, None], FACTOR
            ).flatten()
            # Grounds repeat themselves: a few of their patches are enough.
            kept = (covered > 0.02) | torch.from_numpy(
                numpy.array([chance.random() < 0.15 for _ in range(len(covered))])
            )
            rows.append(patches[kept])
        patches = torch.cat(rows)
        mean = patches.mean(0)
        values, vectors = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
        values, vectors = values.flip(0)[:CHANNELS], vectors.flip(1)[:, :CHANNELS]
        # The square root of whitening: coarse shapes stay louder than details, and are settled
        # first when noise is taken away.
        gain = values**-0.25
        gain = gain / (values * gain.square()).mean().sqrt()
        optimizing.save(path, {"mean": mean, "components": vectors.contiguous(), "gain": gain})
    saved = torch.load(path, weights_only=True)
    return PatchBasis(saved["mean"], saved["components"], saved["gain"])


def _tensor(pixels: numpy.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None] * 2 - 1


def to_tensor(pixels: numpy.ndarray) -> torch.Tensor:
    """Return a painted scene as 1 × 3 × H × W from -1 to 1."""
    return _tensor(pixels)
