//! The ledger's SQL.

pub mod checkpoints;
pub mod journal;

use std::collections::{BTreeMap, BTreeSet};

use innover_journal::{EntrySeal, Hash, PostingSeal};
use innover_kit::{
    Batch, Db, Expect, Row, Value,
    db::{DbError, column},
    params,
};
use innover_money::{Currency, Minor};

use crate::model::{Account, AccountId, Book, Opening, Posted, Side, Totals};

/// The step that moves accounts: it fails when one of them moved or was closed since it was read.
pub const STEP_ACCOUNTS: &str = "accounts";
/// The step that opens accounts: it fails when one of them exists.
pub const STEP_OPEN: &str = "open";
/// The step that writes entries: it fails when one of them reverses what was reversed before.
pub const STEP_ENTRIES: &str = "entries";
/// The step that writes outcomes: it fails when something was booked or refused before.
pub const STEP_OUTCOMES: &str = "outcomes";

/// The kind of a refund's entry.
pub const KIND_REFUND: &str = "refund";

/// An account with what only views need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountRow {
    /// What it was opened as.
    pub opening: Opening,
    /// What it holds.
    pub account: Account,
    /// Microseconds since the epoch.
    pub created_at: i64,
}

/// What became of something that was asked for under an id of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is this entry.
    Booked {
        /// Its id.
        entry_id: String,
    },
    /// It is no entry and never will be.
    Refused {
        /// The problem code.
        code: &'static str,
        /// The reason.
        detail: String,
    },
}

/// An entry about to be written, or read back; its postings are [`Posted`] or [`Line`]s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryRow {
    /// `ent_…`
    pub id: String,
    /// What it was made for; its [`Outcome`] makes it unique.
    pub external_id: Option<String>,
    /// `payment`, `top_up`, `manual`, …
    pub kind: String,
    /// For people.
    pub reference: String,
    /// The payment it belongs to.
    pub payment_id: Option<String>,
    /// The entry it takes back, whole or in part.
    pub reverses: Option<String>,
    /// A JSON object.
    pub metadata: String,
    /// Who asked for it.
    pub created_by: String,
    /// Microseconds since the epoch.
    pub created_at: i64,
}

impl EntryRow {
    /// What its postings seal of it.
    pub fn digest(&self) -> Hash {
        let seal = EntrySeal {
            id: &self.id,
            external_id: self.external_id.as_deref(),
            kind: &self.kind,
            reference: &self.reference,
            payment_id: self.payment_id.as_deref(),
            reverses: self.reverses.as_deref(),
            metadata: &self.metadata,
            created_by: &self.created_by,
            created_at: self.created_at,
        };
        seal.hash()
    }

    /// The refund it was booked for, if it was one.
    pub fn refund_id(&self) -> Option<&str> {
        let id = self.external_id.as_deref();
        id.filter(|_| self.kind == KIND_REFUND)
    }
}

/// A posting as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its entry.
    pub entry_id: String,
    /// The entry's kind.
    pub kind: String,
    /// The entry's reference.
    pub reference: String,
    /// Its account.
    pub account: AccountId,
    /// The account's currency.
    pub currency: Currency,
    /// On which side.
    pub side: Side,
    /// Minor units.
    pub amount: i64,
    /// What the account had posted after it, on its normal side, in minor units.
    pub balance_after: i64,
    /// Its number in the account.
    pub version: i64,
    /// Microseconds since the epoch.
    pub created_at: i64,
}

/// One currency of the trial balance, in minor units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrialRow {
    /// The currency.
    pub currency: Currency,
    /// Sum of all debit postings.
    pub debits: i64,
    /// Sum of all credit postings.
    pub credits: i64,
    /// Accounts in it.
    pub accounts: i64,
    /// Accounts whose totals are not the sums of their postings.
    pub differing: i64,
}

macro_rules! account_columns {
    () => {
        "id, code, name, currency, normal_side, floor, metadata, state,
         debits, credits, pending_debits, pending_credits, version, head, created_at"
    };
}

fn currency(text: &str) -> Result<Currency, DbError> {
    Currency::parse(text).map_err(|e| DbError::Shape(e.to_string()))
}

fn side(text: &str) -> Result<Side, DbError> {
    Side::parse(text).ok_or_else(|| DbError::Shape(format!("`{text}` is no side")))
}

/// A stored hash.
pub fn hash(text: &str) -> Result<Hash, DbError> {
    text.parse()
        .map_err(|_| DbError::Shape(format!("`{text}` is no hash")))
}

fn account_row(row: &Row) -> Result<AccountRow, DbError> {
    let opening = Opening {
        id: row.text(0)?.into(),
        code: row.text(1)?.into(),
        name: row.text(2)?.into(),
        currency: currency(row.text(3)?)?,
        normal_side: side(row.text(4)?)?,
        floor: row.opt_int(5)?.map(Minor),
        metadata: row.text(6)?.into(),
    };
    let created_at = row.int(14)?;
    let account = Account {
        closed: row.text(7)? == "closed",
        totals: Totals {
            debits: Minor(row.int(8)?),
            credits: Minor(row.int(9)?),
            pending_debits: Minor(row.int(10)?),
            pending_credits: Minor(row.int(11)?),
        },
        version: row.int(12)?,
        head: hash(row.text(13)?)?,
        ..Account::opened(&opening, created_at)
    };
    Ok(AccountRow {
        opening,
        account,
        created_at,
    })
}

/// One account.
pub async fn account(db: &Db, id: &str) -> Result<Option<AccountRow>, DbError> {
    const SQL: &str = concat!(
        "SELECT ",
        account_columns!(),
        " FROM accounts WHERE id = $1"
    );
    db.query(SQL, params![id])
        .await?
        .first()
        .map(account_row)
        .transpose()
}

/// Accounts after `after` in the order of their ids, `limit` at most.
pub async fn accounts(db: &Db, after: &str, limit: i64) -> Result<Vec<AccountRow>, DbError> {
    const SQL: &str = concat!(
        "SELECT ",
        account_columns!(),
        " FROM accounts WHERE id > $1 ORDER BY id LIMIT $2"
    );
    db.query(SQL, params![after, limit])
        .await?
        .iter()
        .map(account_row)
        .collect()
}

/// The accounts of `ids` that exist, for a batch of entries: one query however many there are.
pub async fn book<'a>(
    db: &Db,
    ids: impl IntoIterator<Item = &'a AccountId>,
) -> Result<Book, DbError> {
    let unique: BTreeSet<&str> = ids.into_iter().map(AccountId::as_str).collect();
    let rows = db
        .query(
            "SELECT id, currency, normal_side, floor, state,
                    debits, credits, pending_debits, pending_credits, version, head
             FROM accounts WHERE id IN (SELECT id FROM rows($1: id TEXT))",
            vec![column(unique)],
        )
        .await?;
    let accounts = rows.iter().map(|row| {
        Ok(Account {
            id: row.text(0)?.into(),
            currency: currency(row.text(1)?)?,
            normal_side: side(row.text(2)?)?,
            floor: row.opt_int(3)?.map(Minor),
            closed: row.text(4)? == "closed",
            totals: Totals {
                debits: Minor(row.int(5)?),
                credits: Minor(row.int(6)?),
                pending_debits: Minor(row.int(7)?),
                pending_credits: Minor(row.int(8)?),
            },
            version: row.int(9)?,
            head: hash(row.text(10)?)?,
        })
    });
    Ok(Book::new(accounts.collect::<Result<Vec<_>, DbError>>()?))
}

/// Which of `ids` were booked or refused before.
pub async fn settled<'a>(
    db: &Db,
    ids: impl IntoIterator<Item = &'a str>,
) -> Result<BTreeSet<String>, DbError> {
    let rows = db
        .query(
            "SELECT external_id FROM outcomes WHERE external_id IN (SELECT id FROM rows($1: id TEXT))",
            vec![column(ids)],
        )
        .await?;
    rows.iter().map(|row| Ok(row.text(0)?.to_owned())).collect()
}

/// What became of one id: `None` when nothing yet, else its entry, or no entry when it was refused.
pub async fn settlement(db: &Db, external_id: &str) -> Result<Option<Option<String>>, DbError> {
    let rows = db
        .query(
            "SELECT entry_id FROM outcomes WHERE external_id = $1",
            params![external_id],
        )
        .await?;
    rows.first()
        .map(|row| Ok(row.opt_text(0)?.map(str::to_owned)))
        .transpose()
}

/// An entry.
pub async fn entry(db: &Db, id: &str) -> Result<Option<EntryRow>, DbError> {
    let rows = db
        .query(
            "SELECT id, external_id, kind, reference, payment_id, reverses, metadata, created_by,
                    created_at
             FROM entries WHERE id = $1",
            params![id],
        )
        .await?;
    rows.first().map(entry_row).transpose()
}

/// Whether a reversal names the entry.
pub async fn is_reversed(db: &Db, id: &str) -> Result<bool, DbError> {
    let rows = db
        .query(
            "SELECT id FROM entries WHERE reverses = $1 AND kind = 'reversal'",
            params![id],
        )
        .await?;
    Ok(!rows.is_empty())
}

/// From the columns `id, external_id, kind, reference, payment_id, reverses, metadata, created_by,
/// created_at`.
pub fn entry_row(row: &Row) -> Result<EntryRow, DbError> {
    Ok(EntryRow {
        id: row.text(0)?.into(),
        external_id: row.opt_text(1)?.map(str::to_owned),
        kind: row.text(2)?.into(),
        reference: row.text(3)?.into(),
        payment_id: row.opt_text(4)?.map(str::to_owned),
        reverses: row.opt_text(5)?.map(str::to_owned),
        metadata: row.text(6)?.into(),
        created_by: row.text(7)?.into(),
        created_at: row.int(8)?,
    })
}

macro_rules! line_columns {
    () => {
        "SELECT p.entry_id, e.kind, e.reference, p.account_id, a.currency, p.direction, p.amount,
                p.balance_after, p.account_version, e.created_at
         FROM postings p
         JOIN entries e ON e.id = p.entry_id
         JOIN accounts a ON a.id = p.account_id "
    };
}

fn line(row: &Row) -> Result<Line, DbError> {
    Ok(Line {
        entry_id: row.text(0)?.into(),
        kind: row.text(1)?.into(),
        reference: row.text(2)?.into(),
        account: row.text(3)?.into(),
        currency: currency(row.text(4)?)?,
        side: side(row.text(5)?)?,
        amount: row.int(6)?,
        balance_after: row.int(7)?,
        version: row.int(8)?,
        created_at: row.int(9)?,
    })
}

/// The postings of an entry, in its order.
pub async fn lines(db: &Db, entry_id: &str) -> Result<Vec<Line>, DbError> {
    const SQL: &str = concat!(line_columns!(), "WHERE p.entry_id = $1 ORDER BY p.position");
    db.query(SQL, params![entry_id])
        .await?
        .iter()
        .map(line)
        .collect()
}

/// The postings of an account after its `after`th, oldest first, `limit` at most.
pub async fn statement(
    db: &Db,
    account: &str,
    after: i64,
    limit: i64,
) -> Result<Vec<Line>, DbError> {
    const SQL: &str = concat!(
        line_columns!(),
        "WHERE p.account_id = $1 AND p.account_version > $2 ORDER BY p.account_version LIMIT $3"
    );
    db.query(SQL, params![account, after, limit])
        .await?
        .iter()
        .map(line)
        .collect()
}

/// Debits and credits per currency, summed from the postings, and how many accounts say otherwise:
/// one statement, so one snapshot.
pub async fn trial_balance(db: &Db) -> Result<Vec<TrialRow>, DbError> {
    let rows = db
        .query(
            "SELECT a.currency,
                    CAST(SUM(COALESCE(p.debits, 0)) AS BIGINT),
                    CAST(SUM(COALESCE(p.credits, 0)) AS BIGINT),
                    COUNT(*),
                    CAST(SUM(CASE WHEN a.debits = COALESCE(p.debits, 0)
                                   AND a.credits = COALESCE(p.credits, 0)
                                   AND a.version = COALESCE(p.postings, 0)
                             THEN 0 ELSE 1 END) AS BIGINT)
             FROM accounts a
             LEFT JOIN (SELECT account_id,
                               SUM(CASE WHEN direction = 'debit' THEN amount ELSE 0 END) AS debits,
                               SUM(CASE WHEN direction = 'credit' THEN amount ELSE 0 END) AS credits,
                               COUNT(*) AS postings
                        FROM postings GROUP BY account_id) p ON p.account_id = a.id
             GROUP BY a.currency ORDER BY a.currency",
            params![],
        )
        .await?;
    let read = |row: &Row| {
        Ok(TrialRow {
            currency: currency(row.text(0)?)?,
            debits: row.int(1)?,
            credits: row.int(2)?,
            accounts: row.int(3)?,
            differing: row.int(4)?,
        })
    };
    rows.iter().map(read).collect()
}

/// The first accounts whose totals are not the sums of their postings.
pub async fn differing_accounts(db: &Db, limit: i64) -> Result<Vec<String>, DbError> {
    let rows = db
        .query(
            "SELECT a.id FROM accounts a
             LEFT JOIN (SELECT account_id,
                               SUM(CASE WHEN direction = 'debit' THEN amount ELSE 0 END) AS debits,
                               SUM(CASE WHEN direction = 'credit' THEN amount ELSE 0 END) AS credits,
                               COUNT(*) AS postings
                        FROM postings GROUP BY account_id) p ON p.account_id = a.id
             WHERE a.debits <> COALESCE(p.debits, 0)
                OR a.credits <> COALESCE(p.credits, 0)
                OR a.version <> COALESCE(p.postings, 0)
             ORDER BY a.id LIMIT $1",
            params![limit],
        )
        .await?;
    rows.iter().map(|row| Ok(row.text(0)?.to_owned())).collect()
}

/// Opens accounts that do not exist.
pub fn open_accounts(batch: &mut Batch, openings: &[Opening], now: i64) {
    let rows: Vec<Vec<Value>> = openings
        .iter()
        .map(|o| {
            params![
                o.id.as_str(),
                &o.code,
                &o.name,
                o.currency.code(),
                o.normal_side.as_str(),
                o.floor.map(|floor| floor.0),
                &o.metadata,
                String::from(o.head(now)),
                now
            ]
        })
        .collect();
    let count = rows.len() as u64;
    batch.step(
        STEP_OPEN,
        "INSERT INTO accounts (id, code, name, currency, normal_side, floor, state, metadata,
                               debits, credits, pending_debits, pending_credits, version, head,
                               created_at)
         SELECT r.id, r.code, r.name, r.currency, r.normal_side, r.floor, 'open', r.metadata,
                0, 0, 0, 0, 0, r.head, r.created_at
         FROM rows($1: id TEXT, code TEXT, name TEXT, currency TEXT, normal_side TEXT, floor BIGINT,
                   metadata TEXT, head TEXT, created_at BIGINT) r WHERE true
         ON CONFLICT (id) DO NOTHING",
        vec![Value::Rows(rows)],
        Expect::Rows(count),
    );
}

/// Closes an account that nobody has moved since it was read.
pub fn close_account(batch: &mut Batch, account: &Account) {
    batch.step(
        STEP_ACCOUNTS,
        "UPDATE accounts SET state = 'closed' WHERE id = $1 AND version = $2 AND state = 'open'",
        params![account.id.as_str(), account.version],
        Expect::Rows(1),
    );
}

/// Writes entries that were applied to `book`, and the accounts they changed: three steps however
/// many entries there are. The accounts' guard makes all of it void when another batch moved or
/// closed one of them since the book was read, so no balance is ever built on a stale one.
pub fn post(batch: &mut Batch, book: &Book, entries: &[(EntryRow, Vec<Posted>)]) {
    let (postings, heads) = sealed(book, entries);
    let accounts: Vec<Vec<Value>> = book
        .changed()
        .map(|(account, version_read)| {
            let Totals {
                debits, credits, ..
            } = account.totals;
            params![
                account.id.as_str(),
                version_read,
                account.version,
                debits.0,
                credits.0,
                String::from(heads.get(&account.id).copied().unwrap_or(account.head))
            ]
        })
        .collect();
    let count = accounts.len() as u64;
    batch.step(
        STEP_ACCOUNTS,
        "UPDATE accounts SET version = r.version, debits = r.debits, credits = r.credits,
                             head = r.head
         FROM rows($1: id TEXT, version_read BIGINT, version BIGINT, debits BIGINT, credits BIGINT,
                   head TEXT) r
         WHERE accounts.id = r.id AND accounts.version = r.version_read AND accounts.state = 'open'",
        vec![Value::Rows(accounts)],
        Expect::Rows(count),
    );

    let rows = entries.iter().map(|(e, _)| {
        params![
            &e.id,
            e.external_id.as_deref(),
            &e.kind,
            &e.reference,
            e.payment_id.as_deref(),
            e.reverses.as_deref(),
            &e.metadata,
            &e.created_by,
            e.created_at
        ]
    });
    batch.step(
        STEP_ENTRIES,
        "INSERT INTO entries (id, external_id, kind, reference, payment_id, reverses, metadata,
                              created_by, created_at)
         SELECT r.id, r.external_id, r.kind, r.reference, r.payment_id, r.reverses, r.metadata,
                r.created_by, r.created_at
         FROM rows($1: id TEXT, external_id TEXT, kind TEXT, reference TEXT, payment_id TEXT,
                   reverses TEXT, metadata TEXT, created_by TEXT, created_at BIGINT) r WHERE true
         ON CONFLICT DO NOTHING",
        vec![Value::Rows(rows.collect())],
        Expect::Rows(entries.len() as u64),
    );

    // Of what was posted, not of the rows: one that could not be sealed fails the batch.
    let count = entries.iter().map(|(_, posted)| posted.len() as u64).sum();
    batch.step(
        "postings",
        "INSERT INTO postings (account_id, account_version, entry_id, position, direction, amount,
                               balance_after, hash)
         SELECT r.account_id, r.account_version, r.entry_id, r.position, r.direction, r.amount,
                r.balance_after, r.hash
         FROM rows($1: account_id TEXT, account_version BIGINT, entry_id TEXT, position BIGINT,
                   direction TEXT, amount BIGINT, balance_after BIGINT, hash TEXT) r WHERE true
         ON CONFLICT DO NOTHING",
        vec![Value::Rows(postings)],
        Expect::Rows(count),
    );
}

/// The postings as rows, each sealed onto the one before it in its account, and the accounts' new
/// heads. Entries come in the order they were applied in, so each chain follows its versions.
fn sealed<'a>(
    book: &'a Book,
    entries: &'a [(EntryRow, Vec<Posted>)],
) -> (Vec<Vec<Value>>, BTreeMap<&'a AccountId, Hash>) {
    let mut heads: BTreeMap<&AccountId, Hash> = BTreeMap::new();
    let mut rows = Vec::new();
    for (entry, posted) in entries {
        let digest = entry.digest();
        for (p, position) in posted.iter().zip(0i64..) {
            let read = || book.account(&p.account).map(|account| account.head);
            // What was posted is an account of the book; else the count of rows is off.
            let Some(previous) = heads.get(&p.account).copied().or_else(read) else {
                continue;
            };
            let seal = PostingSeal {
                account: p.account.as_str(),
                version: p.version,
                entry_id: &entry.id,
                position,
                direction: p.side.as_str(),
                amount: p.money.minor(),
                balance_after: p.balance.posted,
            };
            let head = seal.hash(&digest, &previous);
            heads.insert(&p.account, head);
            rows.push(params![
                seal.account,
                seal.version,
                seal.entry_id,
                seal.position,
                seal.direction,
                seal.amount,
                seal.balance_after,
                String::from(head)
            ]);
        }
    }
    (rows, heads)
}

/// Settles ids for good, each once: whoever settles one of them at the same moment meets the primary
/// key, on any database and at any isolation level, and one of the two batches leaves nothing.
pub fn settle(batch: &mut Batch, outcomes: &[(String, Outcome)], now: i64) {
    let rows = outcomes.iter().map(|(id, outcome)| match outcome {
        Outcome::Booked { entry_id } => params![id, entry_id, Value::Null, Value::Null, now],
        Outcome::Refused { code, detail } => params![id, Value::Null, *code, detail, now],
    });
    batch.step(
        STEP_OUTCOMES,
        "INSERT INTO outcomes (external_id, entry_id, code, detail, created_at)
         SELECT r.external_id, r.entry_id, r.code, r.detail, r.created_at
         FROM rows($1: external_id TEXT, entry_id TEXT, code TEXT, detail TEXT, created_at BIGINT) r
         WHERE true
         ON CONFLICT (external_id) DO NOTHING",
        vec![Value::Rows(rows.collect())],
        Expect::Rows(outcomes.len() as u64),
    );
}
