-- An answer that comes when its question has expired is none: the run may have gone on without it, and not be written yet.
DROP TRIGGER writes_answer;
CREATE TRIGGER writes_answer INSTEAD OF INSERT ON writes WHEN NEW.kind = 'answer' BEGIN
    UPDATE waits SET answer = NEW.v2
    WHERE answer IS NULL AND call = NEW.v1
        AND (wake_at IS NULL OR wake_at > CAST(unixepoch('now', 'subsec') * 1000000 AS INTEGER))
        AND run = (SELECT number FROM runs WHERE user = NEW.user AND id = NEW.id AND status = 'waiting');
END;

-- What a run started stays as long as the run itself, which may still ask what became of it. The rest is as it was.
DROP TRIGGER writes_prune;
CREATE TRIGGER writes_prune INSTEAD OF INSERT ON writes WHEN NEW.kind = 'prune' BEGIN
    DELETE FROM runs WHERE number IN (
        SELECT oldest.run FROM (
            SELECT run, bytes, row_number() OVER (ORDER BY run) AS nth, sum(bytes) OVER (ORDER BY run) AS bytes_to_here
            FROM (
                SELECT run, bytes FROM history
                WHERE user = NEW.user AND NOT EXISTS (
                    SELECT 1 FROM runs AS child, runs AS parent
                    WHERE child.number = history.run AND child.parent_id IS NOT NULL
                        AND parent.user = NEW.user AND parent.id = child.parent_id AND parent.finished_at IS NULL
                )
                ORDER BY run LIMIT NEW.v3
            )
        ) AS oldest, history_users AS have
        WHERE have.user = NEW.user
            AND (have.runs - oldest.nth + 1 > NEW.v1 OR have.bytes - oldest.bytes_to_here + oldest.bytes > NEW.v2)
    );
END;

DROP TRIGGER writes_prune_age;
CREATE TRIGGER writes_prune_age INSTEAD OF INSERT ON writes WHEN NEW.kind = 'prune_age' BEGIN
    DELETE FROM runs WHERE number IN (
        SELECT run FROM (
            SELECT run, finished_at FROM history
            WHERE user = NEW.user AND NOT EXISTS (
                SELECT 1 FROM runs AS child, runs AS parent
                WHERE child.number = history.run AND child.parent_id IS NOT NULL
                    AND parent.user = NEW.user AND parent.id = child.parent_id AND parent.finished_at IS NULL
            )
            ORDER BY run LIMIT NEW.v2
        )
        WHERE finished_at < NEW.v1
    );
END;
