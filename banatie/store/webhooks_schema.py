"""The schema of webhooks and of the messages that wait to be sent, as SQL."""

WEBHOOKS = """
CREATE TABLE webhooks (
    generation_id TEXT NOT NULL REFERENCES generations(id) ON DELETE CASCADE,
    url TEXT NOT NULL,
    is_server_wide INTEGER NOT NULL,
    PRIMARY KEY (generation_id, url)
) WITHOUT ROWID;

CREATE TABLE webhook_deliveries (
    id TEXT PRIMARY KEY,
    generation_id TEXT NOT NULL REFERENCES generations(id) ON DELETE CASCADE,
    url TEXT NOT NULL,
    is_server_wide INTEGER NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    ended_at INTEGER NOT NULL,
    due_at INTEGER NOT NULL
);

CREATE INDEX webhook_deliveries_by_time ON webhook_deliveries (due_at);

CREATE INDEX webhook_deliveries_of_generation ON webhook_deliveries (generation_id);

CREATE TRIGGER queue_webhooks_of_ended_generation AFTER UPDATE OF stage ON generations
    WHEN new.stage = 'done' AND old.stage <> 'done' BEGIN
    DELETE FROM webhook_deliveries WHERE generation_id = new.id;
    INSERT INTO webhook_deliveries
        SELECT 'msg_' || lower(hex(randomblob(16))), new.id, url, is_server_wide, 0,
            new.updated_at, new.updated_at
        FROM webhooks WHERE generation_id = new.id;
END
"""
