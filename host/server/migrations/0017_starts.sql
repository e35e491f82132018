-- How far a run has come: grows with its log and its record.
CREATE VIEW run_progress (run, progress) AS
SELECT number,
    coalesce((SELECT max(seq) FROM events WHERE events.run = number), 0)
        + coalesce((SELECT max(chunk) FROM records WHERE records.run = number), 0)
FROM runs;

-- Runs that a host executed which did not accept them: since when, how far they had come, and how often they were started
-- without coming further or being left in good order.
CREATE TABLE starts (
    run INTEGER PRIMARY KEY REFERENCES runs (number) ON DELETE CASCADE,
    at INTEGER NOT NULL,
    progress INTEGER NOT NULL,
    count INTEGER NOT NULL
) STRICT;

-- Such a run is executed from v1 on. Written behind the log and the record of the same commit; written again, it counts once.
CREATE TRIGGER writes_start INSTEAD OF INSERT ON writes WHEN NEW.kind = 'start' BEGIN
    INSERT INTO starts (run, at, progress, count)
    SELECT number, NEW.v1, progress, 1 FROM runs JOIN run_progress ON run_progress.run = number
    WHERE user = NEW.user AND id = NEW.id AND finished_at IS NULL
    ON CONFLICT (run) DO UPDATE
    SET count = iif(progress = excluded.progress, count + 1, 1), progress = excluded.progress, at = excluded.at
    WHERE at <> excluded.at;
END;

-- It is left in good order.
CREATE TRIGGER writes_left INSTEAD OF INSERT ON writes WHEN NEW.kind = 'left' BEGIN
    DELETE FROM starts WHERE run = (SELECT number FROM runs WHERE user = NEW.user AND id = NEW.id);
END;

CREATE TRIGGER runs_ended_after_starts AFTER UPDATE OF finished_at ON runs WHEN NEW.finished_at IS NOT NULL BEGIN
    DELETE FROM starts WHERE run = NEW.number;
END;
