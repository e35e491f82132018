-- What operators have set of the quotas of tiers and users, as JSON. What is not there is the host's default.
CREATE TABLE tiers (
    name TEXT PRIMARY KEY,
    document TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE user_quotas (
    user TEXT PRIMARY KEY,
    document TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- id is the tier, then document.
CREATE TRIGGER writes_tier INSTEAD OF INSERT ON writes WHEN NEW.kind = 'tier' BEGIN
    INSERT INTO tiers (name, document) VALUES (NEW.id, NEW.v1)
    ON CONFLICT (name) DO UPDATE SET document = excluded.document;
END;

-- Document; none for a user of whom nothing is said any more.
CREATE TRIGGER writes_user_quota INSTEAD OF INSERT ON writes WHEN NEW.kind = 'user_quota' BEGIN
    DELETE FROM user_quotas WHERE user = NEW.user AND NEW.v1 IS NULL;
    INSERT INTO user_quotas (user, document) SELECT NEW.user, NEW.v1 WHERE NEW.v1 IS NOT NULL
    ON CONFLICT (user) DO UPDATE SET document = excluded.document;
END;

-- How long a run is kept is its user's quota: of the user's v2 oldest runs, those that had finished before v1 go.
DROP TRIGGER writes_prune_age;
CREATE TRIGGER writes_prune_age INSTEAD OF INSERT ON writes WHEN NEW.kind = 'prune_age' BEGIN
    DELETE FROM runs WHERE number IN (
        SELECT run FROM (SELECT run, finished_at FROM history WHERE user = NEW.user ORDER BY run LIMIT NEW.v2)
        WHERE finished_at < NEW.v1
    );
END;
