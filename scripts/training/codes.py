"""The fixed code vectors that the text encoders learn to output and the UNet is conditioned on.

Because they are fixed, either side can be trained further without the other. Each attribute of a
scene has its own section of the vector. Knows no words and no pictures.
"""

from __future__ import annotations

import torch
from training.scene_catalog import COLOURS, OBJECTS, POSITIONS, SETTINGS, SIZES, STYLES, Scene

# Attribute: the length of its section and the number of values it can have (None is the first).
SIZES_AND_VALUES = {
    "object": (96, 240),
    "colour": (20, 24),
    "setting": (24, 40),
    "style": (12, 12),
    "size": (4, 6),
    "position": (4, 6),
    "second": (32, 240),
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


class Codes:
    """One unit-variance code for each value of each attribute, always the same."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(20)
        self.tables: dict[str, torch.Tensor] = {}
        for attribute, (length, room) in SIZES_AND_VALUES.items():
            table = torch.randn(room, length, generator=generator)
            # Codes are taken from orthogonal bases, so that no two are alike.
            for start in range(0, room, length):
                rows = table[start : start + length]
                table[start : start + length] = torch.linalg.qr(rows.T)[0].T * length**0.5
            self.tables[attribute] = table

    def indices(self, scene: Scene) -> dict[str, int]:
        """Return which row of each table stands for the scene's values."""
        rows = {"second": 0}
        for attribute, names in NAMES.items():
            value = getattr(scene, attribute)
            rows[attribute] = 0 if value is None else names.index(value) + 1
        return rows

    def encode(self, scenes: list[Scene]) -> torch.Tensor:
        """Return the codes of scenes, one row of LENGTH numbers each."""
        rows = [self.indices(scene) for scene in scenes]
        return torch.cat(
            [table[[row[name] for row in rows]] for name, table in self.tables.items()], 1
        )

    def split(self, vectors: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return each attribute's section of the vectors."""
        lengths = [length for length, _ in SIZES_AND_VALUES.values()]
        return dict(zip(SIZES_AND_VALUES, vectors.split(lengths, dim=-1), strict=True))

    def decode(self, vectors: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return for each attribute the row of the nearest code."""
        return {
            name: torch.cdist(part, self.tables[name][: len(NAMES[name]) + 1]).argmin(-1)
            for name, part in self.split(vectors).items()
            if name in NAMES
        }
