"""The scenes that the embedded model can paint, as names, and the held-out combinations.

Holds names only: `things` lists the objects, `scene_renderer` knows how a scene looks, `captions`
how it is described.
The order of the tuples is part of trained weights (`codes`): append, never insert.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

COLOURS = (
    "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white",
)  # fmt: skip
SETTINGS = (
    "mountain", "sea", "beach", "forest", "city", "desert", "night", "sunset", "snow", "room",
    "studio", "white", "space", "meadow",
)  # fmt: skip
STYLES = (
    "general", "sticker", "minimalist", "comic", "product", "photorealistic", "illustration",
)  # fmt: skip
SIZES = ("normal", "small", "large")
POSITIONS = ("centre", "left", "right")

# Width and height in pixels of the aspect ratios: 55,296 to 65,536 pixels, whole latent patches.
CANVASES = {
    "1:1": (256, 256),
    "16:9": (336, 192),
    "9:16": (192, 336),
    "3:2": (288, 192),
    "21:9": (368, 160),
}

HELD_OUT_PERCENT = 18


@dataclass(frozen=True)
class Scene:
    """What a picture shows; None where the prompt says nothing about it."""

    object: str | None
    colour: str | None = None
    setting: str | None = None
    style: str = "general"
    size: str = "normal"
    position: str = "centre"


def held_out(scene: Scene) -> bool:
    """Return whether the scene's object, colour and setting together are held out of training."""
    if scene.object is None or scene.colour is None or scene.setting is None:
        return False
    name = f"{scene.object}/{scene.colour}/{scene.setting}"
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % 100 < HELD_OUT_PERCENT
