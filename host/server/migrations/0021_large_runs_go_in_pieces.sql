-- Finished runs that are being removed and are too large for one commit: nothing shows them any more, and what they hold goes
-- a piece at a time, the row here and in `runs` last.
CREATE TABLE going (
    run INTEGER PRIMARY KEY REFERENCES runs (number) ON DELETE CASCADE,
    -- How far the piece goes that is being removed: the last event, and the last chunk of the record. Null for none.
    events_to INTEGER,
    chunks_to INTEGER
) STRICT;

-- A run is hidden: what it has started may go, it is out of its user's history, and its user is one that there cannot be, so
-- that nothing that asks for a user's run finds it. That name is as long as the user's was: SQLite then writes the one page of
-- the row that changes, and not the input and the output behind it.
CREATE TRIGGER going_hidden AFTER INSERT ON going BEGIN
    UPDATE history SET stays = 0 WHERE run IN (
        SELECT child.number FROM runs AS parent, runs AS child
        WHERE parent.number = NEW.run AND child.parent_id = parent.id AND child.user = parent.user
    );
    DELETE FROM history WHERE run = NEW.run;
    UPDATE runs SET user = '/' || substr(user, 2) WHERE number = NEW.run;
END;

-- A piece of the run that is first among those: events and the commits they came in, then the record, until it is 64 KiB, with
-- 100 bytes more for each row. Of what is longer than 1,000 bytes an eighth counts: it lies on pages of its own, which are given
-- back and not written. What is looked at for this is bounded, too. The run itself goes with the last of them.
CREATE TRIGGER writes_rest INSTEAD OF INSERT ON writes WHEN NEW.kind = 'rest' BEGIN
    UPDATE going SET (events_to, chunks_to) = (
        SELECT max(seq), max(chunk) FROM (
            SELECT seq, chunk, sum(bytes) OVER (ORDER BY seq IS NULL, seq, chunk) - bytes AS bytes_before FROM (
                SELECT * FROM (
                    SELECT seq, NULL AS chunk, 100 + min(octet_length(payload), 1000 + octet_length(payload) / 8) AS bytes FROM events
                    WHERE run = going.run ORDER BY seq LIMIT 656
                )
                UNION ALL
                SELECT * FROM (
                    SELECT NULL, chunk, 100 + min(octet_length(payload), 1000 + octet_length(payload) / 8) FROM records
                    WHERE run = going.run ORDER BY chunk LIMIT 128
                )
            )
        )
        WHERE bytes_before < 65536
    )
    WHERE run = (SELECT min(run) FROM going);
    DELETE FROM events
    WHERE run = (SELECT min(run) FROM going) AND seq <= (SELECT events_to FROM going ORDER BY run LIMIT 1);
    DELETE FROM feed
    WHERE run = (SELECT min(run) FROM going) AND seq_to <= (SELECT events_to FROM going ORDER BY run LIMIT 1);
    DELETE FROM records
    WHERE run = (SELECT min(run) FROM going) AND chunk <= (SELECT chunks_to FROM going ORDER BY run LIMIT 1);
    DELETE FROM runs
    WHERE number = (SELECT min(run) FROM going)
        AND NOT EXISTS (SELECT 1 FROM events WHERE run = number) AND NOT EXISTS (SELECT 1 FROM records WHERE run = number);
END;

-- One call removes 64 KiB at most, or hides one run that is larger, if that is the first. The rest is as it was.
DROP TRIGGER writes_prune;
CREATE TRIGGER writes_prune INSTEAD OF INSERT ON writes WHEN NEW.kind = 'prune' BEGIN
    DELETE FROM runs WHERE number IN (
        SELECT oldest.run FROM (
            SELECT run, bytes, row_number() OVER (ORDER BY run) AS nth, sum(bytes) OVER (ORDER BY run) AS bytes_to_here
            FROM (SELECT run, bytes FROM may_go WHERE user = NEW.user ORDER BY run LIMIT NEW.v3)
        ) AS oldest, history_users AS have
        WHERE have.user = NEW.user AND oldest.bytes_to_here <= 65536
            AND (have.runs - oldest.nth + 1 > NEW.v1 OR have.bytes - oldest.bytes_to_here + oldest.bytes > NEW.v2)
    );
    INSERT INTO going (run)
    SELECT oldest.run
    FROM (SELECT run, bytes FROM may_go WHERE user = NEW.user ORDER BY run LIMIT 1) AS oldest, history_users AS have
    -- That the DELETE has removed nothing.
    WHERE changes() = 0 AND have.user = NEW.user AND oldest.bytes > 65536 AND (have.runs > NEW.v1 OR have.bytes > NEW.v2);
END;

-- Also, runs that are not too old do not count among the bytes of those that are.
DROP TRIGGER writes_prune_age;
CREATE TRIGGER writes_prune_age INSTEAD OF INSERT ON writes WHEN NEW.kind = 'prune_age' BEGIN
    DELETE FROM runs WHERE number IN (
        SELECT run FROM (
            SELECT run, sum(bytes) OVER (ORDER BY run) AS bytes_to_here
            FROM (SELECT run, finished_at, bytes FROM may_go WHERE user = NEW.user ORDER BY run LIMIT NEW.v2)
            WHERE finished_at < NEW.v1
        )
        WHERE bytes_to_here <= 65536
    );
    INSERT INTO going (run)
    SELECT run FROM (
        SELECT run, bytes
        FROM (SELECT run, finished_at, bytes FROM may_go WHERE user = NEW.user ORDER BY run LIMIT NEW.v2)
        WHERE finished_at < NEW.v1 ORDER BY run LIMIT 1
    )
    WHERE changes() = 0 AND bytes > 65536;
END;
