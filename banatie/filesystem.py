"""What several packages ask of the file system: durable names, and what kind of file a path is.

Raises OSError like the calls it makes; what a failure means is up to the caller.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)
_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFDIR: "a folder",
    stat.S_IFSOCK: "a socket",
}


def sync_folder(folder: Path) -> None:
    """Flush the folder's entries to the disk; a rename is not durable before that."""
    # Windows cannot open a folder.
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network and FAT disks have no such call for a folder, and nothing else to offer.
        if error.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)


def special_kind(path: Path, *, follow_links: bool) -> str | None:
    """What a path is, such as "a pipe"; None for a regular file, and where nothing is."""
    try:
        mode = (path.stat() if follow_links else path.lstat()).st_mode
    except FileNotFoundError:
        return None
    return None if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "a device")
