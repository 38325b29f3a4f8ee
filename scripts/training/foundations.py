"""What training stands on and does not learn: the latents' basis and the looks of the objects.

Both are linear algebra over pictures, computed once and kept beside the recipe, because every
trained network depends on them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from safetensors.torch import load_file, save_file
from training.codes import Codes, find_looks
from training.icons import IconSet
from training.latents import PatchBasis, find_basis
from training.scene_renderer import SceneRenderer
from training.things import OBJECTS

FILE = Path(__file__).with_name("foundations.safetensors")
LOOK_SIDE = 48


@dataclass(frozen=True)
class Foundations:
    """The basis of the latents and the looks of the objects, on one device."""

    basis: PatchBasis
    codes: Codes


def compute_foundations(icons: IconSet, path: Path = FILE, pictures: int = 1800) -> None:
    """Compute the foundations and write them."""
    basis = find_basis(SceneRenderer(icons), pictures)
    looks = find_looks(numpy.stack([icons.get(name, None, LOOK_SIDE) for name in OBJECTS]))
    tensors = {"mean": basis.mean, "components": basis.components, "gain": basis.gain}
    save_file({**tensors, "looks": looks}, path)


def load_foundations(device: torch.device, path: Path = FILE) -> Foundations:
    """Return the stored foundations."""
    stored = load_file(path)
    basis = PatchBasis(stored["mean"], stored["components"], stored["gain"])
    if len(stored["looks"]) != len(OBJECTS):
        raise ValueError(f"{path.name} knows {len(stored['looks'])} of {len(OBJECTS)} objects")
    return Foundations(basis.to(device), Codes(stored["looks"], device))
