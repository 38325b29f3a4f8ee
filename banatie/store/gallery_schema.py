"""The SQL of the migration `add_gallery`: favourites, indexes of filters, full-text search.

Like the migration, it is never edited.
"""

from __future__ import annotations

# The search index holds no copy of the prompts, and is told of each change what it was before.
GALLERY = """
ALTER TABLE generations ADD COLUMN favourite INTEGER NOT NULL DEFAULT 0;

CREATE INDEX generations_favourite
    ON generations (project_id, created_at DESC, id DESC, deleted_at) WHERE favourite = 1;

CREATE INDEX generations_by_template
    ON generations (project_id, template, created_at DESC, id DESC, deleted_at);

CREATE INDEX generations_by_model
    ON generations (project_id, model, created_at DESC, id DESC, deleted_at)
    WHERE model IS NOT NULL;

CREATE VIRTUAL TABLE generation_search USING fts5 (
    prompt, original_prompt, content='generations', content_rowid='number',
    tokenize='unicode61 remove_diacritics 2'
);

INSERT INTO generation_search (generation_search) VALUES ('rebuild');

CREATE TRIGGER search_inserted_generation AFTER INSERT ON generations BEGIN
    INSERT INTO generation_search (rowid, prompt, original_prompt)
        VALUES (new.number, new.prompt, new.original_prompt);
END;

CREATE TRIGGER search_deleted_generation AFTER DELETE ON generations BEGIN
    INSERT INTO generation_search (generation_search, rowid, prompt, original_prompt)
        VALUES ('delete', old.number, old.prompt, old.original_prompt);
END;

CREATE TRIGGER search_changed_generation AFTER UPDATE OF prompt, original_prompt ON generations
    WHEN old.prompt <> new.prompt OR old.original_prompt <> new.original_prompt BEGIN
    INSERT INTO generation_search (generation_search, rowid, prompt, original_prompt)
        VALUES ('delete', old.number, old.prompt, old.original_prompt);
    INSERT INTO generation_search (rowid, prompt, original_prompt)
        VALUES (new.number, new.prompt, new.original_prompt);
END
"""
