-- Times are microseconds since 1970, UTC. Numbers that are unsigned 64-bit in the host are stored as the signed number
-- of the same bits. The large columns of a table stand last, so that reading the others does not follow their pages.

CREATE TABLE runs (
    number INTEGER PRIMARY KEY,
    user TEXT NOT NULL,
    id TEXT NOT NULL,
    status TEXT NOT NULL,
    agent TEXT NOT NULL,
    digest TEXT NOT NULL,
    request_id TEXT NOT NULL,
    thread_id TEXT NOT NULL,
    session_id TEXT,
    parent_id TEXT,
    limit_fuel INTEGER NOT NULL,
    limit_memory_bytes INTEGER NOT NULL,
    limit_deadline_ms INTEGER NOT NULL,
    -- Whether the run may have changed something outside itself.
    effects INTEGER NOT NULL DEFAULT 0,
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    -- Set when the run ends, never changed after that.
    finished_at INTEGER,
    stop_reason TEXT,
    used_fuel INTEGER NOT NULL DEFAULT 0,
    used_memory_peak_bytes INTEGER NOT NULL DEFAULT 0,
    used_wall_ms INTEGER NOT NULL DEFAULT 0,
    used_active_ms INTEGER NOT NULL DEFAULT 0,
    used_host_calls INTEGER NOT NULL DEFAULT 0,
    used_events INTEGER NOT NULL DEFAULT 0,
    error_code TEXT,
    error_message TEXT,
    metadata TEXT NOT NULL,
    input TEXT NOT NULL,
    output TEXT,
    -- One index finds a user's run and lists a user's runs, and no run is found without its user.
    UNIQUE (user, id)
) STRICT;

-- What a starting host has to end or take up again. Holds only what is under way, however many runs there have been.
CREATE INDEX runs_unfinished ON runs (id) WHERE finished_at IS NULL;

CREATE TABLE events (
    run INTEGER NOT NULL REFERENCES runs (number) ON DELETE CASCADE,
    seq INTEGER NOT NULL,
    at INTEGER NOT NULL,
    payload BLOB NOT NULL,
    PRIMARY KEY (run, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE state (
    number INTEGER PRIMARY KEY,
    user TEXT NOT NULL,
    plugin TEXT NOT NULL,
    -- Empty for state that is not bound to a thread.
    thread TEXT NOT NULL,
    key TEXT NOT NULL,
    version INTEGER NOT NULL,
    expires_at INTEGER,
    value BLOB NOT NULL,
    UNIQUE (user, plugin, thread, key)
) STRICT;

CREATE INDEX state_expiring ON state (user, expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE state_users (
    user TEXT PRIMARY KEY,
    -- Keys and values together; kept by the triggers below, so that no write has to add them up.
    bytes INTEGER NOT NULL,
    -- The newest version of any of the user's keys. Outlives the keys, so that a version never means two values.
    version INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TRIGGER state_inserted AFTER INSERT ON state BEGIN
    INSERT INTO state_users (user, bytes, version)
    VALUES (NEW.user, octet_length(NEW.key) + octet_length(NEW.value), NEW.version)
    ON CONFLICT (user) DO UPDATE SET bytes = bytes + excluded.bytes, version = max(version, excluded.version);
END;

CREATE TRIGGER state_updated AFTER UPDATE ON state BEGIN
    UPDATE state_users
    SET bytes = bytes + octet_length(NEW.value) - octet_length(OLD.value), version = max(version, NEW.version)
    WHERE user = NEW.user;
END;

CREATE TRIGGER state_deleted AFTER DELETE ON state BEGIN
    UPDATE state_users SET bytes = bytes - octet_length(OLD.key) - octet_length(OLD.value) WHERE user = OLD.user;
END;

CREATE TABLE plugins (
    -- Grows with every push: the order in which the versions were pushed last.
    position INTEGER NOT NULL UNIQUE,
    name TEXT NOT NULL,
    digest TEXT NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (name, digest)
) STRICT;

CREATE TABLE grants (
    user TEXT NOT NULL,
    plugin TEXT NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (user, plugin)
) STRICT, WITHOUT ROWID;

CREATE TABLE keys (
    secret_digest TEXT PRIMARY KEY,
    id TEXT NOT NULL,
    user TEXT NOT NULL,
    role TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Everything the host writes is a row inserted here, and the triggers below do what the row says. A statement costs
-- more on its way to the connection's thread than in the database; this way a whole commit, of many callers and many
-- tables, is one statement. It is its own transaction: there is none that an error could leave open.
-- What the columns v1 to v14 hold depends on the kind; each trigger names it.
CREATE VIEW writes (kind, user, id, v1, v2, v3, v4, v5, v6, v7, v8, v9, v10, v11, v12, v13, v14) AS
SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL WHERE FALSE;

-- A new run. Writing it again changes nothing.
CREATE TRIGGER writes_run INSTEAD OF INSERT ON writes WHEN NEW.kind = 'run' BEGIN
    INSERT INTO runs (
        user, id, status, agent, digest, request_id, thread_id, session_id, parent_id,
        limit_fuel, limit_memory_bytes, limit_deadline_ms, created_at, metadata, input
    )
    VALUES (
        NEW.user, NEW.id, NEW.v1, NEW.v2, NEW.v3, NEW.v4, NEW.v5, NEW.v6, NEW.v7,
        NEW.v8, NEW.v9, NEW.v10, NEW.v11, NEW.v12, NEW.v13
    )
    ON CONFLICT (user, id) DO NOTHING;
END;

-- An event of a run that has not ended: seq, at, payload.
CREATE TRIGGER writes_event INSTEAD OF INSERT ON writes WHEN NEW.kind = 'event' BEGIN
    INSERT INTO events (run, seq, at, payload)
    SELECT number, NEW.v1, NEW.v2, NEW.v3 FROM runs
    WHERE user = NEW.user AND id = NEW.id AND finished_at IS NULL
    ON CONFLICT (run, seq) DO NOTHING;
END;

-- A run has begun (v1: the status, v2: when; or neither), or is about to have effects (v3).
CREATE TRIGGER writes_progress INSTEAD OF INSERT ON writes WHEN NEW.kind = 'progress' BEGIN
    UPDATE runs
    SET status = coalesce(NEW.v1, status), started_at = coalesce(NEW.v2, started_at), effects = max(effects, NEW.v3)
    WHERE user = NEW.user AND id = NEW.id AND finished_at IS NULL;
END;

-- The end of a run.
CREATE TRIGGER writes_end INSTEAD OF INSERT ON writes WHEN NEW.kind = 'end' BEGIN
    UPDATE runs
    SET status = NEW.v1, stop_reason = NEW.v2, started_at = NEW.v3, finished_at = NEW.v4, effects = max(effects, NEW.v5),
        used_fuel = NEW.v6, used_memory_peak_bytes = NEW.v7, used_wall_ms = NEW.v8, used_active_ms = NEW.v9,
        used_host_calls = NEW.v10, used_events = NEW.v11, error_code = NEW.v12, error_message = NEW.v13, output = NEW.v14
    WHERE user = NEW.user AND id = NEW.id AND finished_at IS NULL;
END;

-- A state key: id is the plugin, then thread, key, version, expires_at, value.
CREATE TRIGGER writes_state INSTEAD OF INSERT ON writes WHEN NEW.kind = 'state' BEGIN
    INSERT INTO state (user, plugin, thread, key, version, expires_at, value)
    VALUES (NEW.user, NEW.id, NEW.v1, NEW.v2, NEW.v3, NEW.v4, NEW.v5)
    ON CONFLICT (user, plugin, thread, key) DO UPDATE
    SET version = excluded.version, expires_at = excluded.expires_at, value = excluded.value;
END;

-- A state key to remove: id is the plugin, then thread, key.
CREATE TRIGGER writes_state_delete INSTEAD OF INSERT ON writes WHEN NEW.kind = 'state_delete' BEGIN
    DELETE FROM state WHERE user = NEW.user AND plugin = NEW.id AND thread = NEW.v1 AND key = NEW.v2;
END;

-- A user's state keys that have expired by v1; at most v2 of them, the oldest first.
CREATE TRIGGER writes_state_sweep INSTEAD OF INSERT ON writes WHEN NEW.kind = 'state_sweep' BEGIN
    DELETE FROM state WHERE number IN (
        SELECT number FROM state
        WHERE user = NEW.user AND expires_at IS NOT NULL AND expires_at <= NEW.v1
        ORDER BY expires_at, number LIMIT NEW.v2
    );
END;

-- A version of a plugin: id is the name, then digest, document. The newest from here on, even if it was there.
CREATE TRIGGER writes_plugin INSTEAD OF INSERT ON writes WHEN NEW.kind = 'plugin' BEGIN
    INSERT INTO plugins (position, name, digest, document)
    VALUES ((SELECT coalesce(max(position), 0) + 1 FROM plugins), NEW.id, NEW.v1, NEW.v2)
    ON CONFLICT (name, digest) DO UPDATE SET position = excluded.position, document = excluded.document;
END;

-- What a user is granted: id is the plugin, then document.
CREATE TRIGGER writes_grant INSTEAD OF INSERT ON writes WHEN NEW.kind = 'grant' BEGIN
    INSERT INTO grants (user, plugin, document) VALUES (NEW.user, NEW.id, NEW.v1)
    ON CONFLICT (user, plugin) DO UPDATE SET document = excluded.document;
END;

-- An API key: secret_digest, role, created_at.
CREATE TRIGGER writes_key INSTEAD OF INSERT ON writes WHEN NEW.kind = 'key' BEGIN
    INSERT INTO keys (secret_digest, id, user, role, created_at) VALUES (NEW.v1, NEW.id, NEW.user, NEW.v2, NEW.v3)
    ON CONFLICT (secret_digest) DO UPDATE
    SET id = excluded.id, user = excluded.user, role = excluded.role, created_at = excluded.created_at;
END;
