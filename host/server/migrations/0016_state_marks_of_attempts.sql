-- Which attempt at its run made the change: calls of two attempts can have the same number. Null where an earlier version of
-- Cofferdam kept the mark, which did not say.
ALTER TABLE state_changes ADD COLUMN attempt INTEGER;

-- A change of state by a call of a durable run: call, outcome, attempt.
DROP TRIGGER writes_state_change;
CREATE TRIGGER writes_state_change INSTEAD OF INSERT ON writes WHEN NEW.kind = 'state_change' BEGIN
    INSERT INTO state_changes (run, call, outcome, attempt)
    SELECT number, NEW.v1, NEW.v2, NEW.v3 FROM runs WHERE user = NEW.user AND id = NEW.id AND finished_at IS NULL
    ON CONFLICT (run) DO UPDATE SET call = excluded.call, outcome = excluded.outcome, attempt = excluded.attempt;
END;
