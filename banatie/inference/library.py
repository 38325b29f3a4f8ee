"""What is done with the models that are here: carrying them in and out of this machine.

How a model is fetched is for `hub` and `pull`; what it says of itself, for `manifest`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from banatie.inference.manifest import Manifest


def import_archive(file: Path, models_dir: Path, say: Callable[[str], None]) -> Manifest:
    """Unpack an archive that `export` wrote into its own folder below `models_dir`.

    `say` is told each step in a line; the model's name and folder follow from the manifest that is
    returned. Raises ModelBroken, with nothing left behind, when a file is not what the archive's
    manifest says, ModelError when there is a model of that name or no room for it.
    """
    raise NotImplementedError
