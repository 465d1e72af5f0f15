-- Accounts carry their totals: debits and credits apart, posted and pending apart, so that two-phase
-- transfers only fill columns. `version` is the number of postings the account has had: each posting
-- of an account has its own, without gaps. The floor is checked here once more, whatever wrote the row.
CREATE TABLE accounts (
    id TEXT PRIMARY KEY,
    code TEXT NOT NULL,
    name TEXT NOT NULL,
    currency TEXT NOT NULL,
    normal_side TEXT NOT NULL CHECK (normal_side IN ('debit', 'credit')),
    floor BIGINT,
    state TEXT NOT NULL CHECK (state IN ('open', 'closed')),
    metadata TEXT NOT NULL,
    debits BIGINT NOT NULL CHECK (debits >= 0),
    credits BIGINT NOT NULL CHECK (credits >= 0),
    pending_debits BIGINT NOT NULL CHECK (pending_debits >= 0),
    pending_credits BIGINT NOT NULL CHECK (pending_credits >= 0),
    version BIGINT NOT NULL,
    -- The last link of the account's chain: the hash of its newest posting, or of its opening.
    head TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    CHECK (floor IS NULL
        OR (normal_side = 'credit' AND credits - debits - pending_debits >= floor)
        OR (normal_side = 'debit' AND debits - credits - pending_credits >= floor))
);

CREATE TABLE entries (
    id TEXT PRIMARY KEY,
    external_id TEXT,
    kind TEXT NOT NULL,
    reference TEXT NOT NULL,
    payment_id TEXT,
    reverses TEXT,
    metadata TEXT NOT NULL,
    created_by TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

-- An entry is reversed once; refunds take a payment's entry back in parts.
CREATE UNIQUE INDEX entries_reversed ON entries (reverses) WHERE kind = 'reversal';

-- A statement reads one account's postings in order: that is the primary key.
CREATE TABLE postings (
    account_id TEXT NOT NULL,
    account_version BIGINT NOT NULL,
    entry_id TEXT NOT NULL,
    position BIGINT NOT NULL,
    direction TEXT NOT NULL CHECK (direction IN ('debit', 'credit')),
    amount BIGINT NOT NULL CHECK (amount > 0),
    balance_after BIGINT NOT NULL,
    -- Seals the posting, its entry and the posting before it in the account (crates/journal).
    hash TEXT NOT NULL,
    PRIMARY KEY (account_id, account_version)
);
CREATE UNIQUE INDEX postings_by_entry ON postings (entry_id, position);

-- What became of everything that was asked for under an id of its own (`pay_…`, `top_…`): booked
-- with an entry, or refused with a code. One row, so never both, and for good.
CREATE TABLE outcomes (
    external_id TEXT PRIMARY KEY,
    entry_id TEXT,
    code TEXT,
    detail TEXT,
    created_at BIGINT NOT NULL,
    CHECK ((entry_id IS NULL) <> (code IS NULL))
);

-- Signed statements of what all accounts were at one moment, and the heads that changed since the
-- statement before: an account's head at a checkpoint is its newest row up to that number.
CREATE TABLE checkpoints (
    number BIGINT PRIMARY KEY,
    created_at BIGINT NOT NULL,
    accounts BIGINT NOT NULL,
    postings BIGINT NOT NULL,
    root TEXT NOT NULL,
    previous TEXT,
    signature TEXT NOT NULL
);
CREATE TABLE checkpoint_heads (
    account_id TEXT NOT NULL,
    number BIGINT NOT NULL,
    version BIGINT NOT NULL,
    head TEXT NOT NULL,
    PRIMARY KEY (account_id, number)
);

CREATE TABLE outbox (id TEXT PRIMARY KEY, topic TEXT NOT NULL, key TEXT NOT NULL, key_version BIGINT NOT NULL, type TEXT NOT NULL, payload TEXT NOT NULL, headers TEXT NOT NULL, created_at BIGINT NOT NULL);
CREATE TABLE inbox (id TEXT PRIMARY KEY, handled_at BIGINT NOT NULL, result TEXT);
CREATE TABLE idempotency (id TEXT PRIMARY KEY, fields TEXT NOT NULL, status BIGINT NOT NULL, response TEXT NOT NULL, created_at BIGINT NOT NULL);
