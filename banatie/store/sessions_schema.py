"""The schema of browsers' sessions, tokens to sign in with, and the owner's key, as SQL."""

SESSIONS = """
ALTER TABLE keys ADD COLUMN is_owner INTEGER NOT NULL DEFAULT 0;

CREATE UNIQUE INDEX keys_of_owner ON keys (is_owner) WHERE is_owner;

CREATE TABLE sessions (
    id TEXT PRIMARY KEY,
    key_id TEXT NOT NULL REFERENCES keys(id),
    hash TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    revoked_at INTEGER
);

CREATE TABLE sign_in_tokens (
    hash TEXT PRIMARY KEY,
    expires_at INTEGER NOT NULL
) WITHOUT ROWID
"""
