"""Where a model lies: in the folder of the models, or with the program itself.

The small painting model is part of Banatie: an installed package carries it, so that a first start
paints wherever it happens, in a container with an empty volume or in a folder without a clone. One
of the same name in the folder of the models goes before it.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path


def bundled_models() -> Path:
    """The folder of the models that came with the package; none is in it beside a clone."""
    return Path(sysconfig.get_path("data")) / "share" / "banatie" / "models"


def folder_of(name: str, models_dir: Path, shipped: Path | None = None) -> Path:
    """The folder of the model called `name`, whether it is there or not."""
    folder = models_dir / name
    came_along = (shipped or bundled_models()) / name
    return came_along if came_along.is_dir() and not folder.is_dir() else folder
