-- What finished runs take, for each user: kept by the triggers below, so that no end of a run has to add them up.
CREATE TABLE history (
    user TEXT NOT NULL,
    run INTEGER NOT NULL REFERENCES runs (number) ON DELETE CASCADE,
    finished_at INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    PRIMARY KEY (user, run)
) STRICT, WITHOUT ROWID;

CREATE INDEX history_by_age ON history (finished_at);
-- For the cascade from runs.
CREATE INDEX history_by_run ON history (run);

CREATE TABLE history_users (
    user TEXT PRIMARY KEY,
    runs INTEGER NOT NULL,
    bytes INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TRIGGER history_inserted AFTER INSERT ON history BEGIN
    INSERT INTO history_users (user, runs, bytes) VALUES (NEW.user, 1, NEW.bytes)
    ON CONFLICT (user) DO UPDATE SET runs = runs + 1, bytes = bytes + excluded.bytes;
END;

CREATE TRIGGER history_deleted AFTER DELETE ON history BEGIN
    UPDATE history_users SET runs = runs - 1, bytes = bytes - OLD.bytes WHERE user = OLD.user;
END;

-- A run takes its texts, its events and its record, and about 1,000 bytes for itself and the indexes.
CREATE TRIGGER runs_finished AFTER UPDATE OF finished_at ON runs
WHEN OLD.finished_at IS NULL AND NEW.finished_at IS NOT NULL BEGIN
    INSERT INTO history (user, run, finished_at, bytes)
    VALUES (
        NEW.user, NEW.number, NEW.finished_at,
        1000 + octet_length(NEW.metadata) + octet_length(NEW.input) + coalesce(octet_length(NEW.output), 0)
            + (SELECT coalesce(sum(octet_length(payload) + 20), 0) FROM events WHERE run = NEW.number)
            + (SELECT coalesce(sum(octet_length(payload)), 0) FROM records WHERE run = NEW.number)
    );
END;

-- The runs that had finished before there was this table.
INSERT INTO history (user, run, finished_at, bytes)
SELECT user, number, finished_at,
    1000 + octet_length(metadata) + octet_length(input) + coalesce(octet_length(output), 0)
        + (SELECT coalesce(sum(octet_length(payload) + 20), 0) FROM events WHERE run = number)
        + (SELECT coalesce(sum(octet_length(payload)), 0) FROM records WHERE run = number)
FROM runs WHERE finished_at IS NOT NULL;

-- The oldest finished runs of a user go until there are at most v1 of v2 bytes; at most v3 at once. Runs that have not
-- finished are not in the history.
CREATE TRIGGER writes_prune INSTEAD OF INSERT ON writes WHEN NEW.kind = 'prune' BEGIN
    DELETE FROM runs WHERE number IN (
        SELECT oldest.run FROM (
            SELECT run, bytes, row_number() OVER (ORDER BY run) AS nth, sum(bytes) OVER (ORDER BY run) AS bytes_to_here
            FROM (SELECT run, bytes FROM history WHERE user = NEW.user ORDER BY run LIMIT NEW.v3)
        ) AS oldest, history_users AS have
        WHERE have.user = NEW.user
            AND (have.runs - oldest.nth + 1 > NEW.v1 OR have.bytes - oldest.bytes_to_here + oldest.bytes > NEW.v2)
    );
END;

-- Runs that had finished before v1 go, of whomever; at most v2 at once, the oldest first.
CREATE TRIGGER writes_prune_age INSTEAD OF INSERT ON writes WHEN NEW.kind = 'prune_age' BEGIN
    DELETE FROM runs WHERE number IN (
        SELECT run FROM history WHERE finished_at < NEW.v1 ORDER BY finished_at LIMIT NEW.v2
    );
END;
