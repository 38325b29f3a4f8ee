"""The schema of the database, as the migrations that lead to it.

A migration and the record that it was applied are one transaction. Recorded names never change: the
databases of users hold them. A migration that has been released is never edited; a change is a new
one at the end. When the migrations are applied is up to `database`.
"""

from __future__ import annotations

import sqlite3

import sqlite_utils
from sqlite_utils.migrations import Migrations

from banatie.store.gallery_schema import GALLERY
from banatie.store.pictures_schema import FLOWS_AND_ALIASES, GENERATION_COLUMNS, WITHOUT_CHECK
from banatie.store.sessions_schema import SESSIONS
from banatie.store.statistics_schema import STATISTICS
from banatie.store.webhooks_schema import WEBHOOKS

migrations = Migrations("banatie")


@migrations()
def create_tables(db: sqlite_utils.Database) -> None:
    """Create the tables, their indexes, and the triggers that count generations."""
    _execute_all(db, _TABLES)


@migrations()
def add_measures(db: sqlite_utils.Database) -> None:
    """Add the request id, the reason of a failure, memory figures, durations and outcomes."""
    _execute_all(db, STATISTICS)


@migrations()
def add_previews(db: sqlite_utils.Database) -> None:
    """Add previews of pictures that are being painted."""
    _execute_all(db, _PREVIEWS)


@migrations()
def add_worker_devices(db: sqlite_utils.Database) -> None:
    """Add the devices that a worker found."""
    db.execute("ALTER TABLE workers ADD COLUMN devices TEXT")


@migrations()
def add_worker_plan(db: sqlite_utils.Database) -> None:
    """Add a worker's memory plan."""
    db.execute("ALTER TABLE workers ADD COLUMN plan TEXT")


@migrations()
def add_loras(db: sqlite_utils.Database) -> None:
    """Add the LoRAs of a generation."""
    db.execute("ALTER TABLE generations ADD COLUMN loras TEXT NOT NULL DEFAULT '[]'")


@migrations()
def rename_way_to_mode(db: sqlite_utils.Database) -> None:
    """Rename `way` in the enhancement's JSON to `mode`, and its value `led` to `guided`.

    Leaves `revision` and `updated_at` as they are: for clients, nothing has changed.
    """
    db.execute(_RENAME_WAY_TO_MODE)


@migrations()
def add_pictures_as_input(db: sqlite_utils.Database) -> None:
    """Add flows, aliases, uploads, references, and the shape and format of a picture.

    A generation may now wait or fail with an image (that of an earlier run), and succeed without
    one (it was deleted since). SQLite cannot drop the check that forbids this, so the table of
    generations is copied into a new one, which then takes its name, its indexes and its triggers.
    """
    [old] = db.execute(
        "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = 'generations'"
    ).fetchall()
    attached = db.execute(
        "SELECT sql FROM sqlite_master WHERE tbl_name = 'generations' "
        "AND type IN ('index', 'trigger') AND sql IS NOT NULL"
    ).fetchall()
    [(columns,)] = db.execute(
        "SELECT group_concat(name, ', ') FROM pragma_table_info('generations')"
    ).fetchall()
    table = old[0]
    for before, after in WITHOUT_CHECK.items():
        if before not in table:
            raise sqlite3.OperationalError(f"the table of generations is not as expected: {table}")
        table = table.replace(before, after)
    _execute_all(db, FLOWS_AND_ALIASES)
    db.execute(table)
    db.execute(f"INSERT INTO new_generations ({columns}) SELECT {columns} FROM generations")
    # The numbers of deleted rows are not used again, and count as accepted.
    db.execute("DELETE FROM sqlite_sequence WHERE name = 'new_generations'")
    db.execute("UPDATE sqlite_sequence SET name = 'new_generations' WHERE name = 'generations'")
    db.execute("DROP TABLE generations")
    db.execute("ALTER TABLE new_generations RENAME TO generations")
    for (statement,) in attached:
        db.execute(statement)
    _execute_all(db, GENERATION_COLUMNS)


@migrations()
def add_key_types(db: sqlite_utils.Database) -> None:
    """Add the type of a key; all keys of before are project keys."""
    db.execute(
        "ALTER TABLE keys ADD COLUMN type TEXT NOT NULL DEFAULT 'project' "
        "CHECK (type IN ('project', 'master'))"
    )


@migrations()
def add_live_images(db: sqlite_utils.Database) -> None:
    """Add the scopes and images of live URLs, and whether a project takes new scopes."""
    _execute_all(db, _LIVE_IMAGES)


@migrations()
def add_model_choices(db: sqlite_utils.Database) -> None:
    """Add the painting model that was chosen at run time."""
    db.execute(
        "CREATE TABLE model_choices (setting TEXT PRIMARY KEY, chosen TEXT NOT NULL, "
        "configured TEXT NOT NULL, chosen_at INTEGER NOT NULL)"
    )


@migrations()
def add_installations(db: sqlite_utils.Database) -> None:
    """Add the installations of models that the server was asked for."""
    db.execute(
        "CREATE TABLE installations (id TEXT PRIMARY KEY, kind TEXT NOT NULL, "
        "source TEXT NOT NULL, name TEXT, state TEXT NOT NULL, message TEXT NOT NULL, "
        "bytes_done INTEGER NOT NULL, bytes_total INTEGER NOT NULL, "
        "created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL)"
    )


@migrations()
def add_sessions(db: sqlite_utils.Database) -> None:
    """Add the sessions of browsers, the tokens to sign in with, and the owner's key."""
    _execute_all(db, SESSIONS)


@migrations()
def add_gallery(db: sqlite_utils.Database) -> None:
    """Add favourites, full-text search of prompts, and the indexes of the gallery's filters."""
    _execute_all(db, GALLERY)


@migrations()
def add_webhooks(db: sqlite_utils.Database) -> None:
    """Add webhooks, and the messages that a generation's end sends to them."""
    _execute_all(db, WEBHOOKS)


@migrations()
def add_samplers_and_prompt_syntax(db: sqlite_utils.Database) -> None:
    """Add the sampler of a generation, its noise schedule, and how its prompts are read."""
    db.execute("ALTER TABLE generations ADD COLUMN sampler TEXT")
    db.execute("ALTER TABLE generations ADD COLUMN scheduler TEXT")
    db.execute(
        "ALTER TABLE generations ADD COLUMN prompt_syntax TEXT NOT NULL DEFAULT 'plain' "
        "CHECK (prompt_syntax IN ('plain', 'webui'))"
    )


def _execute_all(db: sqlite_utils.Database, statements: str) -> None:
    # Not executescript, which commits the migration's transaction before it begins.
    for statement in statements.split(";\n\n"):
        db.execute(statement)


# SQL, because sqlite-utils has no other form for checks, partial indexes and triggers.
_TABLES = """
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


# A preview is deleted whenever its generation is released, ended or deleted, for whatever reason.
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

_LIVE_IMAGES = """
ALTER TABLE projects ADD COLUMN allow_new_scopes INTEGER NOT NULL DEFAULT 1;

CREATE TABLE scopes (
    id TEXT PRIMARY KEY,
    project_id TEXT NOT NULL REFERENCES projects(id),
    slug TEXT NOT NULL,
    allow_new_generations INTEGER NOT NULL,
    new_generations_limit INTEGER,
    meta TEXT NOT NULL,
    window_start INTEGER NOT NULL DEFAULT 0,
    window_generations INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    UNIQUE (project_id, slug)
);

CREATE TABLE live_images (
    key TEXT PRIMARY KEY,
    scope_id TEXT NOT NULL REFERENCES scopes(id) ON DELETE CASCADE,
    generation_id TEXT NOT NULL UNIQUE REFERENCES generations(id) ON DELETE CASCADE,
    created_at INTEGER NOT NULL
) WITHOUT ROWID;

CREATE INDEX live_images_of_scope ON live_images (scope_id)
"""


_RENAME_WAY_TO_MODE = """
UPDATE generations SET enhancement = json_remove(
    json_set(
        enhancement,
        '$.mode',
        CASE json_extract(enhancement, '$.way')
            WHEN 'led' THEN 'guided'
            ELSE json_extract(enhancement, '$.way')
        END
    ),
    '$.way'
) WHERE json_type(enhancement, '$.way') IS NOT NULL
"""
