-- The relay takes rows from here to the queue; nothing else is kept.
CREATE TABLE outbox (id TEXT PRIMARY KEY, topic TEXT NOT NULL, key TEXT NOT NULL, key_version BIGINT NOT NULL, type TEXT NOT NULL, payload TEXT NOT NULL, headers TEXT NOT NULL, created_at BIGINT NOT NULL);
-- Messages that carried an id: every replica hears a PUBLISH, one of them enqueues it.
CREATE TABLE taken (id TEXT PRIMARY KEY, at BIGINT NOT NULL);
