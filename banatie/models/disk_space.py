"""The disk space check before a model is installed, and sizes as text."""

from __future__ import annotations

import shutil
from pathlib import Path

from banatie.errors import ModelError

SPARE_BYTES = 256 * 2**20
"""Kept free on the disk, for the database and the images."""


def format_bytes(number: float) -> str:
    """A size for people: 39.1 MB."""
    for unit in ("bytes", "kB"):
        if number < 1000:
            return f"{number:.0f} {unit}"
        number /= 1000
    return f"{number:.1f} MB" if number < 1000 else f"{number / 1000:.1f} GB"


def require_disk_space(what: str, needed: int, folder: Path) -> None:
    """Raises ModelError, with the remedy, when the disk of `folder` lacks `needed` bytes."""
    free = shutil.disk_usage(folder).free
    if needed + SPARE_BYTES > free:
        raise ModelError(
            f"{what} needs {format_bytes(needed)} and the disk of {folder} has "
            f"{format_bytes(free)} free; free some space ({format_bytes(SPARE_BYTES)} are kept for "
            "other data) or use another disk"
        )
