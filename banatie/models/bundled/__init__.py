"""The models that are part of the package, and where a model's folder is.

The small painting model is package data, so that a first start paints wherever Banatie is
installed: in a container with an empty volume, or in a folder without a clone. A folder of the same
name below the user's models folder takes precedence. Knows nothing of what is in a model's folder.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

BUNDLED_MODELS = ("banatie-small",)
"""Names that no other model can be installed under."""


def bundled_models_dir() -> Path:
    """The folder of the bundled models, inside the installed package."""
    return Path(str(resources.files(__name__)))


def model_folder(name: str, models_dir: Path, bundled_dir: Path | None = None) -> Path:
    """The folder of the model `name`, whether it exists or not.

    `bundled_dir` None: the package's own.
    """
    folder = models_dir / name
    if folder.is_dir() or name not in BUNDLED_MODELS:
        return folder
    return (bundled_dir or bundled_models_dir()) / name
