-- Every scoring of a case; none is ever changed. `seq` counts the scorings of one case.
CREATE TABLE scorings (
    case_id TEXT NOT NULL,
    seq BIGINT NOT NULL,
    title TEXT NOT NULL,
    score BIGINT NOT NULL CHECK (score BETWEEN 0 AND 1000),
    model TEXT NOT NULL,
    -- JSON: why, and what the model was given.
    reasons TEXT NOT NULL,
    features TEXT NOT NULL,
    scored_at BIGINT NOT NULL,
    scored_by TEXT NOT NULL,
    PRIMARY KEY (case_id, seq)
);

CREATE TABLE outbox (id TEXT PRIMARY KEY, topic TEXT NOT NULL, key TEXT NOT NULL, key_version BIGINT NOT NULL, type TEXT NOT NULL, payload TEXT NOT NULL, headers TEXT NOT NULL, created_at BIGINT NOT NULL);
CREATE TABLE inbox (id TEXT PRIMARY KEY, handled_at BIGINT NOT NULL, result TEXT);
CREATE TABLE idempotency (id TEXT PRIMARY KEY, fields TEXT NOT NULL, status BIGINT NOT NULL, response TEXT NOT NULL, created_at BIGINT NOT NULL);
