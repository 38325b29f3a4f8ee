"""Thumbnails: smaller copies of stored pictures, made once when first asked for.

They lie in a folder of their own that can be deleted at any time.
"""

from __future__ import annotations

from pathlib import Path

from banatie.records import ImageFormat


class Thumbnails:
    """The folder of thumbnails; safe for several threads and processes at once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(
        self,
        image_id: str,
        source: Path,
        image_format: ImageFormat,
        width: int | None = None,
        height: int | None = None,
    ) -> Path:
        """The file of a copy of `source` that fits into width × height, made if it is not there.

        It is never enlarged; without either bound only the format differs. When the source's file
        has changed, a new copy is made. Blocks while it is made: call it in a thread. Raises
        FileNotFoundError when `source` is gone.
        """
        raise NotImplementedError

    def remove(self, image_id: str) -> None:
        """Delete all copies of an image that is deleted."""
        raise NotImplementedError
