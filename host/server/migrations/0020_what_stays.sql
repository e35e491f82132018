-- Whether a finished run stays because the one that started it is there. Kept with its row, so that what prunes finds those that
-- may go in an index, however many stay: to look at 16,001 of them took 23 ms, in which nobody could write.
ALTER TABLE history ADD COLUMN stays INTEGER NOT NULL DEFAULT 0;
UPDATE history SET stays = 1 WHERE EXISTS (
    SELECT 1 FROM runs AS child, runs AS parent
    WHERE child.number = history.run AND parent.user = history.user AND parent.id = child.parent_id
);
CREATE INDEX history_that_may_go ON history (user, run) WHERE stays = 0;

-- The rule is as it was: a run that was started by another goes after that one.
DROP VIEW may_go;
CREATE VIEW may_go (user, run, finished_at, bytes) AS
SELECT user, run, finished_at, bytes FROM history INDEXED BY history_that_may_go WHERE stays = 0;

DROP TRIGGER runs_finished;
CREATE TRIGGER runs_finished AFTER UPDATE OF finished_at ON runs
WHEN OLD.finished_at IS NULL AND NEW.finished_at IS NOT NULL BEGIN
    INSERT INTO history (user, run, finished_at, bytes, stays)
    VALUES (
        NEW.user, NEW.number, NEW.finished_at,
        1000 + octet_length(NEW.metadata) + octet_length(NEW.input) + coalesce(octet_length(NEW.output), 0)
            + coalesce((SELECT bytes_so_far FROM feed WHERE run = NEW.number ORDER BY seq_to DESC LIMIT 1), 0)
            + coalesce((SELECT bytes_so_far FROM records WHERE run = NEW.number ORDER BY chunk DESC LIMIT 1), 0),
        NEW.parent_id IS NOT NULL
            AND EXISTS (SELECT 1 FROM runs AS parent WHERE parent.user = NEW.user AND parent.id = NEW.parent_id)
    );
END;

-- What a run has started may go once the run is gone.
CREATE TRIGGER runs_removed AFTER DELETE ON runs BEGIN
    UPDATE history SET stays = 0
    WHERE user = OLD.user AND run IN (SELECT number FROM runs WHERE parent_id = OLD.id AND user = OLD.user);
END;
