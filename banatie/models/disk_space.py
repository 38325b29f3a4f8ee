"""Sizes for people, and whether the disk has room for a model that is about to come.

Every way that a model comes asks here first. Knows no models.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from banatie.errors import ModelError

SPARE_BYTES = 256 * 2**20
"""What is left free on the disk, for the database and the pictures."""


def readable(number: float) -> str:
    """Bytes as people say them: 39.1 MB."""
    for unit in ("bytes", "kB"):
        if number < 1000:
            return f"{number:.0f} {unit}"
        number /= 1000
    return f"{number:.1f} MB" if number < 1000 else f"{number / 1000:.1f} GB"


def require_disk_space(what: str, needed: int, folder: Path) -> None:
    """Raises ModelError, with the remedy, when the disk of `folder` has no room for that."""
    free = shutil.disk_usage(folder).free
    if needed + SPARE_BYTES > free:
        raise ModelError(
            f"{what} needs {readable(needed)} and the disk of {folder} has {readable(free)} free; "
            f"make room ({readable(SPARE_BYTES)} stay free for the rest), or take another disk"
        )
