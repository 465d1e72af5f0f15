//! Transfers in two phases.

use innover_kit::{
    Batch, Db, Expect, Row, Value,
    db::{DbError, column},
    params,
};
use innover_money::{Currency, Money};

use super::{STEP_PENDING, currency};
use crate::model::{Balance, Reservation, Standing, State};

/// A transfer in two phases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingRow {
    /// Its caller's id.
    pub id: String,
    /// What is, or was, reserved.
    pub reservation: Reservation,
    /// As of an entry.
    pub kind: String,
    /// For people.
    pub reference: String,
    /// A JSON object.
    pub metadata: String,
    /// Who asked for it.
    pub created_by: String,
    /// Microseconds since the epoch.
    pub created_at: i64,
    /// From then on it is given back; microseconds since the epoch.
    pub expires_at: i64,
    /// Where it stands.
    pub state: State,
    /// What was posted of it, in minor units.
    pub posted_amount: Option<i64>,
    /// How its accounts stood after the reservation.
    pub standings: Vec<Standing>,
    /// How they stood after its end.
    pub settled_standings: Vec<Standing>,
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT t.id, d.id, c.id, t.amount, d.currency, t.kind, t.reference, t.metadata,
                    t.created_by, t.created_at, t.expires_at, t.state, t.posted_amount, t.standings,
                    t.settled_standings
             FROM pending t
             JOIN accounts d ON d.no = t.debit_no
             JOIN accounts c ON c.no = t.credit_no ",
            $rest
        )
    };
}

fn pending(row: &Row) -> Result<PendingRow, DbError> {
    let currency = currency(row.text(4)?)?;
    let state = row.text(11)?;
    Ok(PendingRow {
        id: row.text(0)?.into(),
        reservation: Reservation {
            debit: row.text(1)?.into(),
            credit: row.text(2)?.into(),
            money: Money::new(row.int(3)?, currency).map_err(|e| DbError::Shape(e.to_string()))?,
        },
        kind: row.text(5)?.into(),
        reference: row.text(6)?.into(),
        metadata: row.text(7)?.into(),
        created_by: row.text(8)?.into(),
        created_at: row.int(9)?,
        expires_at: row.int(10)?,
        state: State::parse(state).ok_or_else(|| DbError::Shape(format!("no state: {state}")))?,
        posted_amount: row.opt_int(12)?,
        standings: read_standings(row.text(13)?, currency)?,
        settled_standings: row
            .opt_text(14)?
            .map_or(Ok(Vec::new()), |text| read_standings(text, currency))?,
    })
}

/// One of them.
pub async fn find(db: &Db, id: &str) -> Result<Option<PendingRow>, DbError> {
    Ok(known(db, [id]).await?.pop())
}

/// Those of `ids` that exist.
pub async fn known<'a>(
    db: &Db,
    ids: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<PendingRow>, DbError> {
    let rows = db
        .query(
            select!("WHERE t.id IN (SELECT id FROM rows($1: id TEXT))"),
            vec![column(ids)],
        )
        .await?;
    rows.iter().map(pending).collect()
}

/// Those that are due at `now`, oldest first, `limit` at most.
pub async fn due(db: &Db, now: i64, limit: i64) -> Result<Vec<PendingRow>, DbError> {
    let rows = db
        .query(
            select!(
                "WHERE t.state = 'pending' AND t.expires_at <= $1 ORDER BY t.expires_at LIMIT $2"
            ),
            params![now, limit],
        )
        .await?;
    rows.iter().map(pending).collect()
}

/// The open ones of an account, oldest first, `limit` at most.
pub async fn of_account(db: &Db, account_no: i64, limit: i64) -> Result<Vec<PendingRow>, DbError> {
    let rows = db
        .query(
            select!(
                "WHERE t.state = 'pending' AND (t.debit_no = $1 OR t.credit_no = $1)
                 ORDER BY t.created_at, t.id LIMIT $2"
            ),
            params![account_no, limit],
        )
        .await?;
    rows.iter().map(pending).collect()
}

/// Writes reservations that were applied to a book; the step fails when one of the ids is taken.
pub fn reserve(batch: &mut Batch, rows: &[(PendingRow, [i64; 2])]) {
    let values = rows.iter().map(|(t, [debit, credit])| {
        params![
            &t.id,
            *debit,
            *credit,
            t.reservation.money.minor(),
            &t.kind,
            &t.reference,
            &t.metadata,
            &t.created_by,
            t.created_at,
            t.expires_at,
            write_standings(&t.standings)
        ]
    });
    batch.step(
        STEP_PENDING,
        "INSERT INTO pending (id, debit_no, credit_no, amount, kind, reference, metadata, created_by,
                              created_at, expires_at, state, standings)
         SELECT r.id, r.debit_no, r.credit_no, r.amount, r.kind, r.reference, r.metadata,
                r.created_by, r.created_at, r.expires_at, 'pending', r.standings
         FROM rows($1: id TEXT, debit_no BIGINT, credit_no BIGINT, amount BIGINT, kind TEXT,
                   reference TEXT, metadata TEXT, created_by TEXT, created_at BIGINT,
                   expires_at BIGINT, standings TEXT) r WHERE true
         ON CONFLICT (id) DO NOTHING",
        vec![Value::Rows(values.collect())],
        Expect::Rows(rows.len() as u64),
    );
}

/// Writes the end of reservations, each once: the step fails when one of them ended since it was
/// read.
pub fn settle(batch: &mut Batch, settled: &[PendingRow], now: i64) {
    let rows = settled.iter().map(|t| {
        params![
            &t.id,
            t.state.as_str(),
            t.posted_amount,
            write_standings(&t.settled_standings),
            now
        ]
    });
    batch.step(
        STEP_PENDING,
        "UPDATE pending SET state = r.state, posted_amount = r.posted_amount,
                            settled_standings = r.standings, settled_at = r.now
         FROM rows($1: id TEXT, state TEXT, posted_amount BIGINT, standings TEXT, now BIGINT) r
         WHERE pending.id = r.id AND pending.state = 'pending'",
        vec![Value::Rows(rows.collect())],
        Expect::Rows(settled.len() as u64),
    );
}

/// `[[account, posted, held, version], …]`.
fn write_standings(standings: &[Standing]) -> String {
    let rows: Vec<(&str, i64, i64, i64)> = standings
        .iter()
        .map(|s| {
            (
                s.account.as_str(),
                s.balance.posted,
                s.balance.held,
                s.version,
            )
        })
        .collect();
    serde_json::to_string(&rows).unwrap_or_default()
}

fn read_standings(text: &str, currency: Currency) -> Result<Vec<Standing>, DbError> {
    let rows: Vec<(String, i64, i64, i64)> =
        serde_json::from_str(text).map_err(|e| DbError::Shape(format!("standings: {e}")))?;
    let standings = rows
        .into_iter()
        .map(|(account, posted, held, version)| Standing {
            account: account.into(),
            currency,
            balance: Balance {
                posted,
                held,
                available: posted.saturating_sub(held),
            },
            version,
        });
    Ok(standings.collect())
}
