-- A rule set is never changed: a new one is the next version. `compiled` follows from `rules` and
-- saves reading them again.
CREATE TABLE rule_sets (
    version BIGINT PRIMARY KEY,
    description TEXT NOT NULL,
    rules TEXT NOT NULL,
    compiled TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    created_by TEXT NOT NULL
);

-- The newest activation says which version decides; the older ones are its history.
CREATE TABLE activations (
    seq BIGINT PRIMARY KEY,
    version BIGINT NOT NULL REFERENCES rule_sets (version) DEFERRABLE INITIALLY DEFERRED,
    activated_at BIGINT NOT NULL,
    activated_by TEXT NOT NULL
);

CREATE TABLE outbox (id TEXT PRIMARY KEY, topic TEXT NOT NULL, key TEXT NOT NULL, key_version BIGINT NOT NULL, type TEXT NOT NULL, payload TEXT NOT NULL, headers TEXT NOT NULL, created_at BIGINT NOT NULL);
CREATE TABLE inbox (id TEXT PRIMARY KEY, handled_at BIGINT NOT NULL, result TEXT);
CREATE TABLE idempotency (id TEXT PRIMARY KEY, fields TEXT NOT NULL, status BIGINT NOT NULL, response TEXT NOT NULL, created_at BIGINT NOT NULL);
