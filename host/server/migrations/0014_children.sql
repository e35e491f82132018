-- What became of the runs that a run started, as JSON: how many succeeded, failed, were cancelled. Null if there were none.
ALTER TABLE history ADD COLUMN children TEXT;

-- Behind a run's `end` and before its `usage`, in the same statement: children. Kept once.
CREATE TRIGGER writes_children INSTEAD OF INSERT ON writes WHEN NEW.kind = 'children' BEGIN
    UPDATE history SET children = NEW.v1
    WHERE user = NEW.user AND tool_calls IS NULL
        AND run = (SELECT number FROM runs WHERE user = NEW.user AND id = NEW.id AND finished_at IS NOT NULL);
END;
