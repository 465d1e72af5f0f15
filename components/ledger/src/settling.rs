//! The end of a transfer in two phases: posted whole or in part, voided, or expired; exactly one of
//! them, once. Whoever asks again for what happened is answered the same; whoever asks for another
//! end is told which one it had.

use innover_kit::{
    Batch, Cause, Code, Cx, Db, Failure, Result, batch::with_retries, contract::time::rfc3339, ids,
};
use innover_money::Money;

use crate::{
    events,
    limits::EXPIRED_AT_ONCE_MAX,
    model::{PartError, Standing, State},
    store::{
        accounts,
        entries::{self, EntryRow, Written},
        pending::{self, PendingRow},
    },
};

/// How somebody ends it.
#[derive(Clone, Copy, Debug)]
pub enum End {
    /// Post this much of it, or all.
    Post(Option<Money>),
    /// Give it back.
    Void,
}

/// Ends a transfer.
///
/// # Errors
/// 404 when there is none; 409 `invalid_state` when it ended otherwise; 422 when the part does not
/// fit or an account takes no more postings.
pub async fn end(cx: &Cx, id: &str, end: End, by: &str) -> Result<PendingRow> {
    with_retries(|| async {
        let mut db = Db::open().await?;
        db.lock().await?;
        let row = existing(&db, id).await?;
        let part = match end {
            End::Post(asked) => Some(row.reservation.part(asked).map_err(part_refused)?),
            End::Void => None,
        };
        let cause = Cause::from(cx);
        match (row.state, part) {
            // Said once it is so: another request may have looked at the clock before, and be about to
            // post it.
            (State::Pending, _) if row.expires_at <= ids::now_us() => {
                let mut batch = Batch::new();
                let row = give_back(&db, &mut batch, vec![row], State::Expired, &cause)
                    .await?
                    .remove(0);
                batch.commit(&mut db).await?;
                return Err(ended(&row, row.state));
            }
            (State::Pending, _) => {}
            (State::Posted, Some(part)) if row.posted_amount == Some(part.minor()) => {
                return Ok(row);
            }
            (State::Voided, None) => return Ok(row),
            (state, _) => return Err(ended(&row, state)),
        }
        let mut batch = Batch::new();
        let row = match part {
            Some(part) => post(&db, &mut batch, row, part, by, cause).await?,
            None => give_back(&db, &mut batch, vec![row], State::Voided, &cause)
                .await?
                .remove(0),
        };
        batch.commit(&mut db).await?;
        Ok(row)
    })
    .await
}

/// The transfer with this id.
///
/// # Errors
/// 404, or 409 when it was booked at once.
pub async fn existing(db: &Db, id: &str) -> Result<PendingRow> {
    if let Some(row) = pending::find(db, id).await? {
        return Ok(row);
    }
    Err(match entries::find(db, id).await? {
        Some(_) => Failure::new(
            Code::InvalidState,
            format!("transfer `{id}` was not reserved: it was decided at once"),
        ),
        None => Failure::new(Code::NotFound, format!("transfer `{id}` does not exist")),
    })
}

fn part_refused(error: PartError) -> Failure {
    let (code, param) = match error {
        PartError::Currency(_) => (Code::CurrencyMismatch, "/currency"),
        PartError::NotPositive | PartError::MoreThanReserved => (Code::InvalidAmount, "/amount"),
    };
    Failure::new(code, error.to_string()).param(param)
}

fn ended(row: &PendingRow, state: State) -> Failure {
    let how = match (state, row.posted_amount) {
        (State::Expired, _) => format!("it expired at {}", rfc3339(row.expires_at)),
        (State::Posted, Some(minor)) => {
            let money = Money::new(minor, row.reservation.money.currency());
            let amount = money.map(Money::to_decimal_string).unwrap_or_default();
            format!("it was posted with {amount}")
        }
        (state, _) => format!("it is {}", state.as_str()),
    };
    Failure::new(Code::InvalidState, format!("transfer `{}`: {how}", row.id))
}

async fn post(
    db: &Db,
    batch: &mut Batch,
    row: PendingRow,
    part: Money,
    by: &str,
    cause: Cause,
) -> Result<PendingRow> {
    let reservation = &row.reservation;
    let mut book = accounts::book(db, [&reservation.debit, &reservation.credit]).await?;
    let refused = |code: &str, detail: String| {
        Failure::new(Code::parse(code).unwrap_or(Code::Conflict), detail)
    };
    let entry = reservation
        .entry(part)
        .map_err(|e| refused(e.code(), e.to_string()))?;
    let posted = book
        .settle(reservation, &entry)
        .map_err(|e| refused(e.code(), e.to_string()))?;
    let now = book.time(ids::now_us());
    let settled = PendingRow {
        state: State::Posted,
        posted_amount: Some(part.minor()),
        settled_standings: posted.iter().map(|p| p.after.clone()).collect(),
        ..row
    };
    let entry = EntryRow {
        id: settled.id.clone(),
        kind: settled.kind.clone(),
        reference: settled.reference.clone(),
        reverses: None,
        metadata: settled.metadata.clone(),
        created_by: by.to_owned(),
        created_at: now,
    };
    batch.emit(events::posted(&entry, &posted, Some(&entry.id), cause));
    entries::write_settled(batch, &book, (entry, posted), now);
    pending::settle(batch, std::slice::from_ref(&settled), now);
    Ok(settled)
}

/// Gives reservations back, all in one batch.
async fn give_back(
    db: &Db,
    batch: &mut Batch,
    rows: Vec<PendingRow>,
    state: State,
    cause: &Cause,
) -> Result<Vec<PendingRow>> {
    let touched = rows
        .iter()
        .flat_map(|t| [&t.reservation.debit, &t.reservation.credit]);
    let mut book = accounts::book(db, touched).await?;
    let now = book.time(ids::now_us());
    let mut settled = Vec::with_capacity(rows.len());
    for row in rows {
        let standings: [Standing; 2] = book
            .release(&row.reservation)
            .map_err(|e| Failure::new(Code::Internal, e.to_string()))?;
        let row = PendingRow {
            state,
            settled_standings: standings.into(),
            ..row
        };
        batch.emit(events::released(&row, cause.clone()));
        settled.push(row);
    }
    entries::write(batch, &book, &Written::default(), now);
    pending::settle(batch, &settled, now);
    Ok(settled)
}

/// Steps that give back what nobody settled in time, a bounded number at once; the answer is how
/// many there are.
///
/// # Errors
/// The database.
pub async fn expire(db: &Db, batch: &mut Batch, cause: &Cause) -> Result<usize> {
    let due = pending::due(db, ids::now_us(), EXPIRED_AT_ONCE_MAX).await?;
    let count = due.len();
    if count > 0 {
        give_back(db, batch, due, State::Expired, cause).await?;
    }
    Ok(count)
}
