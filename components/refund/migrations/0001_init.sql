-- What a payment captured and how much of it refunds have taken: one row per payment that was ever
-- refunded. `refunded*` counts refunds that are pending or succeeded; those that fail give it back.
-- Whatever writes the row, no more is ever refunded than was captured.
CREATE TABLE captures (
    payment_id TEXT PRIMARY KEY,
    -- Rises by one with every change; each refund names the version its part was computed on.
    version BIGINT NOT NULL,
    entry_id TEXT NOT NULL,
    payer_wallet TEXT NOT NULL,
    payee_wallet TEXT NOT NULL,
    payer_owner TEXT NOT NULL,
    payee_owner TEXT NOT NULL,
    payer_account TEXT NOT NULL,
    payee_account TEXT NOT NULL,
    source_currency TEXT NOT NULL,
    target_currency TEXT NOT NULL,
    rate TEXT NOT NULL,
    captured BIGINT NOT NULL,
    captured_margin BIGINT NOT NULL,
    captured_target BIGINT NOT NULL,
    refunded BIGINT NOT NULL,
    refunded_margin BIGINT NOT NULL,
    refunded_target BIGINT NOT NULL,
    CHECK (refunded BETWEEN 0 AND captured),
    CHECK (refunded_margin BETWEEN 0 AND captured_margin),
    CHECK (refunded_target BETWEEN 0 AND captured_target)
);

CREATE TABLE refunds (
    id TEXT PRIMARY KEY,
    payment_id TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'succeeded', 'failed')),
    version BIGINT NOT NULL,
    source_minor BIGINT NOT NULL,
    margin_minor BIGINT NOT NULL,
    target_minor BIGINT NOT NULL,
    entry_id TEXT,
    reason TEXT NOT NULL,
    -- Why it failed; empty when it did not.
    failure_code TEXT NOT NULL,
    failure_detail TEXT NOT NULL,
    traceparent TEXT NOT NULL,
    correlation_id TEXT NOT NULL,
    created_by TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX refunds_by_payment ON refunds (payment_id, id);
-- What the sweeper looks for: pending refunds, oldest first.
CREATE INDEX refunds_pending ON refunds (updated_at) WHERE state = 'pending';

CREATE TABLE outbox (id TEXT PRIMARY KEY, topic TEXT NOT NULL, key TEXT NOT NULL, key_version BIGINT NOT NULL, type TEXT NOT NULL, payload TEXT NOT NULL, headers TEXT NOT NULL, created_at BIGINT NOT NULL);
CREATE TABLE inbox (id TEXT PRIMARY KEY, handled_at BIGINT NOT NULL, result TEXT);
CREATE TABLE idempotency (id TEXT PRIMARY KEY, fields TEXT NOT NULL, status BIGINT NOT NULL, response TEXT NOT NULL, created_at BIGINT NOT NULL);
