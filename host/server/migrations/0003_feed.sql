-- What happened in all of a user's runs, in the order in which it was committed: one row for each commit of each run.
-- The order cannot be had from the events themselves, of which each run counts its own.
--
-- Positions count from 1 for each user, so that they tell nobody how much others do. The table is clustered by run, so
-- that a run that is removed takes its rows along, and its one index has them in order: a commit writes two small entries
-- more than its events.
CREATE TABLE feed (
    run INTEGER NOT NULL REFERENCES runs (number) ON DELETE CASCADE,
    seq_to INTEGER NOT NULL,
    seq_from INTEGER NOT NULL,
    user TEXT NOT NULL,
    position INTEGER NOT NULL,
    PRIMARY KEY (run, seq_to)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX feed_in_order ON feed (user, position);

-- The last position that a removed row had, so that no position ever means two commits. Written when rows are removed
-- and at no other time.
CREATE TABLE feed_removed (
    user TEXT PRIMARY KEY,
    position INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TRIGGER feed_deleted AFTER DELETE ON feed BEGIN
    INSERT INTO feed_removed (user, position) VALUES (OLD.user, OLD.position)
    ON CONFLICT (user) DO UPDATE SET position = max(position, excluded.position);
END;

-- The last event of a commit carries v4. Its row of the feed begins after the run's last one: of events that are
-- written again, some may be there already.
CREATE TRIGGER writes_feed INSTEAD OF INSERT ON writes WHEN NEW.kind = 'event' AND NEW.v4 IS NOT NULL BEGIN
    INSERT INTO feed (run, seq_to, seq_from, user, position)
    SELECT
        runs.number,
        NEW.v1,
        1 + coalesce((SELECT max(seq_to) FROM feed WHERE run = runs.number), 0),
        NEW.user,
        1 + max(
            coalesce((SELECT max(position) FROM feed WHERE user = NEW.user), 0),
            coalesce((SELECT position FROM feed_removed WHERE user = NEW.user), 0)
        )
    FROM runs
    WHERE runs.user = NEW.user AND runs.id = NEW.id AND runs.finished_at IS NULL
        AND NEW.v1 > coalesce((SELECT max(seq_to) FROM feed WHERE run = runs.number), 0);
END;

-- What is there already: a run at a time, the oldest first.
INSERT INTO feed (run, seq_to, seq_from, user, position)
SELECT number, last, 1, user, row_number() OVER (PARTITION BY user ORDER BY id)
FROM (
    SELECT number, user, id, (SELECT max(seq) FROM events WHERE events.run = runs.number) AS last FROM runs
)
WHERE last IS NOT NULL;
