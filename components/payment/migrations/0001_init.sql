CREATE TABLE payments (
    id TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    -- Rises by one with every change; each change names the version it was decided on.
    version BIGINT NOT NULL,
    payer_wallet TEXT NOT NULL,
    payee_wallet TEXT NOT NULL,
    payer_owner TEXT NOT NULL,
    payee_owner TEXT NOT NULL,
    payer_account TEXT NOT NULL,
    payee_account TEXT NOT NULL,
    source_minor BIGINT NOT NULL,
    source_currency TEXT NOT NULL,
    -- Known once converted.
    target_minor BIGINT,
    target_currency TEXT NOT NULL,
    margin_minor BIGINT,
    rate TEXT,
    rate_date TEXT,
    exact TEXT,
    entry_id TEXT,
    -- The quote it is to be converted at.
    quote_id TEXT,
    reference TEXT NOT NULL,
    -- Reason codes, separated by a comma; empty when there is none.
    reason_codes TEXT NOT NULL,
    reason_detail TEXT NOT NULL,
    rules_version BIGINT,
    traceparent TEXT NOT NULL,
    correlation_id TEXT NOT NULL,
    created_by TEXT NOT NULL,
    -- Who withdrew it while it was on its way: then a refusal of the ledger's is that withdrawal.
    withdrawn_by TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX payments_by_payer ON payments (payer_owner, id);
CREATE INDEX payments_by_payee ON payments (payee_owner, id);
-- What the sweeper looks for: payments on their way, oldest change first.
CREATE INDEX payments_on_their_way ON payments (updated_at)
    WHERE state IN ('initiated', 'converting', 'posting', 'processing');

-- What /pay takes where a caller names no wallet or currency.
CREATE TABLE defaults (
    owner TEXT PRIMARY KEY,
    payer_wallet TEXT,
    payee_wallet TEXT,
    currency TEXT,
    updated_at BIGINT NOT NULL
);

CREATE TABLE timeline (
    id TEXT PRIMARY KEY,
    payment_id TEXT NOT NULL,
    at BIGINT NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    trace_id TEXT NOT NULL,
    detail TEXT NOT NULL
);
CREATE INDEX timeline_by_payment ON timeline (payment_id, id);

CREATE TABLE outbox (id TEXT PRIMARY KEY, topic TEXT NOT NULL, key TEXT NOT NULL, key_version BIGINT NOT NULL, type TEXT NOT NULL, payload TEXT NOT NULL, headers TEXT NOT NULL, created_at BIGINT NOT NULL);
CREATE TABLE inbox (id TEXT PRIMARY KEY, handled_at BIGINT NOT NULL, result TEXT);
CREATE TABLE idempotency (id TEXT PRIMARY KEY, fields TEXT NOT NULL, status BIGINT NOT NULL, response TEXT NOT NULL, created_at BIGINT NOT NULL);
