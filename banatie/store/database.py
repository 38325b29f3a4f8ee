"""The SQLite file: opening it, its tables, and one way to read and one to write.

Each thread reads through a connection of its own. Whoever writes holds the only pen of this
process, so that SQLite's own lock is fought over by processes alone. What the rows mean is for the
other modules here.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path

import sqlite_utils
from filelock import FileLock
from sqlite_utils.migrations import Migrations

from banatie.errors import BanatieError, DatabaseUnusable, ServiceUnavailable

BUSY_SECONDS = 60
"""How long a statement waits for another process's write: longer than a backup holds the file."""

_PASSING = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_NOTADB,
}

migrations = Migrations("banatie")


@migrations()
def create_tables(db: sqlite_utils.Database) -> None:
    """Organisations, projects, keys, generations, images, and what keeps requests in bounds."""
    for statement in _SCHEMA.split(";\n\n"):
        db.execute(statement)


@migrations()
def add_measures(db: sqlite_utils.Database) -> None:
    """Which request asked for a generation; what is counted for whoever watches the service."""
    for statement in _MEASURES.split(";\n\n"):
        db.execute(statement)


@migrations()
def add_previews(db: sqlite_utils.Database) -> None:
    """What a picture looks like while it is painted."""
    for statement in _PREVIEWS.split(";\n\n"):
        db.execute(statement)


@migrations()
def add_worker_devices(db: sqlite_utils.Database) -> None:
    """What a worker has found to compute on."""
    db.execute("ALTER TABLE workers ADD COLUMN devices TEXT")


@migrations()
def add_worker_plan(db: sqlite_utils.Database) -> None:
    """Where a worker has laid its models out."""
    db.execute("ALTER TABLE workers ADD COLUMN plan TEXT")


@migrations()
def add_loras(db: sqlite_utils.Database) -> None:
    """Which LoRAs a generation is painted with."""
    db.execute("ALTER TABLE generations ADD COLUMN loras TEXT NOT NULL DEFAULT '[]'")


# Written as SQL because checks, partial indexes and triggers have no other form in sqlite-utils.
_SCHEMA = """
CREATE TABLE organizations (
    id TEXT PRIMARY KEY,
    slug TEXT NOT NULL UNIQUE,
    created_at INTEGER NOT NULL
);

CREATE TABLE projects (
    id TEXT PRIMARY KEY,
    organization_id TEXT NOT NULL REFERENCES organizations(id),
    slug TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    UNIQUE (organization_id, slug)
);

CREATE TABLE keys (
    id TEXT PRIMARY KEY,
    project_id TEXT NOT NULL REFERENCES projects(id),
    name TEXT NOT NULL,
    hash TEXT NOT NULL UNIQUE,
    hint TEXT NOT NULL,
    requests_per_hour INTEGER,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER
);

CREATE TABLE request_counts (
    key_id TEXT PRIMARY KEY REFERENCES keys(id),
    window_start INTEGER NOT NULL,
    requests INTEGER NOT NULL
);

CREATE TABLE images (
    id TEXT PRIMARY KEY,
    project_id TEXT NOT NULL REFERENCES projects(id),
    storage_key TEXT NOT NULL UNIQUE,
    mime_type TEXT NOT NULL,
    width INTEGER NOT NULL,
    height INTEGER NOT NULL,
    file_size INTEGER NOT NULL,
    created_at INTEGER NOT NULL
);

CREATE TABLE generations (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    project_id TEXT NOT NULL REFERENCES projects(id),
    revision INTEGER NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('pending', 'processing', 'success', 'failed')),
    stage TEXT NOT NULL CHECK (stage IN ('enhance', 'paint', 'done')),
    claimed_by TEXT,
    prompt TEXT NOT NULL,
    original_prompt TEXT NOT NULL,
    auto_enhance INTEGER NOT NULL,
    template TEXT NOT NULL,
    aspect_ratio TEXT NOT NULL,
    negative_prompt TEXT NOT NULL,
    seed INTEGER NOT NULL,
    steps INTEGER,
    guidance_scale REAL,
    meta TEXT NOT NULL,
    warnings TEXT NOT NULL DEFAULT '[]',
    enhancement TEXT,
    model TEXT,
    step INTEGER NOT NULL DEFAULT 0,
    retry_count INTEGER NOT NULL DEFAULT 0,
    crashes INTEGER NOT NULL DEFAULT 0,
    error_message TEXT,
    image_id TEXT UNIQUE REFERENCES images(id),
    processing_time_ms INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    enhanced_at INTEGER,
    deleted_at INTEGER,
    CHECK ((status = 'success') = (image_id IS NOT NULL)),
    CHECK ((status IN ('success', 'failed')) = (stage = 'done'))
);

CREATE INDEX generations_listed
    ON generations (project_id, created_at DESC, id DESC, deleted_at);

CREATE INDEX generations_listed_by_status
    ON generations (project_id, status, created_at DESC, id DESC, deleted_at);

CREATE INDEX generations_waiting ON generations (stage, number)
    WHERE stage IN ('enhance', 'paint');

CREATE INDEX generations_claimed ON generations (claimed_by) WHERE claimed_by IS NOT NULL;

CREATE INDEX generations_by_revision ON generations (revision);

CREATE INDEX generations_binned ON generations (deleted_at) WHERE deleted_at IS NOT NULL;

CREATE TABLE revisions (
    latest INTEGER NOT NULL
);

INSERT INTO revisions VALUES (0);

CREATE TABLE generation_counts (
    project_id TEXT NOT NULL,
    status TEXT NOT NULL,
    deleted INTEGER NOT NULL,
    generations INTEGER NOT NULL,
    PRIMARY KEY (project_id, status, deleted)
) WITHOUT ROWID;

CREATE TRIGGER count_inserted_generation AFTER INSERT ON generations BEGIN
    INSERT INTO generation_counts VALUES (new.project_id, new.status, new.deleted_at IS NOT NULL, 1)
        ON CONFLICT DO UPDATE SET generations = generations + 1;
END;

CREATE TRIGGER count_deleted_generation AFTER DELETE ON generations BEGIN
    UPDATE generation_counts SET generations = generations - 1
        WHERE project_id = old.project_id AND status = old.status
            AND deleted = (old.deleted_at IS NOT NULL);
END;

CREATE TRIGGER count_changed_generation AFTER UPDATE OF status, deleted_at ON generations
    WHEN old.status <> new.status OR (old.deleted_at IS NULL) <> (new.deleted_at IS NULL) BEGIN
    UPDATE generation_counts SET generations = generations - 1
        WHERE project_id = old.project_id AND status = old.status
            AND deleted = (old.deleted_at IS NOT NULL);
    INSERT INTO generation_counts VALUES (new.project_id, new.status, new.deleted_at IS NOT NULL, 1)
        ON CONFLICT DO UPDATE SET generations = generations + 1;
END;

CREATE TABLE idempotent_requests (
    key_id TEXT NOT NULL REFERENCES keys(id),
    idempotency_key TEXT NOT NULL,
    body_hash TEXT NOT NULL,
    generation_id TEXT NOT NULL,
    answer BLOB,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (key_id, idempotency_key)
) WITHOUT ROWID;

CREATE INDEX idempotent_requests_by_age ON idempotent_requests (created_at);

CREATE TABLE workers (
    id TEXT PRIMARY KEY,
    pid INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('starting', 'ready', 'broken')),
    reason TEXT,
    device TEXT,
    language_model TEXT,
    painting_model TEXT,
    seen_at INTEGER NOT NULL
)
"""

_MEASURES = """
ALTER TABLE generations ADD COLUMN request_id TEXT;

ALTER TABLE generations ADD COLUMN failure TEXT;

ALTER TABLE workers ADD COLUMN memory_bytes INTEGER;

ALTER TABLE workers ADD COLUMN device_memory_used INTEGER;

ALTER TABLE workers ADD COLUMN device_memory_total INTEGER;

CREATE TABLE stage_durations (
    stage TEXT NOT NULL,
    at_most REAL NOT NULL,
    durations INTEGER NOT NULL,
    seconds REAL NOT NULL,
    PRIMARY KEY (stage, at_most)
) WITHOUT ROWID;

CREATE TABLE outcomes (
    status TEXT NOT NULL,
    reason TEXT NOT NULL,
    generations INTEGER NOT NULL,
    PRIMARY KEY (status, reason)
) WITHOUT ROWID;

CREATE TRIGGER count_outcome AFTER UPDATE OF stage ON generations
    WHEN new.stage = 'done' AND old.stage <> 'done' BEGIN
    INSERT INTO outcomes VALUES (
        new.status,
        CASE new.status WHEN 'failed' THEN coalesce(new.failure, 'unknown') ELSE '' END,
        1
    ) ON CONFLICT DO UPDATE SET generations = generations + 1;
END;

CREATE TRIGGER count_deleted_outcome AFTER DELETE ON generations WHEN old.stage <> 'done' BEGIN
    INSERT INTO outcomes VALUES ('failed', 'cancelled', 1)
        ON CONFLICT DO UPDATE SET generations = generations + 1;
END
"""

# Whoever gives a row back, for whatever reason, leaves no preview.
_PREVIEWS = """
CREATE TABLE previews (
    generation_id TEXT PRIMARY KEY,
    step INTEGER NOT NULL,
    jpeg BLOB NOT NULL
);

CREATE TRIGGER forget_preview_of_released_generation AFTER UPDATE OF claimed_by ON generations
    WHEN old.claimed_by IS NOT NULL AND new.claimed_by IS NOT old.claimed_by BEGIN
    DELETE FROM previews WHERE generation_id = old.id;
END;

CREATE TRIGGER forget_preview_of_deleted_generation AFTER DELETE ON generations BEGIN
    DELETE FROM previews WHERE generation_id = old.id;
END
"""


def _translate_error(error: sqlite3.Error) -> BanatieError:
    """SQLite's error as one of Banatie's: what may pass by itself, and what will not."""
    # The low byte is the kind; SQL that is wrong is kind 1 (https://sqlite.org/rescode.html).
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in _PASSING:
        return ServiceUnavailable("The database cannot be reached at the moment")
    return DatabaseUnusable(f"The database refused: {error}")


class _CommitGroup:
    """The parts that are committed together."""

    def __init__(self) -> None:
        self.committed = threading.Event()
        self.error: sqlite3.Error | None = None


class Database:
    """The database file of one process, shared by its threads."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """`read_only` changes nothing on the disk, whatever is asked, and makes no file."""
        self.path = path
        self._read_only = read_only
        self._local = threading.local()
        # Whoever has the pen writes, whatever its thread, through one connection.
        self._write_lock = threading.Lock()
        self._group: _CommitGroup | None = None
        self._queueing = threading.Lock()
        self._queue_length = 0

    def migrate(self) -> list[str]:
        """Bring the tables up to date; the names of the migrations that were applied.

        Raises DatabaseUnusable when the file is none, or cannot be read or written.
        """
        pending = self.pending()
        if not pending:
            return []
        try:
            # Web and several workers may start at once; whoever comes second finds nothing to do.
            with FileLock(self.path.with_name("migrate.lock")):
                migrations.apply(sqlite_utils.Database(self._connection()))
        except sqlite3.Error as error:
            raise DatabaseUnusable(f"The database {self.path} cannot be used: {error}") from error
        except OSError as error:
            reason = error.strerror
            raise DatabaseUnusable(f"The database {self.path} cannot be used: {reason}") from error
        return pending

    def pending(self) -> list[str]:
        """The names of the migrations that wait to be applied. Raises DatabaseUnusable."""
        try:
            database = sqlite_utils.Database(self._connection())
            return [migration.name for migration in migrations.pending(database)]
        except sqlite3.Error as error:
            raise DatabaseUnusable(f"The database {self.path} cannot be used: {error}") from error

    def check(self, *, quick: bool = False) -> None:
        """Read the whole file; if `quick`, without comparing the indexes with what they index.

        Raises DatabaseUnusable when it is damaged.
        """
        kind = "quick_check" if quick else "integrity_check"
        try:
            found = self._connection().execute(f"PRAGMA {kind}").fetchone()[0]
        except sqlite3.Error as error:
            raise DatabaseUnusable(f"The database {self.path} cannot be used: {error}") from error
        if found != "ok":
            raise DatabaseUnusable(f"The database {self.path} is damaged: {found}")

    def copy_to(self, path: Path) -> None:
        """Copy the database as it is now into a new file; nobody is held up by it."""
        try:
            with closing(sqlite3.connect(path)) as copy:
                self._connection().backup(copy)
        except sqlite3.Error as error:
            raise _translate_error(error) from error

    def query(self, sql: str, parameters: object = ()) -> list[sqlite3.Row]:
        """All rows of a statement that only reads."""
        try:
            return self._connection().execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            raise _translate_error(error) from error

    def first(self, sql: str, parameters: object = ()) -> sqlite3.Row | None:
        """The first row of a statement that only reads, if there is one."""
        try:
            return self._connection().execute(sql, parameters).fetchone()
        except sqlite3.Error as error:
            raise _translate_error(error) from error

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """All of what is done to the connection happens, durably when this returns, or nothing.

        Threads that write at the same time share one transaction, and so one wait for the disk.
        """
        try:
            yield from self._write()
        except sqlite3.IntegrityError:
            raise
        except sqlite3.Error as error:
            raise _translate_error(error) from error

    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._queueing:
            self._queue_length += 1
        try:
            self._write_lock.acquire()
        finally:
            with self._queueing:
                self._queue_length -= 1
        try:
            group = self._begin()
            try:
                self._writer.execute("SAVEPOINT part")
                yield self._writer
                self._writer.execute("RELEASE part")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK TO part")
                raise
            finally:
                # The last in the queue commits for all; so does one whose own part has failed.
                if self._queue_length == 0:
                    self._commit(group)
        finally:
            self._write_lock.release()
        group.committed.wait()
        if group.error is not None:
            raise group.error

    def _begin(self) -> _CommitGroup:
        if self._group is None:
            self._writer.execute("BEGIN IMMEDIATE")
            self._group = _CommitGroup()
        return self._group

    def _commit(self, group: _CommitGroup) -> None:
        self._group = None
        try:
            self._writer.execute("COMMIT")
        except sqlite3.Error as error:
            group.error = error
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
        group.committed.set()

    def data_version(self) -> int:
        """A number that changes whenever another connection has changed the file."""
        return self.first("PRAGMA data_version")[0]

    def close(self) -> None:
        """Close the calling thread's connection, and the one that all write through.

        Others may go on: what they have written so far is kept, and the next write opens it anew.
        """
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()
            del self._local.connection
        with self._write_lock:
            if self._group is not None:
                self._commit(self._group)
            if "_writer" in vars(self):
                self._writer.close()
                del self._writer

    def close_whole(self) -> None:
        """Close, with everything in the one file and nothing in its log."""
        self.query("PRAGMA wal_checkpoint(TRUNCATE)")
        self.close()

    @cached_property
    def _writer(self) -> sqlite3.Connection:
        return self._connect(check_same_thread=False)

    def _connection(self) -> sqlite3.Connection:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect()
        return connection

    def _connect(self, **options: bool) -> sqlite3.Connection:
        if self._read_only:
            return self._connect_to_read()
        connection = sqlite3.connect(
            self.path, timeout=BUSY_SECONDS, isolation_level=None, **options
        )
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode = WAL")
        # FULL, so that an accepted job survives a power cut and not only a crash.
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        return connection

    def _connect_to_read(self) -> sqlite3.Connection:
        # Reading a database whose log is not there would make one, unless it is said to be at rest.
        has_log = self.path.with_name(self.path.name + "-wal").exists()
        uri = f"{self.path.absolute().as_uri()}?{'mode=ro' if has_log else 'immutable=1'}"
        connection = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None)
        connection.row_factory = sqlite3.Row
        return connection
