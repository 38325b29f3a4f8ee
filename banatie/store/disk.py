"""The disk of the data folder: whether it is full, and a reserve for deleting on a full disk.

Deleting a row needs some space, too: SQLite writes the change into its log before anything becomes
free. So a file of a fixed size is kept, and removed when a deletion finds the disk full. What is
deleted is unknown here.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

FULL_BYTES = 512 * 1024
"""With less than this free a disk counts as full: there is no room for a picture."""
RESERVE_BYTES = 256 * 1024
"""Some deletions; less than FULL_BYTES, so that nothing new is accepted into this space."""
RESERVE = "reserve"


def is_full(folder: Path) -> bool:
    """Whether the folder's disk has no room for a picture, or for another file."""
    if not hasattr(os, "statvfs"):
        return False
    try:
        disk = os.statvfs(folder)
    except OSError:
        return False
    # Some file systems keep blocks for root, and some do not count their files.
    blocks = disk.f_bfree if os.geteuid() == 0 else disk.f_bavail
    return blocks * disk.f_frsize < FULL_BYTES or (disk.f_files > 0 and disk.f_ffree == 0)


def is_read_only(folder: Path) -> bool:
    """Whether the folder's disk is mounted read-only."""
    return hasattr(os, "statvfs") and bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


def fill_reserve(folder: Path) -> None:
    """Create the reserve unless it is there, or the disk is nearly full."""
    file = folder / RESERVE
    # Tried again later if the disk refuses.
    with contextlib.suppress(OSError):
        if file.exists() or is_full(folder):
            return
        # Bytes that no file system leaves out or compresses.
        file.write_bytes(os.urandom(RESERVE_BYTES))
        if is_full(folder):
            file.unlink()


def release_reserve(folder: Path) -> bool:
    """Remove the reserve; whether there was one."""
    try:
        (folder / RESERVE).unlink()
    except OSError:
        return False
    return True
