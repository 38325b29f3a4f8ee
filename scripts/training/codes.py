"""The fixed code vectors that the text encoders learn to output and the UNet is conditioned on.

Because they are fixed, either side can be trained further without the other. Each attribute of a
scene has its own section of the vector. An object's code says what the object looks like: most of
it are the principal components of its icon, so that the UNet learns one map from components to
shapes instead of a thousand single shapes; the rest is random and tells similar icons apart.
"""

from __future__ import annotations

import numpy
import torch
from training.scene_catalog import COLOURS, POSITIONS, SETTINGS, SIZES, STYLES, Scene
from training.things import OBJECTS

LOOK, IDENTITY = 176, 64
# Attribute: the length of its section and the number of values it can have (None is the first).
SIZES_AND_VALUES = {
    "object": (LOOK + IDENTITY, 2000),
    "colour": (20, 24),
    "setting": (24, 40),
    "style": (12, 12),
    "size": (4, 6),
    "position": (4, 6),
}
LENGTH = sum(length for length, _ in SIZES_AND_VALUES.values())
NAMES: dict[str, tuple[str, ...]] = {
    "object": tuple(OBJECTS),
    "colour": COLOURS,
    "setting": SETTINGS,
    "style": STYLES,
    "size": SIZES,
    "position": POSITIONS,
}
_ROWS = {
    attribute: {None: 0, **{name: place + 1 for place, name in enumerate(names)}}
    for attribute, names in NAMES.items()
}


def rows_of(scene: Scene) -> list[int]:
    """Return which row of each table stands for the scene's values, in the tables' order."""
    return [_ROWS[attribute][getattr(scene, attribute)] for attribute in SIZES_AND_VALUES]


def find_looks(icons: numpy.ndarray) -> torch.Tensor:
    """Return the LOOK numbers of each icon, given as N × side × side × 4 of 0 to 1.

    Numbers of unit variance over the icons, of which the first keep a little more.
    """
    pixels = torch.from_numpy(icons).float()
    alpha = pixels[..., 3:]
    flat = torch.cat([(pixels[..., :3] - 0.5) * alpha, alpha - 0.5], -1).flatten(1)
    flat = flat - flat.mean(0)
    left, values, _ = torch.linalg.svd(flat, full_matrices=False)
    count = min(LOOK, len(values))
    scores = torch.zeros(len(flat), LOOK)
    scores[:, :count] = left[:, :count] * values[:count] ** 0.3
    return scores / scores.square().mean().sqrt()


class Codes:
    """One code of about unit variance for each value of each attribute, always the same."""

    def __init__(self, looks: torch.Tensor, device: torch.device | None = None) -> None:
        generator = torch.Generator().manual_seed(20)
        self.tables: dict[str, torch.Tensor] = {}
        for attribute, (length, room) in SIZES_AND_VALUES.items():
            table = torch.randn(room, length, generator=generator)
            if attribute == "object":
                # "None" is the first row and keeps a random look.
                table[1 : len(looks) + 1, :LOOK] = looks
            else:
                # Codes are taken from orthogonal bases, so that no two are alike.
                for start in range(0, room, length):
                    rows = table[start : start + length]
                    table[start : start + length] = torch.linalg.qr(rows.T)[0].T * length**0.5
            self.tables[attribute] = table[: len(NAMES[attribute]) + 1].to(device)

    def encode(self, rows: torch.Tensor) -> torch.Tensor:
        """Return codes, N × LENGTH, of N × 6 rows of the tables."""
        tables = self.tables.values()
        return torch.cat([table[rows[:, place]] for place, table in enumerate(tables)], 1)

    def split(self, vectors: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return each attribute's section of the vectors."""
        lengths = [length for length, _ in SIZES_AND_VALUES.values()]
        return dict(zip(SIZES_AND_VALUES, vectors.split(lengths, dim=-1), strict=True))

    def decode(self, vectors: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return for each attribute the row of the nearest code."""
        return {
            name: torch.cdist(part, self.tables[name]).argmin(-1)
            for name, part in self.split(vectors).items()
        }
