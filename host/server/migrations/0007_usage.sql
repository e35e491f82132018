-- What users' runs took, day by day: kept by a trigger in the commit of each run's end, and not touched when the run is
-- removed. Both tables are clustered by user and day, so that the end of a run changes two small rows that the same user's
-- other runs of the day have changed before.
CREATE TABLE usage_days (
    user TEXT NOT NULL,
    -- Days since 1970, UTC, of the end of the runs.
    day INTEGER NOT NULL,
    runs INTEGER NOT NULL,
    fuel INTEGER NOT NULL,
    active_ms INTEGER NOT NULL,
    memory_byte_seconds INTEGER NOT NULL,
    events INTEGER NOT NULL,
    tool_calls INTEGER NOT NULL,
    host_calls INTEGER NOT NULL,
    PRIMARY KEY (user, day)
) STRICT, WITHOUT ROWID;

-- To forget the oldest. Written with the first run of a user's day.
CREATE INDEX usage_days_by_day ON usage_days (day);

CREATE TABLE usage_ends (
    user TEXT NOT NULL,
    day INTEGER NOT NULL,
    stop_reason TEXT NOT NULL,
    runs INTEGER NOT NULL,
    PRIMARY KEY (user, day, stop_reason)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER usage_days_deleted AFTER DELETE ON usage_days BEGIN
    DELETE FROM usage_ends WHERE user = OLD.user AND day = OLD.day;
END;

-- The rest of a run's usage. Here and not in `runs`, whose last columns lie behind the input. Null until the run's usage is
-- counted, which is in the commit of its end.
ALTER TABLE history ADD COLUMN tool_calls INTEGER;
ALTER TABLE history ADD COLUMN memory_byte_seconds INTEGER;

-- Of the runs that ended before this was counted, the rest is known. Figures beyond the signed range read as negative.
INSERT INTO usage_days (user, day, runs, fuel, active_ms, memory_byte_seconds, events, tool_calls, host_calls)
SELECT user, finished_at / 86400000000, count(*),
    min(9223372036854775807, cast(total(iif(used_fuel < 0, 9223372036854775807, used_fuel)) AS INTEGER)),
    cast(total(max(0, used_active_ms)) AS INTEGER), 0, cast(total(max(0, used_events)) AS INTEGER), 0,
    cast(total(max(0, used_host_calls)) AS INTEGER)
FROM runs WHERE finished_at IS NOT NULL AND stop_reason IS NOT NULL GROUP BY 1, 2;

INSERT INTO usage_ends (user, day, stop_reason, runs)
SELECT user, finished_at / 86400000000, stop_reason, count(*)
FROM runs WHERE finished_at IS NOT NULL AND stop_reason IS NOT NULL GROUP BY 1, 2, 3;

UPDATE history SET tool_calls = 0, memory_byte_seconds = 0;

-- What a run took, behind its `end` in the same statement: tool_calls, memory_byte_seconds. Counted once.
CREATE TRIGGER writes_usage INSTEAD OF INSERT ON writes WHEN NEW.kind = 'usage' BEGIN
    UPDATE history SET tool_calls = NEW.v1, memory_byte_seconds = NEW.v2
    WHERE user = NEW.user AND tool_calls IS NULL
        AND run = (SELECT number FROM runs WHERE user = NEW.user AND id = NEW.id AND finished_at IS NOT NULL);
END;

-- Sums stay at the largest number there is. One that would be larger is a real number, and the smaller of the two is the
-- integer; a figure beyond the signed range reads as negative.
CREATE TRIGGER history_used AFTER UPDATE OF tool_calls ON history
WHEN OLD.tool_calls IS NULL AND NEW.tool_calls IS NOT NULL BEGIN
    INSERT INTO usage_days (user, day, runs, fuel, active_ms, memory_byte_seconds, events, tool_calls, host_calls)
    SELECT NEW.user, NEW.finished_at / 86400000000, 1,
        iif(used_fuel < 0, 9223372036854775807, used_fuel),
        iif(used_active_ms < 0, 9223372036854775807, used_active_ms),
        iif(NEW.memory_byte_seconds < 0, 9223372036854775807, NEW.memory_byte_seconds),
        iif(used_events < 0, 9223372036854775807, used_events),
        iif(NEW.tool_calls < 0, 9223372036854775807, NEW.tool_calls),
        iif(used_host_calls < 0, 9223372036854775807, used_host_calls)
    FROM runs WHERE number = NEW.run
    ON CONFLICT (user, day) DO UPDATE SET
        runs = runs + 1,
        fuel = min(9223372036854775807, fuel + excluded.fuel),
        active_ms = min(9223372036854775807, active_ms + excluded.active_ms),
        memory_byte_seconds = min(9223372036854775807, memory_byte_seconds + excluded.memory_byte_seconds),
        events = min(9223372036854775807, events + excluded.events),
        tool_calls = min(9223372036854775807, tool_calls + excluded.tool_calls),
        host_calls = min(9223372036854775807, host_calls + excluded.host_calls);
    INSERT INTO usage_ends (user, day, stop_reason, runs)
    SELECT NEW.user, NEW.finished_at / 86400000000, stop_reason, 1 FROM runs WHERE number = NEW.run
    ON CONFLICT (user, day, stop_reason) DO UPDATE SET runs = runs + 1;
END;

-- Days before v1, of whichever user, are forgotten; at most v2 of them at once, the oldest first.
CREATE TRIGGER writes_usage_sweep INSTEAD OF INSERT ON writes WHEN NEW.kind = 'usage_sweep' BEGIN
    DELETE FROM usage_days WHERE (user, day) IN (
        SELECT user, day FROM usage_days WHERE day < NEW.v1 ORDER BY day LIMIT NEW.v2
    );
END;
