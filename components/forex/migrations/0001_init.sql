-- One row per day and revision: a set is never changed, a correction is the next revision of its day.
CREATE TABLE rate_sets (
    date TEXT NOT NULL,
    revision BIGINT NOT NULL,
    source TEXT NOT NULL,
    digest TEXT NOT NULL,
    loaded_at BIGINT NOT NULL,
    loaded_by TEXT NOT NULL,
    PRIMARY KEY (date, revision)
);

-- Units per euro, as published. A hole of the history is an absent row.
CREATE TABLE rates (
    date TEXT NOT NULL,
    revision BIGINT NOT NULL,
    currency TEXT NOT NULL,
    rate TEXT NOT NULL,
    PRIMARY KEY (date, revision, currency)
);

CREATE TABLE quotes (
    id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    -- Which amount was given: source or target.
    amount_side TEXT NOT NULL,
    source_minor BIGINT NOT NULL,
    source_currency TEXT NOT NULL,
    margin_minor BIGINT NOT NULL,
    margin_bps BIGINT NOT NULL,
    target_minor BIGINT NOT NULL,
    target_currency TEXT NOT NULL,
    rate TEXT NOT NULL,
    rate_date TEXT NOT NULL,
    rate_revision BIGINT NOT NULL,
    exact TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    conversion_id TEXT
);

-- One per payment: a payment that comes again gets the conversion it has.
CREATE TABLE conversions (
    id TEXT PRIMARY KEY,
    payment_id TEXT NOT NULL UNIQUE,
    quote_id TEXT,
    source_minor BIGINT NOT NULL,
    source_currency TEXT NOT NULL,
    margin_minor BIGINT NOT NULL,
    target_minor BIGINT NOT NULL,
    target_currency TEXT NOT NULL,
    rate TEXT NOT NULL,
    rate_date TEXT NOT NULL,
    rate_revision BIGINT NOT NULL,
    exact TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE outbox (id TEXT PRIMARY KEY, topic TEXT NOT NULL, key TEXT NOT NULL, key_version BIGINT NOT NULL, type TEXT NOT NULL, payload TEXT NOT NULL, headers TEXT NOT NULL, created_at BIGINT NOT NULL);
CREATE TABLE inbox (id TEXT PRIMARY KEY, handled_at BIGINT NOT NULL, result TEXT);
CREATE TABLE idempotency (id TEXT PRIMARY KEY, fields TEXT NOT NULL, status BIGINT NOT NULL, response TEXT NOT NULL, created_at BIGINT NOT NULL);
