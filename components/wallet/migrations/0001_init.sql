-- `posted`, `held` and `account_version` are the ledger's, projected: a row only ever moves to a
-- higher account_version. `version` counts changes of the wallet itself (its state).
CREATE TABLE wallets (
    id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    currency TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('active', 'frozen', 'closed')),
    account_id TEXT NOT NULL UNIQUE,
    posted BIGINT NOT NULL,
    held BIGINT NOT NULL,
    account_version BIGINT NOT NULL,
    version BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX wallets_by_owner ON wallets (owner, id);

CREATE TABLE top_ups (
    id TEXT PRIMARY KEY,
    wallet_id TEXT NOT NULL,
    entry_id TEXT NOT NULL,
    amount BIGINT NOT NULL CHECK (amount > 0),
    created_by TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE outbox (id TEXT PRIMARY KEY, topic TEXT NOT NULL, key TEXT NOT NULL, key_version BIGINT NOT NULL, type TEXT NOT NULL, payload TEXT NOT NULL, headers TEXT NOT NULL, created_at BIGINT NOT NULL);
CREATE TABLE inbox (id TEXT PRIMARY KEY, handled_at BIGINT NOT NULL, result TEXT);
CREATE TABLE idempotency (id TEXT PRIMARY KEY, fields TEXT NOT NULL, status BIGINT NOT NULL, response TEXT NOT NULL, created_at BIGINT NOT NULL);
