"""Thumbnails: smaller copies of stored pictures, made once when first asked for.

They lie in a folder of their own that can be deleted at any time, a folder for each image in it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from pathlib import Path

from PIL import Image

from banatie.imaging.formats import encode
from banatie.records import ImageFormat

QUALITY = 82
"""Of JPEG and WebP."""
MAX_COPIES = 32
"""Of one image; the one that was made first goes when there are more."""

ATTEMPTS = 5


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
        has been replaced, a new copy is made. Blocks while it is made: call it in a thread. Raises
        FileNotFoundError when `source` is gone.
        """
        state = source.stat()
        version = f"{state.st_mtime_ns:x}-{state.st_size:x}"
        name = f"{version}-{width or 0}x{height or 0}.{image_format}"
        path = self._folder_of(image_id) / name
        if path.exists():
            return path
        with Image.open(source) as image:
            # A JPEG is decoded at about the size that is needed.
            bounds = (width or image.width, height or image.height)
            image.thumbnail(bounds, Image.Resampling.LANCZOS)
            picture = encode(image, image_format, QUALITY)
        self._write(path, picture.data)
        self._forget_others(path, version)
        return path

    def remove(self, image_id: str) -> None:
        """Delete all copies of an image that is deleted."""
        shutil.rmtree(self._folder_of(image_id), ignore_errors=True)

    def _folder_of(self, image_id: str) -> Path:
        return self._folder / image_id[:2] / image_id

    def _write(self, path: Path, data: bytes) -> None:
        unfinished = path.with_name(f".{secrets.token_hex(6)}.part")
        for attempt in range(ATTEMPTS):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with unfinished.open("wb") as file:
                    file.write(data)
                    file.flush()
                    # Else a power cut could leave a file of this name without its content.
                    os.fsync(file.fileno())
                unfinished.replace(path)
            except FileNotFoundError:
                # The folder was deleted in between.
                if attempt == ATTEMPTS - 1:
                    raise
            else:
                return

    def _forget_others(self, path: Path, version: str) -> None:
        """Delete the copies of an earlier source, and the oldest of too many."""
        with contextlib.suppress(FileNotFoundError):
            copies = [file for file in path.parent.iterdir() if not file.name.startswith(".")]
            current = [file for file in copies if file.name.startswith(version)]
            current.sort(key=lambda file: file.stat().st_mtime_ns)
            outdated = [file for file in copies if not file.name.startswith(version)]
            for file in (*outdated, *current[:-MAX_COPIES]):
                file.unlink(missing_ok=True)
