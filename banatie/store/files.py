"""The pictures' files: written whole or not at all, found by their storage key, swept when unknown.

Knows nothing of what is in a file, nor of any row.
"""

from __future__ import annotations

import os
from collections.abc import Container
from pathlib import Path

UNFINISHED = ".part"


class Files:
    """The storage folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, storage_key: str) -> Path:
        """Where the file of this storage key lies."""
        return self.folder.joinpath(*storage_key.split("/"))

    def save(self, storage_key: str, data: bytes) -> None:
        """Write the file so that it appears complete, on the disk, under its name, or never."""
        path = self.path(storage_key)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(path.name + UNFINISHED)
        try:
            with unfinished.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        except BaseException:
            # Most likely the disk is full, and this would keep it so.
            unfinished.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)

    def remove(self, storage_key: str) -> None:
        """Delete the file; none there is as good."""
        self.path(storage_key).unlink(missing_ok=True)

    def sweep(self, known: Container[str]) -> int:
        """Delete generated files that no row knows, and unfinished ones; how many there were.

        Only for when nothing else writes: a file just saved has no row yet.
        """
        swept = 0
        for path in self.folder.glob("*/*/generated/*"):
            storage_key = path.relative_to(self.folder).as_posix()
            if storage_key not in known:
                path.unlink()
                swept += 1
        return swept


def generated_key(organization_slug: str, project_id: str, image_id: str) -> str:
    """The storage key of a generated PNG."""
    return f"{organization_slug}/{project_id}/generated/{image_id}.png"


def _sync_folder(folder: Path) -> None:
    # A rename is only as durable as the folder that holds the name; Windows has no such call.
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
