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

-- The newest row says which version runs in shadow; NULL when none does. The older ones are history.
CREATE TABLE shadows (
    seq BIGINT PRIMARY KEY,
    version BIGINT REFERENCES rule_sets (version) DEFERRABLE INITIALLY DEFERRED,
    changed_at BIGINT NOT NULL,
    changed_by TEXT NOT NULL
);

-- What a version in shadow would have decided, beside what was decided. One row per request and
-- facts, however often the caller repeats it.
CREATE TABLE shadow_decisions (
    id TEXT PRIMARY KEY,
    version BIGINT NOT NULL,
    request TEXT NOT NULL,
    active_version BIGINT NOT NULL,
    differs BIGINT NOT NULL CHECK (differs IN (0, 1)),
    active_outcome TEXT NOT NULL,
    -- JSON lists.
    active_reasons TEXT NOT NULL,
    -- Empty when the version could not decide; `error` says why.
    outcome TEXT NOT NULL,
    reasons TEXT NOT NULL,
    error TEXT NOT NULL,
    -- JSON; empty where both decided alike.
    facts TEXT NOT NULL,
    decided_at BIGINT NOT NULL,
    UNIQUE (version, request)
);
CREATE INDEX shadow_differences ON shadow_decisions (version, id) WHERE differs = 1;
CREATE INDEX shadow_decisions_by_age ON shadow_decisions (decided_at);

-- The payments of the last two days, for velocity facts: one row per payment, counted once whatever
-- is delivered how often. `counts` becomes 0 when the payment ends without money having moved, and
-- stays so when its start is delivered late.
CREATE TABLE payments (
    payment_id TEXT PRIMARY KEY,
    payer_owner TEXT NOT NULL,
    asked_at BIGINT NOT NULL,
    -- NULL when there was no rate.
    amount_eur_minor BIGINT,
    counts BIGINT NOT NULL CHECK (counts IN (0, 1))
);
CREATE INDEX payments_by_payer ON payments (payer_owner, asked_at, amount_eur_minor) WHERE counts = 1;
CREATE INDEX payments_by_age ON payments (asked_at);

CREATE TABLE outbox (id TEXT PRIMARY KEY, topic TEXT NOT NULL, key TEXT NOT NULL, key_version BIGINT NOT NULL, type TEXT NOT NULL, payload TEXT NOT NULL, headers TEXT NOT NULL, created_at BIGINT NOT NULL);
CREATE TABLE inbox (id TEXT PRIMARY KEY, handled_at BIGINT NOT NULL, result TEXT);
CREATE TABLE idempotency (id TEXT PRIMARY KEY, fields TEXT NOT NULL, status BIGINT NOT NULL, response TEXT NOT NULL, created_at BIGINT NOT NULL);
