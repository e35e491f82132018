-- Runs that are continued wherever their host's end cuts them off. The column stands behind the input, and takes no bytes
-- but in the row's header.
ALTER TABLE runs ADD COLUMN durable INTEGER CHECK (durable = 1);

-- The wait that a run came to last: it waits while its status says so. When it has gone on, what it had taken before, and
-- what it was told, are still of use, until its next wait or its end.
CREATE TABLE waits (
    run INTEGER PRIMARY KEY REFERENCES runs (number) ON DELETE CASCADE,
    user TEXT NOT NULL,
    call INTEGER NOT NULL,
    -- Null once it has gone on.
    wake_at INTEGER,
    child TEXT,
    document TEXT NOT NULL,
    answer TEXT
) STRICT;

CREATE INDEX waits_waking ON waits (wake_at) WHERE wake_at IS NOT NULL;
CREATE INDEX waits_for_child ON waits (child) WHERE child IS NOT NULL;
CREATE INDEX waits_of_user ON waits (user);

-- The last change of state of each run that is durable, so that it is made once.
CREATE TABLE state_changes (
    run INTEGER PRIMARY KEY REFERENCES runs (number) ON DELETE CASCADE,
    call INTEGER NOT NULL,
    outcome INTEGER NOT NULL
) STRICT;

CREATE INDEX runs_of_parent ON runs (parent_id) WHERE parent_id IS NOT NULL;

-- A new run that is durable. Written after the run, in the same commit.
CREATE TRIGGER writes_durable INSTEAD OF INSERT ON writes WHEN NEW.kind = 'durable' BEGIN
    UPDATE runs SET durable = 1 WHERE user = NEW.user AND id = NEW.id;
END;

-- A run waits from here on: call, wake_at, child, document. Written again, it takes away no answer.
CREATE TRIGGER writes_wait INSTEAD OF INSERT ON writes WHEN NEW.kind = 'wait' BEGIN
    UPDATE runs SET status = 'waiting' WHERE user = NEW.user AND id = NEW.id AND finished_at IS NULL;
    INSERT INTO waits (run, user, call, wake_at, child, document)
    SELECT number, NEW.user, NEW.v1, NEW.v2, NEW.v3, NEW.v4 FROM runs
    WHERE user = NEW.user AND id = NEW.id AND finished_at IS NULL
    ON CONFLICT (run) DO UPDATE
    SET call = excluded.call, wake_at = excluded.wake_at, child = excluded.child, document = excluded.document,
        answer = NULL
    WHERE document <> excluded.document;
END;

-- An answer to the question of a call: call, answer. The first one stands.
CREATE TRIGGER writes_answer INSTEAD OF INSERT ON writes WHEN NEW.kind = 'answer' BEGIN
    UPDATE waits SET answer = NEW.v2
    WHERE answer IS NULL AND call = NEW.v1
        AND run = (SELECT number FROM runs WHERE user = NEW.user AND id = NEW.id AND status = 'waiting');
END;

-- A change of state by a call of a durable run: call, outcome.
CREATE TRIGGER writes_state_change INSTEAD OF INSERT ON writes WHEN NEW.kind = 'state_change' BEGIN
    INSERT INTO state_changes (run, call, outcome)
    SELECT number, NEW.v1, NEW.v2 FROM runs WHERE user = NEW.user AND id = NEW.id AND finished_at IS NULL
    ON CONFLICT (run) DO UPDATE SET call = excluded.call, outcome = excluded.outcome;
END;

CREATE TRIGGER runs_went_on AFTER UPDATE OF status ON runs WHEN OLD.status = 'waiting' AND NEW.status <> 'waiting' BEGIN
    UPDATE waits SET wake_at = NULL, child = NULL WHERE run = NEW.number;
END;

CREATE TRIGGER runs_ended AFTER UPDATE OF finished_at ON runs WHEN NEW.finished_at IS NOT NULL BEGIN
    DELETE FROM waits WHERE run = NEW.number;
    DELETE FROM state_changes WHERE run = NEW.number;
END;
