-- One row per case. `score_at` is when the next attempt to score is due, NULL when none is; `asked_as`
-- is the decider as the payment service is told, kept until the payment has followed.
CREATE TABLE cases (
    id TEXT PRIMARY KEY,
    title TEXT NOT NULL,
    owner_id TEXT,
    priority TEXT NOT NULL,
    state TEXT NOT NULL,
    payment_id TEXT UNIQUE,
    payment_follows TEXT NOT NULL,
    score_state TEXT NOT NULL,
    score BIGINT,
    score_reasons TEXT NOT NULL,
    score_model TEXT,
    scored_at TEXT,
    score_attempts BIGINT NOT NULL,
    score_at BIGINT,
    decision_reason TEXT NOT NULL,
    decided_by TEXT,
    asked_as TEXT,
    decided_at BIGINT,
    version BIGINT NOT NULL,
    traceparent TEXT NOT NULL,
    correlation_id TEXT NOT NULL,
    created_by TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX cases_by_owner ON cases (owner_id, id);
CREATE INDEX cases_by_state ON cases (state, id);
CREATE INDEX cases_due ON cases (score_at) WHERE score_at IS NOT NULL;
CREATE INDEX cases_asking ON cases (decided_at) WHERE payment_follows = 'asked';

CREATE TABLE comments (
    id TEXT PRIMARY KEY,
    case_id TEXT NOT NULL,
    author TEXT NOT NULL,
    body TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX comments_by_case ON comments (case_id, id);

CREATE TABLE outbox (id TEXT PRIMARY KEY, topic TEXT NOT NULL, key TEXT NOT NULL, key_version BIGINT NOT NULL, type TEXT NOT NULL, payload TEXT NOT NULL, headers TEXT NOT NULL, created_at BIGINT NOT NULL);
CREATE TABLE inbox (id TEXT PRIMARY KEY, handled_at BIGINT NOT NULL, result TEXT);
CREATE TABLE idempotency (id TEXT PRIMARY KEY, fields TEXT NOT NULL, status BIGINT NOT NULL, response TEXT NOT NULL, created_at BIGINT NOT NULL);
