-- Runs that are executed again if they fail: how often at most, after which pause first, and which attempt is the last that
-- began.
CREATE TABLE retries (
    run INTEGER PRIMARY KEY REFERENCES runs (number) ON DELETE CASCADE,
    attempts INTEGER NOT NULL,
    backoff_ms INTEGER NOT NULL,
    attempt INTEGER NOT NULL
) STRICT;

-- A new run that may be executed again: attempts, backoff_ms. Written after the run, in the same commit.
CREATE TRIGGER writes_retries INSTEAD OF INSERT ON writes WHEN NEW.kind = 'retries' BEGIN
    INSERT INTO retries (run, attempts, backoff_ms, attempt)
    SELECT number, NEW.v1, NEW.v2, 1 FROM runs WHERE user = NEW.user AND id = NEW.id
    ON CONFLICT (run) DO NOTHING;
END;

-- Another attempt begins.
CREATE TRIGGER writes_attempt INSTEAD OF INSERT ON writes WHEN NEW.kind = 'attempt' BEGIN
    UPDATE retries SET attempt = NEW.v1
    WHERE run = (SELECT number FROM runs WHERE user = NEW.user AND id = NEW.id AND finished_at IS NULL);
END;
