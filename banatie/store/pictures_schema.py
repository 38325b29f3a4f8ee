"""The SQL of the migration `add_pictures_as_input`: flows, aliases, uploads and references.

Like the migration, it is never edited.
"""

from __future__ import annotations

# What is replaced in the text of the table of generations.
WITHOUT_CHECK = {
    "CREATE TABLE generations": "CREATE TABLE new_generations",
    "REFERENCES images(id),\n": "REFERENCES images(id) ON DELETE SET NULL,\n",
    "    CHECK ((status = 'success') = (image_id IS NOT NULL)),\n": "",
}

# A flow id that no flow has is one that was offered to a client and not used yet, so the columns
# that hold one are no foreign keys.
FLOWS_AND_ALIASES = """
CREATE TABLE flows (
    project_id TEXT NOT NULL REFERENCES projects(id),
    id TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (project_id, id)
) WITHOUT ROWID;

CREATE INDEX flows_listed ON flows (project_id, created_at DESC, id DESC);

CREATE TABLE flow_aliases (
    project_id TEXT NOT NULL,
    flow_id TEXT NOT NULL,
    alias TEXT NOT NULL,
    image_id TEXT NOT NULL REFERENCES images(id) ON DELETE CASCADE,
    PRIMARY KEY (project_id, flow_id, alias),
    FOREIGN KEY (project_id, flow_id) REFERENCES flows(project_id, id) ON DELETE CASCADE
) WITHOUT ROWID;

CREATE INDEX flow_aliases_of_image ON flow_aliases (image_id);

ALTER TABLE images ADD COLUMN flow_id TEXT;

ALTER TABLE images ADD COLUMN source TEXT NOT NULL DEFAULT 'generated'
    CHECK (source IN ('generated', 'uploaded'));

ALTER TABLE images ADD COLUMN alias TEXT;

ALTER TABLE images ADD COLUMN focal_point TEXT;

ALTER TABLE images ADD COLUMN meta TEXT NOT NULL DEFAULT '{}';

CREATE UNIQUE INDEX images_by_alias ON images (project_id, alias) WHERE alias IS NOT NULL;

CREATE INDEX images_listed ON images (project_id, created_at DESC, id DESC);

CREATE INDEX images_of_flow ON images (project_id, flow_id, created_at DESC, id DESC)
    WHERE flow_id IS NOT NULL
"""

GENERATION_COLUMNS = """
ALTER TABLE generations ADD COLUMN width INTEGER;

ALTER TABLE generations ADD COLUMN height INTEGER;

ALTER TABLE generations ADD COLUMN flow_id TEXT;

ALTER TABLE generations ADD COLUMN alias TEXT;

ALTER TABLE generations ADD COLUMN flow_alias TEXT;

ALTER TABLE generations ADD COLUMN reference_images TEXT NOT NULL DEFAULT '[]';

ALTER TABLE generations ADD COLUMN reference_strength REAL;

ALTER TABLE generations ADD COLUMN reference_mode TEXT;

ALTER TABLE generations ADD COLUMN mask_image_id TEXT REFERENCES images(id) ON DELETE SET NULL;

ALTER TABLE generations ADD COLUMN upscale REAL;

ALTER TABLE generations ADD COLUMN output_format TEXT NOT NULL DEFAULT 'png'
    CHECK (output_format IN ('png', 'jpeg', 'webp'));

ALTER TABLE generations ADD COLUMN quality INTEGER;

CREATE INDEX generations_of_flow
    ON generations (project_id, flow_id, created_at DESC, id DESC, deleted_at)
    WHERE flow_id IS NOT NULL;

CREATE INDEX generations_with_references ON generations (project_id)
    WHERE reference_images <> '[]';

CREATE INDEX generations_by_mask ON generations (mask_image_id) WHERE mask_image_id IS NOT NULL
"""
