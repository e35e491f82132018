-- Of the same runs as before, by their users: a list of a user's runs that have not ended looks at no others. Who starts sorts
-- what it finds.
DROP INDEX runs_unfinished;
CREATE INDEX runs_unfinished ON runs (user, id) WHERE finished_at IS NULL;
