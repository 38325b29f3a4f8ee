"""The schema of the counts that outlive their generations, as SQL."""

STATISTICS = """
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
