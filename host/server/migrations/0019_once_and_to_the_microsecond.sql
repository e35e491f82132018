-- What a commit's events take counts once, also when the answer to the commit was lost and they come again, with others behind
-- them. The last event of a commit carries v4, in v5 what the commit's events take, and in v6 the number of the first. Where that
-- one is there already, those behind the run's last row of the feed are added up. The rest is as it was.
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
        coalesce((SELECT bytes_so_far FROM feed WHERE run = runs.number ORDER BY seq_to DESC LIMIT 1), 0)
            + CASE WHEN NEW.v6 > coalesce((SELECT max(seq_to) FROM feed WHERE run = runs.number), 0) THEN NEW.v5
                -- The event of this row may not be there yet.
                ELSE octet_length(NEW.v3) + 20 + (
                    SELECT coalesce(sum(octet_length(payload) + 20), 0) FROM events
                    WHERE run = runs.number AND seq < NEW.v1
                        AND seq > (SELECT max(seq_to) FROM feed WHERE run = runs.number)
                )
            END
    FROM runs
    WHERE runs.user = NEW.user AND runs.id = NEW.id AND runs.finished_at IS NULL
        AND NEW.v1 > coalesce((SELECT max(seq_to) FROM feed WHERE run = runs.number), 0);
END;

-- An answer that comes when its question has expired is none, to the microsecond: call, answer, and the time at which it is
-- written. By SQLite's own clock, which counts milliseconds, one could be taken that the run had already gone on without.
DROP TRIGGER writes_answer;
CREATE TRIGGER writes_answer INSTEAD OF INSERT ON writes WHEN NEW.kind = 'answer' BEGIN
    UPDATE waits SET answer = NEW.v2
    WHERE answer IS NULL AND call = NEW.v1 AND (wake_at IS NULL OR wake_at > NEW.v3)
        AND run = (SELECT number FROM runs WHERE user = NEW.user AND id = NEW.id AND status = 'waiting');
END;
