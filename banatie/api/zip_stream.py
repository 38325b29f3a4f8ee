"""A zip file as a stream: read and packed while it is sent, nothing of it in memory or on the disk.

Pictures are stored as they are: they are compressed already. Which pictures is up to the routes.
"""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True)
class ZipEntry:
    """A file, and its name and time in the zip."""

    name: str
    path: Path
    modified: float
    """Seconds since 1970."""


class _Outbox(io.RawIOBase):
    """What has been written since it was last taken; not seekable, so sizes follow the data."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        """It is for writing only."""
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        """Keep the bytes."""
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        """The bytes, which are then forgotten."""
        taken = b"".join(self._parts)
        self._parts.clear()
        return taken


def zip_stream(entries: Iterable[ZipEntry]) -> Iterator[bytes]:
    """The zip file in pieces. Raises OSError when a file is not there any more."""
    outbox = _Outbox()
    with zipfile.ZipFile(outbox, "w", zipfile.ZIP_STORED) as archive:
        for entry in entries:
            info = zipfile.ZipInfo(entry.name, time.gmtime(entry.modified)[:6])
            with entry.path.open("rb") as source, archive.open(info, "w") as target:
                while data := source.read(CHUNK_BYTES):
                    target.write(data)
                    yield outbox.take()
    yield outbox.take()
