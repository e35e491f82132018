-- Which of a user's own runs go first: 1 before the others, 0 after them, null as usual, which is what the runs are that
-- were there before. The column stands behind the input, and these three take no bytes but in the row's header, so that
-- reading them does not follow the input's pages.
ALTER TABLE runs ADD COLUMN priority INTEGER CHECK (priority IN (0, 1));

-- A new run that is not as usual: v1 is its priority. Written after the run, in the same commit.
CREATE TRIGGER writes_priority INSTEAD OF INSERT ON writes WHEN NEW.kind = 'priority' BEGIN
    UPDATE runs SET priority = NEW.v1 WHERE user = NEW.user AND id = NEW.id;
END;
