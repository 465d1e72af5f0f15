-- Accounts carry their totals: debits and credits apart, posted and pending apart. `no` is what
-- postings name an account by: a posting is written twice per transfer, an id only here. `version`
-- grows with every change of what the account holds, `postings` with every posting, and `posted_at`
-- never goes back. The floor is checked here once more, whatever wrote the row.
CREATE TABLE accounts (
    no BIGINT PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
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
    postings BIGINT NOT NULL,
    posted_at BIGINT NOT NULL,
    -- The last link of the account's chain: the hash of its newest posting, or of its opening.
    head TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    CHECK (floor IS NULL
        OR (normal_side = 'credit' AND credits - debits - pending_debits >= floor)
        OR (normal_side = 'debit' AND debits - credits - pending_credits >= floor))
);

-- Everything that was ever asked for under an id of its caller's (`pay_…`, `ref_…`, `top_…`, any
-- name), and what was asked for without one under an id made here: booked, with its postings
-- (`[[account, number], …]` in their order), or refused (`{"code", "detail", …}`). One row, so never
-- both, and for good.
CREATE TABLE entries (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    reference TEXT NOT NULL,
    reverses TEXT,
    metadata TEXT NOT NULL,
    created_by TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    postings TEXT,
    refusal TEXT,
    CHECK ((postings IS NULL) <> (refusal IS NULL))
);

-- The ids of callers that an entry or a reservation has: one key for both, so that of two requests with
-- one id at the same moment one finds it taken, whatever they ask for.
CREATE TABLE ids (id TEXT PRIMARY KEY);

-- An entry is reversed once; refunds take a payment's entry back in parts.
CREATE UNIQUE INDEX entries_reversed ON entries (reverses) WHERE kind = 'reversal' AND refusal IS NULL;

-- A statement reads one account's postings in order: that is the primary key. What the account held
-- and its version after the posting are what the caller was answered, so a repeated request is
-- answered the same. `held_after` is NULL for nothing.
CREATE TABLE postings (
    account_no BIGINT NOT NULL,
    number BIGINT NOT NULL,
    entry_id TEXT NOT NULL,
    position BIGINT NOT NULL,
    direction TEXT NOT NULL CHECK (direction IN ('debit', 'credit')),
    amount BIGINT NOT NULL CHECK (amount > 0),
    balance_after BIGINT NOT NULL,
    held_after BIGINT,
    version_after BIGINT NOT NULL,
    -- Seals the posting, its entry and the posting before it in the account (crates/journal).
    hash TEXT NOT NULL,
    PRIMARY KEY (account_no, number)
);

-- Transfers in two phases. `standings` is what the accounts held after the reservation and
-- `settled_standings` after its end, as they were answered. The entry of a posted one has its id.
CREATE TABLE pending (
    id TEXT PRIMARY KEY,
    debit_no BIGINT NOT NULL,
    credit_no BIGINT NOT NULL,
    amount BIGINT NOT NULL CHECK (amount > 0),
    kind TEXT NOT NULL,
    reference TEXT NOT NULL,
    metadata TEXT NOT NULL,
    created_by TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'posted', 'voided', 'expired')),
    posted_amount BIGINT,
    settled_at BIGINT,
    standings TEXT NOT NULL,
    settled_standings TEXT,
    CHECK ((state = 'pending') = (settled_standings IS NULL)),
    CHECK ((state = 'posted') = (posted_amount IS NOT NULL))
);
CREATE INDEX pending_due ON pending (expires_at) WHERE state = 'pending';
CREATE INDEX pending_of_debit ON pending (debit_no) WHERE state = 'pending';
CREATE INDEX pending_of_credit ON pending (credit_no) WHERE state = 'pending';

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
    account_no BIGINT NOT NULL,
    number BIGINT NOT NULL,
    postings BIGINT NOT NULL,
    head TEXT NOT NULL,
    PRIMARY KEY (account_no, number)
);

CREATE TABLE outbox (id TEXT PRIMARY KEY, topic TEXT NOT NULL, key TEXT NOT NULL, key_version BIGINT NOT NULL, type TEXT NOT NULL, payload TEXT NOT NULL, headers TEXT NOT NULL, created_at BIGINT NOT NULL);
CREATE TABLE inbox (id TEXT PRIMARY KEY, handled_at BIGINT NOT NULL, result TEXT);
CREATE TABLE idempotency (id TEXT PRIMARY KEY, fields TEXT NOT NULL, status BIGINT NOT NULL, response TEXT NOT NULL, created_at BIGINT NOT NULL);
