"""Whether the data folder's disk is one on which SQLite works: a local one.

On a network share, file locks or the shared memory of the write-ahead log may be missing, or wait
for ever. Without this check that would look like a database that another process has locked.
"""

from __future__ import annotations

import contextlib
import os
import queue
import secrets
import sqlite3
import sys
import threading
from contextlib import closing
from pathlib import Path

import psutil

from banatie.errors import DataFolderUnusable
from banatie.store.disk import is_full

PROBE_SECONDS = 10.0
"""A local disk takes milliseconds."""
_NETWORK_TYPES = (
    *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "afpfs", "webdav", "davfs"),
    *("fuse.sshfs", "fuse.rclone", "fuse.glusterfs", "fuse.s3fs", "fuse.davfs2"),
)
_LOCKING_ERRORS = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_PROTOCOL,
}


def check_locks(data: Path) -> None:
    """Try locks and a write-ahead log in the data folder, which is created if it does not exist.

    Raises DataFolderUnusable, naming the disk, if they do not work within PROBE_SECONDS.
    """
    found: queue.Queue[str | None] = queue.Queue()
    # A call that hangs cannot be interrupted, so its thread is left behind.
    threading.Thread(target=lambda: found.put(_probe(data)), name="probe", daemon=True).start()
    try:
        trouble = found.get(timeout=PROBE_SECONDS)
    except queue.Empty:
        trouble = f"no answer within {PROBE_SECONDS:g} s"
    if trouble is not None:
        raise DataFolderUnusable(
            f"{data} cannot be used: file locks do not work on its disk, {disk_of(data)} "
            f"({trouble}); set storage.data_dir to a folder on a local disk"
        )


def disk_of(folder: Path) -> str:
    """The disk as `TYPE at MOUNT POINT`."""
    kind, mounted = _mount_of(folder)
    return f"{kind} at {mounted}"


def is_network_disk(folder: Path) -> bool:
    """Whether the folder is on a network file system."""
    return _mount_of(folder)[0] in _NETWORK_TYPES


def _mount_of(folder: Path) -> tuple[str, str]:
    """The type and the mount point of the folder's file system."""
    folder, found = Path(os.path.abspath(folder)), ("a file system", "/")
    # Of two with one mount point, the later one hides the other.
    for disk in psutil.disk_partitions(all=True):
        if folder.is_relative_to(disk.mountpoint) and len(disk.mountpoint) >= len(found[1]):
            found = (disk.fstype, disk.mountpoint)
    return found


def _probe(data: Path) -> str | None:
    """What does not work; None if all does, or if it is not the locks that fail."""
    file = data / f"probe-{secrets.token_hex(6)}.db"
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        with closing(sqlite3.connect(file, timeout=0, isolation_level=None)) as connection:
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            if mode != "wal":
                return "no shared memory for SQLite's log"
            connection.execute("CREATE TABLE probe (number INTEGER)")
        return _try_flock(file)
    except sqlite3.Error as error:
        # What else may be wrong, such as a read-only disk, is found and named later.
        kind = getattr(error, "sqlite_errorcode", 0) & 0xFF
        # The database was opened, so it is the shared memory that was not.
        is_locking = kind in _LOCKING_ERRORS or (kind == sqlite3.SQLITE_CANTOPEN and file.exists())
        return str(error) if is_locking and not is_full(data) else None
    except OSError:
        return None
    finally:
        for suffix in ("", "-wal", "-shm", "-journal"):
            with contextlib.suppress(OSError):
                file.with_name(file.name + suffix).unlink()


def _try_flock(file: Path) -> str | None:
    """Try the other kind of lock, by which processes know of each other (`store.locks`)."""
    if sys.platform == "win32":
        return None
    import fcntl

    with file.open("r+b") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.strerror
    return None
