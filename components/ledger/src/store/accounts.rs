//! Accounts: opened, read for a batch, closed.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use innover_kit::{
    Batch, Db, Expect, Row, Value,
    db::{DbError, column},
    follow::Underway,
    ids, params,
};
use innover_money::Minor;

use super::{STEP_ACCOUNTS, STEP_OPEN, currency, hash, hash_text, kept, side};
use crate::model::{Account, AccountId, Book, Opening, Totals};

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

/// What a batch needs of an account.
macro_rules! account_columns {
    () => {
        "a.no, a.id, a.currency, a.normal_side, a.floor, a.state, a.debits, a.credits,
         a.pending_debits, a.pending_credits, a.version, a.postings, a.posted_at, a.head"
    };
}

/// An account from [`account_columns`].
pub(super) fn account(row: &Row) -> Result<Account, DbError> {
    Ok(Account {
        no: row.int(0)?,
        id: row.text(1)?.into(),
        currency: currency(row.text(2)?)?,
        normal_side: side(row.text(3)?)?,
        floor: row.opt_int(4)?.map(Minor),
        closed: row.text(5)? == "closed",
        totals: Totals {
            debits: Minor(row.int(6)?),
            credits: Minor(row.int(7)?),
            pending_debits: Minor(row.int(8)?),
            pending_credits: Minor(row.int(9)?),
        },
        version: row.int(10)?,
        postings: row.int(11)?,
        posted_at: row.int(12)?,
        head: hash(row.text(13)?)?,
    })
}

macro_rules! account_row_sql {
    ($rest:literal) => {
        concat!(
            "SELECT ",
            account_columns!(),
            ", a.code, a.name, a.metadata, a.created_at FROM accounts a ",
            $rest
        )
    };
}

fn account_row(row: &Row) -> Result<AccountRow, DbError> {
    let account = account(row)?;
    Ok(AccountRow {
        opening: Opening {
            id: account.id.clone(),
            code: row.text(14)?.into(),
            name: row.text(15)?.into(),
            currency: account.currency,
            normal_side: account.normal_side,
            floor: account.floor,
            metadata: row.text(16)?.into(),
        },
        account,
        created_at: row.int(17)?,
    })
}

/// One account.
pub async fn find(db: &Db, id: &str) -> Result<Option<AccountRow>, DbError> {
    let rows = db
        .query(account_row_sql!("WHERE a.id = $1"), params![id])
        .await?;
    rows.first().map(account_row).transpose()
}

/// Accounts after `after` in the order of their ids, `limit` at most.
pub async fn page(db: &Db, after: &str, limit: i64) -> Result<Vec<AccountRow>, DbError> {
    let rows = db
        .query(
            account_row_sql!("WHERE a.id > $1 ORDER BY a.id LIMIT $2"),
            params![after, limit],
        )
        .await?;
    rows.iter().map(account_row).collect()
}

/// An account with a posting this young, in microseconds, is one that others post to as well.
const IN_DEMAND_US: i64 = 10_000;

/// The accounts of `ids` that exist, for a batch of entries that will change them: one query however
/// many there are, unless others post to them at this moment.
pub async fn book<'a>(
    db: &Db,
    ids: impl IntoIterator<Item = &'a AccountId>,
) -> Result<Book, DbError> {
    from_database(db, &unique(ids)).await
}

async fn from_database(db: &Db, ids: &BTreeSet<&str>) -> Result<Book, DbError> {
    if db.is_server() {
        kept::begin();
        kept::settled(ids).await;
    }
    let mut accounts = claimed(db, ids).await?;
    for _ in 0..READ_AGAIN_MAX {
        // Others may have gone ahead while it waited for its turn, or read.
        if !kept::settled(ids).await {
            break;
        }
        accounts = read(db, ids).await?;
    }
    Ok(Book::new(accounts))
}

/// Where others go ahead all the time, whoever has to read loses a race and all of them queue.
const READ_AGAIN_MAX: usize = 3;

/// A book that may go on from what this instance has just decided.
#[derive(Debug)]
pub struct Ahead {
    /// The accounts.
    pub book: Book,
    /// The commits it is built on: a batch goes [`Batch::after`] them.
    pub before: Vec<Arc<Underway>>,
    /// Whether some account was not read: a refusal is decided on again, on [`book`].
    pub unread: bool,
}

/// As [`book`], but what this instance has just decided on is neither waited for nor read. Nothing
/// may be awaited between this and the write, or others would go on from the same.
pub async fn book_ahead<'a>(
    db: &Db,
    ids: impl IntoIterator<Item = &'a AccountId>,
) -> Result<Ahead, DbError> {
    let unique = unique(ids);
    // Where others are at these accounts as well, only the queue helps.
    let contended = db.has_lost(unique.iter().copied())
        || (kept::is_time_to_ask() && db.is_sought(unique.iter().copied()).await);
    if !db.is_server() || contended {
        return Ok(Ahead {
            book: from_database(db, &unique).await?,
            before: Vec::new(),
            unread: false,
        });
    }
    kept::begin();
    let mut read: BTreeMap<&str, Account> = BTreeMap::new();
    let mut asked: BTreeSet<&str> = BTreeSet::new();
    loop {
        let (mut newest, before) = kept::newest(unique.iter().copied());
        let missing = |id: &&str| !newest.contains_key(id) && !asked.contains(id);
        let missing: BTreeSet<&str> = unique.iter().copied().filter(missing).collect();
        if missing.is_empty() {
            let unread = !newest.is_empty();
            for (id, account) in read {
                // Others may have decided on it while it was read.
                if newest.get(id).is_none_or(|n| n.version < account.version) {
                    newest.insert(id, account);
                }
            }
            db.name(unique);
            let book = Book::new(newest.into_values());
            return Ok(Ahead {
                book,
                before,
                unread,
            });
        }
        for account in claimed(db, &missing).await? {
            if let Some(id) = missing.get(account.id.as_str()) {
                read.insert(id, account);
            }
        }
        asked.extend(missing);
    }
}

fn unique<'a>(ids: impl IntoIterator<Item = &'a AccountId>) -> BTreeSet<&'a str> {
    // A batch names few accounts many times: only the few are put in order.
    let unique: HashSet<&str> = ids.into_iter().map(AccountId::as_str).collect();
    unique.into_iter().collect()
}

/// Reads accounts, after those who are at them at this moment.
async fn claimed(db: &Db, ids: &BTreeSet<&str>) -> Result<Vec<Account>, DbError> {
    let accounts = read(db, ids).await?;
    let young = ids::now_us() - IN_DEMAND_US;
    let claimed = accounts
        .iter()
        .map(|a| (a.id.as_str(), a.posted_at > young));
    match db.claim(claimed).await? {
        true => read(db, ids).await,
        false => Ok(accounts),
    }
}

async fn read(db: &Db, ids: &BTreeSet<&str>) -> Result<Vec<Account>, DbError> {
    const SQL: &str = concat!(
        "SELECT ",
        account_columns!(),
        " FROM accounts a WHERE a.id IN (SELECT id FROM rows($1: id TEXT))"
    );
    let rows = db.query(SQL, vec![column(ids.iter().copied())]).await?;
    rows.iter().map(account).collect()
}

/// The next free account number.
pub async fn next_no(db: &Db) -> Result<i64, DbError> {
    let rows = db
        .query("SELECT COALESCE(MAX(no), 0) + 1 FROM accounts", params![])
        .await?;
    rows.first().map_or(Ok(1), |row| row.int(0))
}

/// Opens accounts that do not exist, numbered from `first_no`; the step fails when a number or an id
/// was taken since it was read.
pub fn open(batch: &mut Batch, openings: &[Opening], first_no: i64, now: i64) {
    let rows: Vec<Vec<Value>> = openings
        .iter()
        .zip(first_no..)
        .map(|(o, no)| {
            params![
                no,
                o.id.as_str(),
                &o.code,
                &o.name,
                o.currency.code(),
                o.normal_side.as_str(),
                o.floor.map(|floor| floor.0),
                &o.metadata,
                hash_text(o.head(now)),
                now
            ]
        })
        .collect();
    let count = rows.len() as u64;
    batch.step(
        STEP_OPEN,
        "INSERT INTO accounts (no, id, code, name, currency, normal_side, floor, state, metadata,
                               debits, credits, pending_debits, pending_credits, version, postings,
                               posted_at, head, created_at)
         SELECT r.no, r.id, r.code, r.name, r.currency, r.normal_side, r.floor, 'open', r.metadata,
                0, 0, 0, 0, 0, 0, r.created_at, r.head, r.created_at
         FROM rows($1: no BIGINT, id TEXT, code TEXT, name TEXT, currency TEXT, normal_side TEXT,
                   floor BIGINT, metadata TEXT, head TEXT, created_at BIGINT) r WHERE true
         ON CONFLICT DO NOTHING",
        vec![Value::Rows(rows)],
        Expect::Rows(count),
    );
}

/// Closes an account that nobody has moved since it was read.
pub fn close(batch: &mut Batch, account: &Account) {
    batch.step(
        STEP_ACCOUNTS,
        "UPDATE accounts SET state = 'closed' WHERE id = $1 AND version = $2 AND state = 'open'",
        params![account.id.as_str(), account.version],
        Expect::Rows(1),
    );
}

/// Writes the accounts of `book` that changed. The guard makes the whole batch void when another one
/// moved or closed one of them since the book was read, so no balance is ever built on a stale one.
/// A reservation is given back on a closed account too, and moves nothing there.
pub(super) fn write(
    batch: &mut Batch,
    book: &Book,
    now: i64,
    head: impl Fn(&Account) -> innover_journal::Hash,
) {
    let rows: Vec<Vec<Value>> = book
        .changed()
        .map(|(account, version_read)| {
            let totals = account.totals;
            params![
                account.no,
                version_read,
                account.version,
                account.postings,
                totals.debits.0,
                totals.credits.0,
                totals.pending_debits.0,
                totals.pending_credits.0,
                hash_text(head(account)),
                now,
                if account.closed { "closed" } else { "open" }
            ]
        })
        .collect();
    if rows.is_empty() {
        return;
    }
    if kept::is_on() {
        let changed = book.changed().map(|(account, _)| {
            let (head, mut account) = (head(account), account.clone());
            // As the step below has it: of postings, not of reservations.
            if head != account.head {
                account.posted_at = now;
            }
            Account { head, ..account }
        });
        kept::keep(changed.collect(), &batch.underway());
    }
    let count = rows.len() as u64;
    batch.step(
        STEP_ACCOUNTS,
        "UPDATE accounts SET version = r.version, debits = r.debits, credits = r.credits,
                             pending_debits = r.pending_debits, pending_credits = r.pending_credits,
                             posted_at = CASE WHEN accounts.postings = r.postings
                                              THEN accounts.posted_at ELSE r.now END,
                             postings = r.postings, head = r.head
         FROM rows($1: no BIGINT, version_read BIGINT, version BIGINT, postings BIGINT,
                   debits BIGINT, credits BIGINT, pending_debits BIGINT, pending_credits BIGINT,
                   head TEXT, now BIGINT, state TEXT) r
         WHERE accounts.no = r.no AND accounts.version = r.version_read AND accounts.state = r.state",
        vec![Value::Rows(rows)],
        Expect::Rows(count),
    );
}
