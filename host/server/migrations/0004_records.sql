-- The record of a run's calls to the host: chunks of encoded entries, in the order of their numbers.
CREATE TABLE records (
    run INTEGER NOT NULL REFERENCES runs (number) ON DELETE CASCADE,
    chunk INTEGER NOT NULL,
    payload BLOB NOT NULL,
    PRIMARY KEY (run, chunk)
) STRICT;

-- A chunk of the record of a run that has not ended: number, payload.
CREATE TRIGGER writes_record INSTEAD OF INSERT ON writes WHEN NEW.kind = 'record' BEGIN
    INSERT INTO records (run, chunk, payload)
    SELECT number, NEW.v1, NEW.v2 FROM runs
    WHERE user = NEW.user AND id = NEW.id AND finished_at IS NULL
    ON CONFLICT (run, chunk) DO NOTHING;
END;
