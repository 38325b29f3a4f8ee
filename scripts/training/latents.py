"""The latent space: each 16×16 patch of pixels as its 64 principal components.

Computed by linear algebra in seconds, so that the UNet can be trained before the autoencoder is.
Equal patches have equal latents at any position, and an error in a latent is an error in pixels.
Knows no networks.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import numpy
import torch
from training.scene_catalog import CANVASES, COLOURS, SETTINGS, SIZES, STYLES, Scene
from training.scene_renderer import SceneRenderer
from training.things import OBJECTS

FACTOR = 16
CHANNELS = 64


def random_scene(rng: random.Random) -> Scene:
    """Return a random scene, held out or not: latents do not depend on prompts."""
    name = rng.choice(tuple(OBJECTS))
    return Scene(
        object=name,
        colour=rng.choice((*COLOURS, None)) if OBJECTS[name].dye else None,
        setting=rng.choice((*SETTINGS, None)),
        style=rng.choice(STYLES),
        size=rng.choice(("normal", *SIZES)),
    )


def to_patches(pixels: torch.Tensor) -> torch.Tensor:
    """Return pictures, N × 3 × H × W, as N × 768 × H/16 × W/16."""
    return torch.nn.functional.pixel_unshuffle(pixels, FACTOR)


@dataclass(frozen=True)
class PatchBasis:
    """The linear map between patches of pixels in [-1, 1] and latents of about unit variance."""

    mean: torch.Tensor
    components: torch.Tensor
    gain: torch.Tensor

    def to(self, device: torch.device) -> PatchBasis:
        """Return the basis on a device."""
        moved = (each.to(device) for each in (self.mean, self.components, self.gain))
        return replace(self, **dict(zip(("mean", "components", "gain"), moved, strict=True)))

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the latents of pictures, N × 3 × H × W."""
        patches = to_patches(pixels).movedim(1, -1) - self.mean
        return ((patches @ self.components) * self.gain).movedim(-1, 1).contiguous()

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the pictures nearest to latents, by the linear map."""
        patches = (latents.movedim(1, -1) / self.gain) @ self.components.T + self.mean
        return torch.nn.functional.pixel_shuffle(patches.movedim(-1, 1), FACTOR)


def find_basis(renderer: SceneRenderer, pictures: int) -> PatchBasis:
    """Return the basis of the patches of random scenes."""
    rng = random.Random(1)
    rows = []
    for _ in range(pictures):
        scene = random_scene(rng)
        width, height = rng.choice(tuple(CANVASES.values()))
        pixels, mask = renderer.render(scene, width, height)
        patches = to_patches(to_tensor(pixels))[0].flatten(1).T
        object_mask = torch.nn.functional.avg_pool2d(
            torch.from_numpy(mask)[None, None], FACTOR
        ).flatten()
        # Backgrounds repeat, so a few of their patches are enough.
        kept = (object_mask > 0.02) | torch.from_numpy(
            numpy.array([rng.random() < 0.15 for _ in range(len(object_mask))])
        )
        rows.append(patches[kept])
    patches = torch.cat(rows)
    mean = patches.mean(0)
    values, vectors = torch.linalg.eigh((patches - mean).T @ (patches - mean) / len(patches))
    values, vectors = values.flip(0)[:CHANNELS], vectors.flip(1)[:, :CHANNELS]
    # The square root of whitening: coarse shapes keep more variance than details, and are
    # denoised first.
    gain = values**-0.25
    gain = gain / (values * gain.square()).mean().sqrt()
    return PatchBasis(mean, vectors.contiguous(), gain)


def to_tensor(pixels: numpy.ndarray) -> torch.Tensor:
    """Return a rendered scene as 1 × 3 × H × W from -1 to 1."""
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None] * 2 - 1
