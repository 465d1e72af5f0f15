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

-- What the ledger was asked to do for a wallet: written before the ledger is asked and again when its
-- answer is known. `id` comes from the caller, the wallet and the Idempotency-Key, so that a retry
-- finds it; `place` is the order of lists. `allowance` is what it takes of its owner's limit of `day`
-- (days since 1970, UTC), in euro cents.
CREATE TABLE movements (
    id TEXT PRIMARY KEY,
    place TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL CHECK (kind IN ('top_up', 'transfer', 'withdrawal', 'hold')),
    state TEXT NOT NULL CHECK (state IN ('requested', 'refused', 'posted', 'held', 'captured', 'released', 'expired')),
    version BIGINT NOT NULL,
    wallet_id TEXT NOT NULL,
    other_wallet TEXT,
    owner TEXT NOT NULL,
    amount BIGINT NOT NULL CHECK (amount > 0),
    moved BIGINT NOT NULL CHECK (moved >= 0 AND moved <= amount),
    currency TEXT NOT NULL,
    reference TEXT NOT NULL,
    entry_id TEXT,
    code TEXT NOT NULL,
    detail TEXT NOT NULL,
    allowance BIGINT NOT NULL CHECK (allowance >= 0),
    day BIGINT NOT NULL,
    expires_in_s BIGINT,
    expires_at BIGINT,
    -- '' or what a hold is being settled by, by whom (a digest of caller, hold and key), at which amount.
    settling TEXT NOT NULL CHECK (settling IN ('', 'capture', 'release')),
    settling_id TEXT NOT NULL,
    settling_minor BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX movements_by_wallet ON movements (wallet_id, kind, place);
CREATE INDEX movements_by_other ON movements (other_wallet, state);
CREATE INDEX movements_by_state ON movements (state, updated_at);

-- What an owner's movements of a day take of its limit, in euro cents.
CREATE TABLE spending (owner TEXT NOT NULL, day BIGINT NOT NULL, used BIGINT NOT NULL CHECK (used >= 0), PRIMARY KEY (owner, day));

-- The KYC tier of an owner as profiles last said; `version` is the profile's.
CREATE TABLE tiers (owner TEXT PRIMARY KEY, tier BIGINT NOT NULL, version BIGINT NOT NULL);

-- Who froze, unfroze or closed a wallet, when and why. Only ever added to.
CREATE TABLE decisions (
    id TEXT PRIMARY KEY,
    wallet_id TEXT NOT NULL,
    action TEXT NOT NULL CHECK (action IN ('freeze', 'unfreeze', 'close')),
    reason TEXT NOT NULL,
    decided_by TEXT NOT NULL,
    decided_at BIGINT NOT NULL
);
CREATE INDEX decisions_by_wallet ON decisions (wallet_id, id);

-- A comparison of every wallet with the ledger, page by page: `cursor` is the ledger's of the next page,
-- `after_account` the last account that was compared.
CREATE TABLE rebuilds (
    id TEXT PRIMARY KEY,
    state TEXT NOT NULL CHECK (state IN ('running', 'done')),
    version BIGINT NOT NULL,
    requested_by TEXT NOT NULL,
    cursor TEXT NOT NULL,
    after_account TEXT NOT NULL,
    checked BIGINT NOT NULL,
    differing BIGINT NOT NULL,
    repaired BIGINT NOT NULL,
    started_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE TABLE differences (
    id TEXT PRIMARY KEY,
    rebuild_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    account_id TEXT NOT NULL,
    wallet_id TEXT NOT NULL,
    shown TEXT NOT NULL,
    ledger TEXT NOT NULL,
    repaired BIGINT NOT NULL
);
CREATE INDEX differences_by_rebuild ON differences (rebuild_id, id);

CREATE TABLE outbox (id TEXT PRIMARY KEY, topic TEXT NOT NULL, key TEXT NOT NULL, key_version BIGINT NOT NULL, type TEXT NOT NULL, payload TEXT NOT NULL, headers TEXT NOT NULL, created_at BIGINT NOT NULL);
CREATE TABLE inbox (id TEXT PRIMARY KEY, handled_at BIGINT NOT NULL, result TEXT);
CREATE TABLE idempotency (id TEXT PRIMARY KEY, fields TEXT NOT NULL, status BIGINT NOT NULL, response TEXT NOT NULL, created_at BIGINT NOT NULL);
