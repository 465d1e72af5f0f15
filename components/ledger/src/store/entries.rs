//! Entries and their postings: written together with the accounts they change, never changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use innover_journal::{EntrySeal, Hash, PostingSeal};
use innover_kit::{
    Batch, Db, Expect, Row, Value,
    db::{DbError, column},
    params,
};
use innover_money::Currency;
use serde::{Deserialize, Serialize};

use super::{STEP_ENTRIES, accounts, currency, hash_text, side};
use crate::model::{AccountId, Balance, Book, Posted, Posting, Side, Standing};

/// The kind of a payment's entry; its id is the payment's.
pub const KIND_PAYMENT: &str = "payment";
/// The kind of a refund's entry; its id is the refund's.
pub const KIND_REFUND: &str = "refund";

/// An entry about to be written, or read back; its postings are [`Posted`] or [`Line`]s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryRow {
    /// Its caller's id, or `ent_…`.
    pub id: String,
    /// `payment`, `top_up`, `manual`, …
    pub kind: String,
    /// For people.
    pub reference: String,
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
            kind: &self.kind,
            reference: &self.reference,
            reverses: self.reverses.as_deref(),
            metadata: &self.metadata,
            created_by: &self.created_by,
            created_at: self.created_at,
        };
        seal.hash()
    }

    /// The payment it books, if it does.
    pub fn payment_id(&self) -> Option<&str> {
        (self.kind == KIND_PAYMENT).then_some(&self.id)
    }

    /// The refund it books, if it does.
    pub fn refund_id(&self) -> Option<&str> {
        (self.kind == KIND_REFUND).then_some(&self.id)
    }
}

/// Why something asked for under an id is no entry and never will be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The problem code.
    pub code: String,
    /// The reason.
    pub detail: String,
    /// JSON pointer to the field at fault.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub param: String,
    /// What was asked for, to tell a repetition from another request: account, side, minor units,
    /// currency. Empty when it was refused unseen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub postings: Vec<(String, String, i64, Currency)>,
    /// For how many microseconds it was to be reserved; absent when it was to be booked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserve_us: Option<i64>,
}

impl Refused {
    /// A refusal of these postings.
    pub fn of(postings: &[Posting], code: &str, detail: String, param: String) -> Refused {
        let asked = postings.iter().map(|p| {
            (
                p.account.to_string(),
                p.side.as_str().to_owned(),
                p.money.minor(),
                p.money.currency(),
            )
        });
        Refused {
            code: code.to_owned(),
            detail,
            param,
            postings: asked.collect(),
            reserve_us: None,
        }
    }
}

/// What became of an id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// It is this entry.
    Booked(EntryRow, Vec<Line>),
    /// It was refused.
    Refused(EntryRow, Refused),
}

/// A posting as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its entry.
    pub entry_id: String,
    /// Its place in the entry, from 0.
    pub position: i64,
    /// The account.
    pub account: AccountId,
    /// The account's currency.
    pub currency: Currency,
    /// On which side.
    pub side: Side,
    /// Minor units.
    pub amount: i64,
    /// Its number in the account.
    pub number: i64,
    /// What the account had posted after it, on its normal side, in minor units.
    pub balance_after: i64,
    /// What was reserved of it then.
    pub held_after: i64,
    /// The account's version after it.
    pub version_after: i64,
}

impl Line {
    /// How its account stood after it.
    pub fn standing(&self) -> Standing {
        Standing {
            account: self.account.clone(),
            currency: self.currency,
            balance: Balance {
                posted: self.balance_after,
                held: self.held_after,
                available: self.balance_after.saturating_sub(self.held_after),
            },
            version: self.version_after,
        }
    }
}

/// A posting with what a statement says of its entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatementRow {
    /// The posting.
    pub line: Line,
    /// The entry's kind.
    pub kind: String,
    /// The entry's reference.
    pub reference: String,
    /// Microseconds since the epoch.
    pub created_at: i64,
}

macro_rules! line_columns {
    () => {
        "p.entry_id, p.position, a.id, a.currency, p.direction, p.amount, p.number,
         p.balance_after, p.held_after, p.version_after"
    };
}
pub(super) use line_columns;

/// A posting from [`line_columns`].
pub(super) fn line(row: &Row) -> Result<Line, DbError> {
    Ok(Line {
        entry_id: row.text(0)?.into(),
        position: row.int(1)?,
        account: row.text(2)?.into(),
        currency: currency(row.text(3)?)?,
        side: side(row.text(4)?)?,
        amount: row.int(5)?,
        number: row.int(6)?,
        balance_after: row.int(7)?,
        held_after: row.opt_int(8)?.unwrap_or_default(),
        version_after: row.int(9)?,
    })
}

/// What became of `ids`; those nobody asked for are absent, and so are those that are reserved.
pub async fn known<'a>(
    db: &Db,
    ids: impl IntoIterator<Item = &'a str>,
) -> Result<BTreeMap<String, Known>, DbError> {
    let rows = db
        .query(
            "SELECT id, kind, reference, reverses, metadata, created_by, created_at, postings, refusal
             FROM entries WHERE id IN (SELECT id FROM rows($1: id TEXT))
                            AND (postings IS NULL OR postings <> '[]')",
            vec![column(ids)],
        )
        .await?;
    let mut entries = Vec::with_capacity(rows.len());
    let mut places: Vec<Vec<Value>> = Vec::new();
    for row in &rows {
        if let Some(postings) = row.opt_text(7)? {
            places.extend(
                read_places(postings)?
                    .into_iter()
                    .map(|(no, number)| params![no, number]),
            );
        }
        let refusal = row.opt_text(8)?.map(read_refusal).transpose()?;
        entries.push((entry_row(row)?, refusal));
    }
    let mut lines = lines(db, places).await?;
    let known = entries.into_iter().map(|(entry, refusal)| {
        let lines = lines.remove(&entry.id).unwrap_or_default();
        let id = entry.id.clone();
        match refusal {
            Some(refused) => (id, Known::Refused(entry, refused)),
            None => (id, Known::Booked(entry, lines)),
        }
    });
    Ok(known.collect())
}

/// The postings at these places (account number, number), by entry, in the entry's order.
async fn lines(db: &Db, places: Vec<Vec<Value>>) -> Result<HashMap<String, Vec<Line>>, DbError> {
    const SQL: &str = concat!(
        "SELECT ",
        line_columns!(),
        " FROM rows($1: no BIGINT, number BIGINT) r
          JOIN postings p ON p.account_no = r.no AND p.number = r.number
          JOIN accounts a ON a.no = p.account_no"
    );
    if places.is_empty() {
        return Ok(HashMap::new());
    }
    let mut entries: HashMap<String, Vec<Line>> = HashMap::new();
    for row in db.query(SQL, vec![Value::Rows(places)]).await? {
        let line = line(&row)?;
        entries.entry(line.entry_id.clone()).or_default().push(line);
    }
    for lines in entries.values_mut() {
        lines.sort_by_key(|line| line.position);
    }
    Ok(entries)
}

/// `[[account number, number], …]`.
pub(super) fn read_places(text: &str) -> Result<Vec<(i64, i64)>, DbError> {
    serde_json::from_str(text).map_err(|e| DbError::Shape(format!("an entry's postings: {e}")))
}

fn read_refusal(text: &str) -> Result<Refused, DbError> {
    serde_json::from_str(text).map_err(|e| DbError::Shape(format!("an entry's refusal: {e}")))
}

/// Which of `ids` were asked for before.
pub async fn asked_for<'a>(
    db: &Db,
    ids: impl IntoIterator<Item = &'a str>,
) -> Result<BTreeSet<String>, DbError> {
    let rows = db
        .query(
            "SELECT id FROM entries WHERE id IN (SELECT id FROM rows($1: id TEXT))",
            vec![column(ids)],
        )
        .await?;
    rows.iter().map(|row| Ok(row.text(0)?.to_owned())).collect()
}

/// What became of one id.
pub async fn find(db: &Db, id: &str) -> Result<Option<Known>, DbError> {
    Ok(known(db, [id]).await?.remove(id))
}

/// Whether a reversal names the entry.
pub async fn is_reversed(db: &Db, id: &str) -> Result<bool, DbError> {
    let rows = db
        .query(
            "SELECT id FROM entries
             WHERE reverses = $1 AND kind = 'reversal' AND refusal IS NULL",
            params![id],
        )
        .await?;
    Ok(!rows.is_empty())
}

/// From the columns `id, kind, reference, reverses, metadata, created_by, created_at`.
pub(super) fn entry_row(row: &Row) -> Result<EntryRow, DbError> {
    Ok(EntryRow {
        id: row.text(0)?.into(),
        kind: row.text(1)?.into(),
        reference: row.text(2)?.into(),
        reverses: row.opt_text(3)?.map(str::to_owned),
        metadata: row.text(4)?.into(),
        created_by: row.text(5)?.into(),
        created_at: row.int(6)?,
    })
}

/// The postings of an account after its `after`th, oldest first, `limit` at most.
pub async fn statement(
    db: &Db,
    account: &str,
    after: i64,
    limit: i64,
) -> Result<Vec<StatementRow>, DbError> {
    const SQL: &str = concat!(
        "SELECT ",
        line_columns!(),
        ", e.kind, e.reference, e.created_at
         FROM accounts a
         JOIN postings p ON p.account_no = a.no
         JOIN entries e ON e.id = p.entry_id
         WHERE a.id = $1 AND p.number > $2 ORDER BY p.number LIMIT $3"
    );
    let read = |row: &Row| {
        Ok(StatementRow {
            line: line(row)?,
            kind: row.text(10)?.into(),
            reference: row.text(11)?.into(),
            created_at: row.int(12)?,
        })
    };
    let rows = db.query(SQL, params![account, after, limit]).await?;
    rows.iter().map(read).collect()
}

/// When an account's `number`th posting was made, and what the account had posted after it.
pub async fn posted_at(
    db: &Db,
    account_no: i64,
    number: i64,
) -> Result<Option<(i64, i64)>, DbError> {
    let rows = db
        .query(
            "SELECT e.created_at, p.balance_after
             FROM postings p JOIN entries e ON e.id = p.entry_id
             WHERE p.account_no = $1 AND p.number = $2",
            params![account_no, number],
        )
        .await?;
    rows.first()
        .map(|row| Ok((row.int(0)?, row.int(1)?)))
        .transpose()
}

/// What a batch writes of entries.
#[derive(Debug, Default)]
pub struct Written {
    /// Entries that were applied to the book, in that order.
    pub booked: Vec<(EntryRow, Vec<Posted>)>,
    /// What was refused, for good.
    pub refused: Vec<(EntryRow, Refused)>,
    /// What was reserved: it has its id, and no postings yet.
    pub reserved: Vec<EntryRow>,
}

/// Writes entries that were applied to `book`, the accounts it changed (by them or by reservations),
/// refusals, and the ids of reservations: three steps however many there are. Whoever asks for one of
/// the ids at the same moment, for whatever, meets the primary key, on any database and at any
/// isolation level, and one of the two batches leaves nothing.
pub fn write(batch: &mut Batch, book: &Book, written: &Written, now: i64) {
    let postings = write_accounts(batch, book, &written.booked, now);
    let row = |e: &EntryRow, postings: Value, refusal: Value| {
        params![
            &e.id,
            &e.kind,
            &e.reference,
            e.reverses.as_deref(),
            &e.metadata,
            &e.created_by,
            e.created_at,
            postings,
            refusal
        ]
    };
    let booked = written
        .booked
        .iter()
        .map(|(e, posted)| row(e, places(posted).into(), Value::Null));
    let refused = written.refused.iter().map(|(e, refused)| {
        let refusal = serde_json::to_string(refused).unwrap_or_default();
        row(e, Value::Null, refusal.into())
    });
    let reserved = written
        .reserved
        .iter()
        .map(|e| row(e, NO_POSTINGS.into(), Value::Null));
    let rows: Vec<Vec<Value>> = booked.chain(refused).chain(reserved).collect();
    if rows.is_empty() {
        return;
    }
    let count = rows.len() as u64;
    batch.step(
        STEP_ENTRIES,
        "INSERT INTO entries (id, kind, reference, reverses, metadata, created_by, created_at,
                              postings, refusal)
         SELECT r.id, r.kind, r.reference, r.reverses, r.metadata, r.created_by, r.created_at,
                r.postings, r.refusal
         FROM rows($1: id TEXT, kind TEXT, reference TEXT, reverses TEXT, metadata TEXT,
                   created_by TEXT, created_at BIGINT, postings TEXT, refusal TEXT) r WHERE true
         ON CONFLICT DO NOTHING",
        vec![Value::Rows(rows)],
        Expect::Rows(count),
    );
    write_postings(batch, &written.booked, postings);
}

/// Writes the entry of a reservation that is posted, and the accounts it changed. The step fails when
/// the id has postings or a refusal by now.
pub fn write_settled(batch: &mut Batch, book: &Book, settled: (EntryRow, Vec<Posted>), now: i64) {
    let settled = [settled];
    let postings = write_accounts(batch, book, &settled, now);
    let [(entry, posted)] = &settled;
    // The row is there, unless a host from before it had to be has made the reservation.
    batch.step(
        STEP_ENTRIES,
        "INSERT INTO entries (id, kind, reference, metadata, created_by, created_at, postings)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (id) DO UPDATE SET created_by = excluded.created_by,
                                        created_at = excluded.created_at,
                                        postings = excluded.postings
         WHERE entries.postings = '[]'",
        params![
            &entry.id,
            &entry.kind,
            &entry.reference,
            &entry.metadata,
            &entry.created_by,
            entry.created_at,
            places(posted)
        ],
        Expect::Rows(1),
    );
    write_postings(batch, &settled, postings);
}

/// The accounts that changed, with the heads of their chains; what is left are the rows of the
/// postings.
fn write_accounts(
    batch: &mut Batch,
    book: &Book,
    booked: &[(EntryRow, Vec<Posted>)],
    now: i64,
) -> Vec<Vec<Value>> {
    let (postings, heads) = sealed(book, booked);
    accounts::write(batch, book, now, |account| {
        heads.get(&account.no).copied().unwrap_or(account.head)
    });
    postings
}

fn write_postings(batch: &mut Batch, booked: &[(EntryRow, Vec<Posted>)], rows: Vec<Vec<Value>>) {
    if rows.is_empty() {
        return;
    }
    // Of what was posted, not of the rows: one that could not be sealed fails the batch.
    let count = booked.iter().map(|(_, posted)| posted.len() as u64);
    batch.step(
        "postings",
        "INSERT INTO postings (account_no, number, entry_id, position, direction, amount,
                               balance_after, held_after, version_after, hash)
         SELECT r.account_no, r.number, r.entry_id, r.position, r.direction, r.amount,
                r.balance_after, r.held_after, r.version_after, r.hash
         FROM rows($1: account_no BIGINT, number BIGINT, entry_id TEXT, position BIGINT,
                   direction TEXT, amount BIGINT, balance_after BIGINT, held_after BIGINT,
                   version_after BIGINT, hash TEXT) r WHERE true
         ON CONFLICT DO NOTHING",
        vec![Value::Rows(rows)],
        Expect::Rows(count.sum()),
    );
}

/// What [`places`] are while there are none: of what is reserved.
const NO_POSTINGS: &str = "[]";

fn places(posted: &[Posted]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(12 * posted.len());
    for p in posted {
        let before = if text.is_empty() { '[' } else { ',' };
        // Writing to a String does not fail.
        let _ = write!(text, "{before}[{},{}]", p.account_no, p.number);
    }
    text + "]"
}

/// The postings as rows, each sealed onto the one before it in its account, and the accounts' new
/// heads by their numbers. Entries come in the order they were applied in, so each chain follows its
/// numbers.
fn sealed(
    book: &Book,
    entries: &[(EntryRow, Vec<Posted>)],
) -> (Vec<Vec<Value>>, HashMap<i64, Hash>) {
    let mut heads: HashMap<i64, Hash> = HashMap::new();
    let mut rows = Vec::with_capacity(2 * entries.len());
    for (entry, posted) in entries {
        let digest = entry.digest();
        for (p, position) in posted.iter().zip(0i64..) {
            let read = || book.account(&p.after.account).map(|account| account.head);
            // What was posted is an account of the book; else the count of rows is off.
            let Some(previous) = heads.get(&p.account_no).copied().or_else(read) else {
                continue;
            };
            let seal = PostingSeal {
                number: p.number,
                entry_id: &entry.id,
                position,
                direction: p.side.as_str(),
                amount: p.money.minor(),
                balance_after: p.after.balance.posted,
            };
            let head = seal.hash(&digest, &previous);
            heads.insert(p.account_no, head);
            let held = p.after.balance.held;
            rows.push(params![
                p.account_no,
                seal.number,
                seal.entry_id,
                seal.position,
                seal.direction,
                seal.amount,
                seal.balance_after,
                (held != 0).then_some(held),
                p.after.version,
                hash_text(head)
            ]);
        }
    }
    (rows, heads)
}
