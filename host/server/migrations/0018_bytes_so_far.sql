-- What a run's events and record have come to, with each commit, so that no end of a run has to add them up: the writer did
-- nothing else meanwhile, 20 ms for 9,000 events.
ALTER TABLE feed ADD COLUMN bytes_so_far INTEGER;
ALTER TABLE records ADD COLUMN bytes_so_far INTEGER;

-- Of runs that have not ended, the last rows say what there is already. Those of finished runs are in the history.
UPDATE feed SET bytes_so_far = (SELECT sum(octet_length(payload) + 20) FROM events WHERE events.run = feed.run)
WHERE run IN (SELECT number FROM runs WHERE finished_at IS NULL)
    AND seq_to = (SELECT max(seq_to) FROM feed AS others WHERE others.run = feed.run);
UPDATE records SET bytes_so_far = (SELECT sum(octet_length(payload)) FROM records AS others WHERE others.run = records.run)
WHERE run IN (SELECT number FROM runs WHERE finished_at IS NULL)
    AND chunk = (SELECT max(chunk) FROM records AS others WHERE others.run = records.run);

-- The last event of a commit carries v4, and in v5 what the commit's events take. The rest is as it was.
DROP TRIGGER writes_feed;
CREATE TRIGGER writes_feed INSTEAD OF INSERT ON writes WHEN NEW.kind = 'event' AND NEW.v4 IS NOT NULL BEGIN
    INSERT INTO feed (run, seq_to, seq_from, user, position, bytes_so_far)
    SELECT
        runs.number,
        NEW.v1,
        1 + coalesce((SELECT max(seq_to) FROM feed WHERE run = runs.number), 0),
        NEW.user,
        1 + max(
            coalesce((SELECT max(position) FROM feed WHERE user = NEW.user), 0),
            coalesce((SELECT position FROM feed_removed WHERE user = NEW.user), 0)
        ),
        NEW.v5 + coalesce((SELECT bytes_so_far FROM feed WHERE run = runs.number ORDER BY seq_to DESC LIMIT 1), 0)
    FROM runs
    WHERE runs.user = NEW.user AND runs.id = NEW.id AND runs.finished_at IS NULL
        AND NEW.v1 > coalesce((SELECT max(seq_to) FROM feed WHERE run = runs.number), 0);
END;

DROP TRIGGER IF EXISTS writes_record;
CREATE TRIGGER writes_record INSTEAD OF INSERT ON writes WHEN NEW.kind = 'record' BEGIN
    INSERT INTO records (run, chunk, payload, bytes_so_far)
    SELECT
        number, NEW.v1, NEW.v2,
        octet_length(NEW.v2)
            + coalesce((SELECT bytes_so_far FROM records WHERE run = number ORDER BY chunk DESC LIMIT 1), 0)
    FROM runs
    WHERE user = NEW.user AND id = NEW.id AND finished_at IS NULL
    ON CONFLICT (run, chunk) DO NOTHING;
END;

DROP TRIGGER IF EXISTS runs_finished;
CREATE TRIGGER runs_finished AFTER UPDATE OF finished_at ON runs
WHEN OLD.finished_at IS NULL AND NEW.finished_at IS NOT NULL BEGIN
    INSERT INTO history (user, run, finished_at, bytes)
    VALUES (
        NEW.user, NEW.number, NEW.finished_at,
        1000 + octet_length(NEW.metadata) + octet_length(NEW.input) + coalesce(octet_length(NEW.output), 0)
            + coalesce((SELECT bytes_so_far FROM feed WHERE run = NEW.number ORDER BY seq_to DESC LIMIT 1), 0)
            + coalesce((SELECT bytes_so_far FROM records WHERE run = NEW.number ORDER BY chunk DESC LIMIT 1), 0)
    );
END;

-- The finished runs that may go. One that was started by another goes after that one, which may ask what became of it, and whose
-- family's fuel and number are counted.
CREATE VIEW may_go (user, run, finished_at, bytes) AS
SELECT user, run, finished_at, bytes FROM history
WHERE NOT EXISTS (
    SELECT 1 FROM runs AS child, runs AS parent
    WHERE child.number = history.run AND child.parent_id IS NOT NULL
        AND parent.user = history.user AND parent.id = child.parent_id
);

-- One call removes about 1 MiB, or one run that is larger: whoever writes meanwhile waits for it. The rest is as it was.
DROP TRIGGER writes_prune;
CREATE TRIGGER writes_prune INSTEAD OF INSERT ON writes WHEN NEW.kind = 'prune' BEGIN
    DELETE FROM runs WHERE number IN (
        SELECT oldest.run FROM (
            SELECT run, bytes, row_number() OVER (ORDER BY run) AS nth, sum(bytes) OVER (ORDER BY run) AS bytes_to_here
            FROM (SELECT run, bytes FROM may_go WHERE user = NEW.user ORDER BY run LIMIT NEW.v3)
        ) AS oldest, history_users AS have
        WHERE have.user = NEW.user AND (oldest.nth = 1 OR oldest.bytes_to_here <= 1048576)
            AND (have.runs - oldest.nth + 1 > NEW.v1 OR have.bytes - oldest.bytes_to_here + oldest.bytes > NEW.v2)
    );
END;

DROP TRIGGER writes_prune_age;
CREATE TRIGGER writes_prune_age INSTEAD OF INSERT ON writes WHEN NEW.kind = 'prune_age' BEGIN
    DELETE FROM runs WHERE number IN (
        SELECT run FROM (
            SELECT run, finished_at, row_number() OVER (ORDER BY run) AS nth, sum(bytes) OVER (ORDER BY run) AS bytes_to_here
            FROM (SELECT run, finished_at, bytes FROM may_go WHERE user = NEW.user ORDER BY run LIMIT NEW.v2)
        )
        WHERE finished_at < NEW.v1 AND (nth = 1 OR bytes_to_here <= 1048576)
    );
END;
