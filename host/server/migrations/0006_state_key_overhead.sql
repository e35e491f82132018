-- A state key takes 200 bytes of its user's quota beside its own and its value's (STATE_KEY_OVERHEAD_BYTES), about what a
-- row with its index takes here: the smallest keys would otherwise take some fifty times what is counted.
DROP TRIGGER state_inserted;
DROP TRIGGER state_deleted;

CREATE TRIGGER state_inserted AFTER INSERT ON state BEGIN
    INSERT INTO state_users (user, bytes, version)
    VALUES (NEW.user, octet_length(NEW.key) + octet_length(NEW.value) + 200, NEW.version)
    ON CONFLICT (user) DO UPDATE SET bytes = bytes + excluded.bytes, version = max(version, excluded.version);
END;

CREATE TRIGGER state_deleted AFTER DELETE ON state BEGIN
    UPDATE state_users SET bytes = bytes - octet_length(OLD.key) - octet_length(OLD.value) - 200 WHERE user = OLD.user;
END;

UPDATE state_users SET bytes = bytes + 200 * (SELECT count(*) FROM state WHERE state.user = state_users.user);
