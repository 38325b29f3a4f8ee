"""The pictures' files: written atomically, found by their storage key.

What a file contains and which row refers to it are unknown here.
"""

from __future__ import annotations

import os
from pathlib import Path

from banatie.errors import DataFolderUnusable
from banatie.filesystem import sync_folder

UNFINISHED = ".part"


class Files:
    """The storage folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, storage_key: str) -> Path:
        """The path of the file with this storage key."""
        return self.folder.joinpath(*storage_key.split("/"))

    def save(self, storage_key: str, data: bytes) -> None:
        """Write the file atomically and durably: it appears under its name complete, or never.

        Raises DataFolderUnusable.
        """
        path = self.path(storage_key)
        unfinished = path.with_name(path.name + UNFINISHED)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with unfinished.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
            sync_folder(path.parent)
        except OSError as error:
            # Most likely the disk is full; do not leave partial files on it.
            for left in (unfinished, path):
                left.unlink(missing_ok=True)
            reason = f"The picture could not be saved: {error.strerror}"
            raise DataFolderUnusable(reason) from error

    def remove(self, storage_key: str) -> None:
        """Delete the file if it exists."""
        self.path(storage_key).unlink(missing_ok=True)

    def generated(self) -> set[str]:
        """The storage keys of all generated files, unfinished ones included."""
        paths = self.folder.glob("*/*/generated/*")
        return {path.relative_to(self.folder).as_posix() for path in paths}


def generated_key(organization_slug: str, project_id: str, image_id: str) -> str:
    """The storage key of a generated PNG."""
    return f"{organization_slug}/{project_id}/generated/{image_id}.png"


def make_data_folder(data: Path) -> None:
    """Create the data folder if it does not exist, for its owner alone: it holds prompts.

    Raises DataFolderUnusable.
    """
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise DataFolderUnusable(
            f"the data folder {data.absolute()} cannot be created ({error.strerror}); run the "
            "command in another folder, or set storage.data_dir"
        ) from error
