-- What a request made that is to make something once. Users choose their keys and bodies; their digests are enough.
CREATE TABLE idempotency (
    number INTEGER PRIMARY KEY,
    user TEXT NOT NULL,
    -- What it made: 'run' or 'api_key'.
    creating TEXT NOT NULL,
    key TEXT NOT NULL,
    body TEXT NOT NULL,
    -- The id of what it made.
    made TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    UNIQUE (user, creating, key)
) STRICT;

-- Of all users, to forget what has expired; of one user, to make room for them and to say when there will be some.
CREATE INDEX idempotency_expiring ON idempotency (expires_at);
CREATE INDEX idempotency_expiring_of_user ON idempotency (user, expires_at);

CREATE TABLE idempotency_users (
    user TEXT PRIMARY KEY,
    -- Kept by the triggers below, so that no request has to count.
    keys INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TRIGGER idempotency_inserted AFTER INSERT ON idempotency BEGIN
    INSERT INTO idempotency_users (user, keys) VALUES (NEW.user, 1)
    ON CONFLICT (user) DO UPDATE SET keys = keys + 1;
END;

CREATE TRIGGER idempotency_deleted AFTER DELETE ON idempotency BEGIN
    UPDATE idempotency_users SET keys = keys - 1 WHERE user = OLD.user;
    DELETE FROM idempotency_users WHERE user = OLD.user AND keys <= 0;
END;

-- Who asked a run to stop. A table of its own: a column at the end of `runs` would be read past the run's input.
CREATE TABLE cancels (
    run INTEGER PRIMARY KEY REFERENCES runs (number) ON DELETE CASCADE,
    asked_by TEXT NOT NULL,
    asked_at INTEGER NOT NULL
) STRICT;

-- What a request made: id is that of what it made, then creating, key, body, expires_at. What has expired makes way.
CREATE TRIGGER writes_once INSTEAD OF INSERT ON writes WHEN NEW.kind = 'once' BEGIN
    INSERT INTO idempotency (user, creating, key, body, made, expires_at)
    VALUES (NEW.user, NEW.v1, NEW.v2, NEW.v3, NEW.id, NEW.v4)
    ON CONFLICT (user, creating, key) DO UPDATE
    SET body = excluded.body, made = excluded.made, expires_at = excluded.expires_at;
END;

-- Records of requests, of all users, that have expired by v1; at most v2 of them, the oldest first.
CREATE TRIGGER writes_once_sweep INSTEAD OF INSERT ON writes WHEN NEW.kind = 'once_sweep' BEGIN
    DELETE FROM idempotency WHERE number IN (
        SELECT number FROM idempotency WHERE expires_at <= NEW.v1 ORDER BY expires_at, number LIMIT NEW.v2
    );
END;

-- The same of one user's.
CREATE TRIGGER writes_once_sweep_user INSTEAD OF INSERT ON writes WHEN NEW.kind = 'once_sweep_user' BEGIN
    DELETE FROM idempotency WHERE number IN (
        SELECT number FROM idempotency WHERE user = NEW.user AND expires_at <= NEW.v1
        ORDER BY expires_at, number LIMIT NEW.v2
    );
END;

-- Somebody asked a run to stop: asked_by, asked_at. The first stands.
CREATE TRIGGER writes_cancel INSTEAD OF INSERT ON writes WHEN NEW.kind = 'cancel' BEGIN
    INSERT INTO cancels (run, asked_by, asked_at)
    SELECT number, NEW.v1, NEW.v2 FROM runs WHERE user = NEW.user AND id = NEW.id AND finished_at IS NULL
    ON CONFLICT (run) DO NOTHING;
END;
