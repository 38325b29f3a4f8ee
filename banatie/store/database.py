"""The SQLite database file: opening, checking, migrating, reading and writing.

Each thread reads through a connection of its own. All threads write through one connection, see
`group_commit`. What the rows mean is up to the other modules of the store.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

import sqlite_utils
from filelock import FileLock

from banatie.errors import (
    BanatieError,
    DatabaseDamaged,
    DatabaseGone,
    DatabaseUnusable,
    DiskFull,
    ServiceUnavailable,
)
from banatie.store.disk import is_full, release_reserve
from banatie.store.group_commit import GroupCommit
from banatie.store.migrations import migrations

logger = logging.getLogger(__name__)

T = TypeVar("T")

CHECK_SECONDS = 0.1
"""How often reads check that the files are still those that were opened."""
BUSY_TIMEOUT_SECONDS = 60
"""How long a statement waits for another process's write: longer than a backup holds the file."""

Parameters = Sequence[object] | Mapping[str, object]
"""The values of a statement's placeholders, by position or by name."""

_DAMAGED = "The database is damaged; the server's owner has to restore a backup"
_UNREACHABLE = "The database cannot be reached at the moment"
_TRANSIENT_ERRORS = {
    sqlite3.SQLITE_BUSY: _UNREACHABLE,
    sqlite3.SQLITE_LOCKED: _UNREACHABLE,
    sqlite3.SQLITE_READONLY: "The database cannot be written: its file or its disk is read-only",
    sqlite3.SQLITE_IOERR: _UNREACHABLE,
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_CANTOPEN: _UNREACHABLE,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
}
_DISK_ERRORS = {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}
"""What SQLite reports for a full disk, beside SQLITE_FULL."""
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


class Database:
    """The database file as the threads of one process share it."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """With `read_only`, nothing is ever written to the disk and no file is created."""
        self.path = path
        self._read_only = read_only
        self._local = threading.local()
        # The file and its write-ahead log as they were first opened.
        self._file: tuple[int, int] | None = None
        self._log: tuple[int, int] | None = None
        self._log_path = f"{path}-wal"
        self._next_check = 0.0  # of a read, by `time.monotonic`
        self._writer = GroupCommit(lambda: self._connect(any_thread=True))

    def migrate(self) -> list[str]:
        """Apply the pending migrations and return their names.

        Raises DatabaseUnusable when the file is not a database, or cannot be read or written.
        """
        if (file := self.read_only_file()) is not None:
            raise DatabaseUnusable(f"{file} cannot be written: it is read-only for this user")
        try:
            # The server and several workers may start at once; the second one finds nothing to do.
            # The lock comes before the first connection: SQLite does not wait for another process
            # that turns the write-ahead log of a new file on, it fails.
            with FileLock(self.path.with_name("migrate.lock")):
                if pending := self.pending():
                    migrations.apply(sqlite_utils.Database(self._connection()))
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        except OSError as error:
            raise self._unusable(error.strerror) from error
        return pending

    def pending(self) -> list[str]:
        """The names of the migrations that are not applied yet. Raises DatabaseUnusable."""
        try:
            database = sqlite_utils.Database(self._connection())
            return [migration.name for migration in migrations.pending(database)]
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def read_only_file(self) -> Path | None:
        """The first of the database's files that exists and that this user cannot write."""
        files = (self.path.with_name(self.path.name + suffix) for suffix in ("", "-wal", "-shm"))
        return next(
            (each for each in files if each.exists() and not os.access(each, os.W_OK)), None
        )

    def check(self, *, quick: bool = False) -> None:
        """Read the whole file; with `quick`, without comparing the indexes with their tables.

        Raises DatabaseUnusable when it is damaged.
        """
        kind = "quick_check" if quick else "integrity_check"
        try:
            found = self._connection().execute(f"PRAGMA {kind}").fetchone()[0]
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        if found != "ok":
            raise DatabaseDamaged(f"The database {self.path} is damaged: {found}")

    def copy_to(self, path: Path) -> None:
        """Copy the database as it is now into a new file, without blocking readers or writers."""
        try:
            with closing(sqlite3.connect(path)) as copy:
                self._connection().backup(copy)
        except sqlite3.Error as error:
            raise _translate(error, self.path) from error

    def query(self, sql: str, parameters: Parameters = ()) -> list[sqlite3.Row]:
        """All rows of a statement that only reads."""
        try:
            return self._connection().execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            raise _translate(error, self.path) from error

    def first(self, sql: str, parameters: Parameters = ()) -> sqlite3.Row | None:
        """The first row of a statement that only reads, if there is one."""
        try:
            row: sqlite3.Row | None = self._connection().execute(sql, parameters).fetchone()
        except sqlite3.Error as error:
            raise _translate(error, self.path) from error
        return row

    def scalar(self, sql: str, parameters: Parameters = ()) -> int:
        """The one integer that a statement that only reads selects."""
        value: int = self.query(sql, parameters)[0][0]
        return value

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Run the block's statements on the connection all or none; durable when this returns.

        Threads that write at the same time share one transaction, and so one wait for the disk.
        """
        self._check_files()
        try:
            with self._writer.transaction() as connection:
                yield connection
        except sqlite3.IntegrityError:
            raise
        except sqlite3.Error as error:
            raise _translate(error, self.path) from error
        # What was written into a deleted file is lost.
        self._check_files()

    def free_space(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Write what deletes something; on a full disk, into the reserve of `store.disk`."""
        try:
            with self.writing() as connection:
                return work(connection)
        except DiskFull:
            if not release_reserve(self.path.parent):
                raise
        with self.writing() as connection:
            return work(connection)

    def data_version(self) -> int:
        """A number that changes whenever another connection has changed the file."""
        return self.scalar("PRAGMA data_version")

    def close(self) -> None:
        """Close the calling thread's connection and the writing connection.

        Other threads may go on: pending writes are committed, and the next write opens a new
        connection.
        """
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            del self._local.connection
        self._writer.close()
        # SQLite deletes the log with the last connection.
        self._log = None

    def close_checkpointed(self) -> None:
        """Close with everything in the database file and nothing in its write-ahead log."""
        self.query("PRAGMA wal_checkpoint(TRUNCATE)")
        self.close()

    def _connection(self) -> sqlite3.Connection:
        # A write checks them each time; for each of thousands of reads a second it costs too much.
        if (now := time.monotonic()) >= self._next_check:
            self._check_files()
            self._next_check = now + CHECK_SECONDS
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect()
        return connection

    def _connect(self, *, any_thread: bool = False) -> sqlite3.Connection:
        if self._read_only:
            return self._connect_read_only()
        connection = sqlite3.connect(
            self.path,
            timeout=BUSY_TIMEOUT_SECONDS,
            isolation_level=None,
            check_same_thread=not any_thread,
        )
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode = WAL")
        # FULL, so that an accepted job survives a power cut and not only a crash.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        self._file = self._file or _identity(self.path)
        self._log = self._log or _identity(self._log_path)
        return connection

    def _check_files(self) -> None:
        """Raise DatabaseGone if another file, or none, is where the open one was.

        The system keeps a deleted file for those who have it open: what they write into it is lost.
        """
        if self._read_only or self._file is None:
            return
        log = _identity(self._log_path)
        self._log = self._log or log
        if _identity(self.path) != self._file or log != self._log:
            # From here on reads fail at once, too.
            self._next_check = 0.0
            raise DatabaseGone

    def _connect_read_only(self) -> sqlite3.Connection:
        # Opening a database without a log would create one, unless it is declared immutable.
        has_log = self.path.with_name(self.path.name + "-wal").exists()
        uri = f"{self.path.absolute().as_uri()}?{'mode=ro' if has_log else 'immutable=1'}"
        connection = sqlite3.connect(
            uri, uri=True, timeout=BUSY_TIMEOUT_SECONDS, isolation_level=None
        )
        connection.row_factory = sqlite3.Row
        return connection

    def _unusable(self, reason: object) -> DatabaseUnusable:
        kind = getattr(reason, "sqlite_errorcode", 0) & 0xFF
        error = DatabaseDamaged if kind in _DAMAGE else DatabaseUnusable
        return error(f"The database {self.path} cannot be used: {reason}")


def _translate(error: sqlite3.Error, path: Path) -> BanatieError:
    """ServiceUnavailable for what may pass by itself, DatabaseUnusable for all others.

    Their texts are fit for clients; SQLite's own words go to the log.
    """
    # The low byte is the kind; SQL that is wrong is kind 1 (https://sqlite.org/rescode.html).
    kind = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if kind == sqlite3.SQLITE_FULL or (kind in _DISK_ERRORS and is_full(path.parent)):
        return DiskFull()
    if kind in _TRANSIENT_ERRORS:
        return ServiceUnavailable(_TRANSIENT_ERRORS[kind])
    logger.error("the database refused: %s", error)
    return DatabaseUnusable("The database refused; the log says why")


def _identity(path: Path | str) -> tuple[int, int] | None:
    """What distinguishes a file from another one of the same name; None if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
