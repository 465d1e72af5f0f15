//! What others decided becomes an entry: `forex.converted` a payment's, `refund.initiated` a
//! refund's. The answer is `ledger.posted`, or `ledger.rejected` with the reason. What callers of the
//! HTTP surface book or reserve is told here as well.

use std::collections::BTreeSet;

use innover_kit::{
    Batch, Cause, Cx, Db, Emit, Event, Result,
    contract::time::rfc3339,
    events::{Handled, Handling, data},
    ids, log,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    booking::{Became, Plan},
    limits::ACCOUNTS_TOLD_AT_ONCE,
    model::{AccountId, Book, Checked, Converted, Entry, EntryError, Posted, Refunded, Standing},
    store::{
        accounts,
        entries::{self, EntryRow, KIND_PAYMENT, KIND_REFUND, Refused, Written},
        pending::PendingRow,
    },
};

/// What is booked or refused once, under an id of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A payment.
    Payment,
    /// A refund.
    Refund,
}

impl Subject {
    /// The kind of its entry, and the only service that may give it up.
    pub const fn as_str(self) -> &'static str {
        match self {
            Subject::Payment => KIND_PAYMENT,
            Subject::Refund => KIND_REFUND,
        }
    }

    /// What its ids begin with.
    pub const fn prefix(self) -> &'static str {
        match self {
            Subject::Payment => "pay_",
            Subject::Refund => "ref_",
        }
    }
}

/// The data of an event that becomes an entry.
trait Booking: DeserializeOwned {
    /// The only service whose word moves this money.
    const SOURCE: &'static str;
    /// What the entry is for.
    const SUBJECT: Subject;
    /// The subject's id.
    fn id(&self) -> &str;
    /// The accounts the entry touches, also when it will be refused.
    fn accounts(&self) -> Vec<AccountId>;
    /// The entry.
    fn entry(&self) -> Result<Checked<Entry>, EntryError>;
    /// What is written of the entry besides its postings.
    fn row(&self, now: i64) -> EntryRow;
}

impl Booking for Converted {
    const SOURCE: &'static str = "forex";
    const SUBJECT: Subject = Subject::Payment;

    fn id(&self) -> &str {
        &self.payment_id
    }

    fn accounts(&self) -> Vec<AccountId> {
        Converted::accounts(self)
    }

    fn entry(&self) -> Result<Checked<Entry>, EntryError> {
        Converted::entry(self)
    }

    fn row(&self, now: i64) -> EntryRow {
        EntryRow {
            id: self.payment_id.clone(),
            kind: Self::SUBJECT.as_str().into(),
            reference: self.payment_id.clone(),
            reverses: None,
            metadata: "{}".into(),
            created_by: Self::SOURCE.into(),
            created_at: now,
        }
    }
}

impl Booking for Refunded {
    const SOURCE: &'static str = "refund";
    const SUBJECT: Subject = Subject::Refund;

    fn id(&self) -> &str {
        &self.refund_id
    }

    fn accounts(&self) -> Vec<AccountId> {
        Refunded::accounts(self)
    }

    fn entry(&self) -> Result<Checked<Entry>, EntryError> {
        Refunded::entry(self)
    }

    /// It names the entry it takes back.
    fn row(&self, now: i64) -> EntryRow {
        EntryRow {
            id: self.refund_id.clone(),
            kind: Self::SUBJECT.as_str().into(),
            reference: self.payment_id.clone(),
            reverses: Some(self.reverses.clone()),
            metadata: "{}".into(),
            created_by: Self::SOURCE.into(),
            created_at: now,
        }
    }
}

/// `forex.converted`: books payments.
pub fn converted<'a>(cx: &'a Cx, db: &'a Db, events: &'a [Event]) -> Handling<'a> {
    Box::pin(receive::<Converted>(cx, db, events))
}

/// `refund.initiated`: books refunds.
pub fn refund_initiated<'a>(cx: &'a Cx, db: &'a Db, events: &'a [Event]) -> Handling<'a> {
    Box::pin(receive::<Refunded>(cx, db, events))
}

/// Books up to 100 in one commit: all accounts are read at once, the entries are applied one after
/// the other in memory, and what comes out is written together.
async fn receive<B: Booking>(cx: &Cx, db: &Db, events: &[Event]) -> Result<Handled> {
    let mut handled = Handled::default();
    let mut bookings: Vec<(&Event, B)> = Vec::with_capacity(events.len());
    for event in events {
        // Anyone who can write to the topic can make such an event; only the relay's source says
        // which service did. Acknowledged, so that it is not delivered again.
        if event.service() != Some(B::SOURCE) {
            log::warn(
                cx,
                "event from outside moves no money",
                &[
                    ("event_id", event.id.as_str().into()),
                    ("source", event.source.as_str().into()),
                ],
            );
            continue;
        }
        match data::<B>(event) {
            Ok(booking) => bookings.push((event, booking)),
            Err(failure) => drop(handled.refused.insert(event.id.clone(), failure)),
        }
    }
    if !bookings.is_empty() {
        book(db, &bookings, &mut handled.batch).await?;
    }
    Ok(handled)
}

async fn book<B: Booking>(db: &Db, bookings: &[(&Event, B)], batch: &mut Batch) -> Result<()> {
    let ids = bookings.iter().map(|(_, b)| b.id());
    let mut decided = entries::asked_for(db, ids).await?;
    let touched: BTreeSet<AccountId> = bookings.iter().flat_map(|(_, b)| b.accounts()).collect();
    let mut book = accounts::book(db, &touched).await?;
    let now = book.time(ids::now_us());
    let mut written = Written::default();
    for (event, booking) in bookings {
        // Each is booked or refused once, however often and by whatever event it comes.
        if !decided.insert(booking.id().to_owned()) {
            continue;
        }
        let row = booking.row(now);
        let cause = Cause::from(*event);
        let (postings, (code, detail)) = match booking.entry() {
            Ok(entry) => match book.post(&entry) {
                Ok(done) => {
                    batch.emit(posted(&row, &done, None, cause));
                    written.booked.push((row, done));
                    continue;
                }
                Err(refusal) => (
                    entry.postings().to_vec(),
                    (refusal.code(), refusal.to_string()),
                ),
            },
            Err(error) => (Vec::new(), (error.code(), error.to_string())),
        };
        let refused = Refused::of(&postings, code, detail, String::new());
        batch.emit(rejected(&row, &refused, cause));
        written.refused.push((row, refused));
    }
    entries::write(batch, &book, &written, now);
    Ok(())
}

fn account(standing: &Standing) -> Value {
    json!({
        "account_id": standing.account.as_str(),
        "currency": standing.currency,
        "posted_minor": standing.balance.posted,
        "held_minor": standing.balance.held,
        "version": standing.version,
    })
}

/// `ledger.posted`: the entry and how each account it touched stands after it. Its key is the entry's
/// id, which is the payment's or refund's where there is one, so that it stays in order with its
/// other events. `transfer` is the id of the reservation it settles, of which it may be a part.
pub fn posted(entry: &EntryRow, posted: &[Posted], transfer: Option<&str>, cause: Cause) -> Emit {
    let accounts: Vec<_> = posted.iter().map(|p| account(&p.after)).collect();
    Emit {
        kind: "ledger.posted",
        key: entry.id.clone(),
        key_version: 1,
        data: json!({
            "entry_id": entry.id,
            "kind": entry.kind,
            "payment_id": entry.payment_id(),
            "reverses": entry.reverses,
            "refund_id": entry.refund_id(),
            "transfer_id": transfer,
            "transfer_minor": transfer.and(posted.first()).map(|p| p.money.minor()),
            "reference": entry.reference,
            "accounts": accounts,
        }),
        cause,
    }
}

/// `ledger.rejected`: what was asked for under this id is not booked and never will be.
pub fn rejected(entry: &EntryRow, refused: &Refused, cause: Cause) -> Emit {
    Emit {
        kind: "ledger.rejected",
        key: entry.id.clone(),
        key_version: 1,
        data: json!({
            "entry_id": entry.id,
            "kind": entry.kind,
            "payment_id": entry.payment_id(),
            "refund_id": entry.refund_id(),
            "code": refused.code,
            "detail": refused.detail,
        }),
        cause,
    }
}

/// `ledger.reserved`: a transfer's amount is held on both of its accounts.
fn reserved(row: &PendingRow, cause: Cause) -> Emit {
    Emit {
        kind: "ledger.reserved",
        key: row.id.clone(),
        key_version: 0,
        data: json!({
            "transfer_id": row.id,
            "kind": row.kind,
            "reference": row.reference,
            "amount_minor": row.reservation.money.minor(),
            "currency": row.reservation.money.currency(),
            "expires_at": rfc3339(row.expires_at),
            "accounts": row.standings.iter().map(account).collect::<Vec<_>>(),
        }),
        cause,
    }
}

/// `ledger.released`: what a transfer held is free again, and nothing was booked.
pub fn released(row: &PendingRow, cause: Cause) -> Emit {
    Emit {
        kind: "ledger.released",
        key: row.id.clone(),
        key_version: 1,
        data: json!({
            "transfer_id": row.id,
            "kind": row.kind,
            "reason": row.state.as_str(),
            "reference": row.reference,
            "accounts": row.settled_standings.iter().map(account).collect::<Vec<_>>(),
        }),
        cause,
    }
}

/// What is told of requests: of a single one its own event, of many at once
/// `ledger.transfers_posted` with how every account stands after all of them, in parts of a size
/// that a delivery takes.
pub fn told(batch: &mut Batch, book: &Book, plan: &Plan, cause: &Cause) {
    if let [only] = &plan.outcomes[..] {
        if let [(entry, done)] = &plan.written.booked[..] {
            batch.emit(posted(entry, done, None, cause.clone()));
        }
        if let [(entry, refused)] = &plan.written.refused[..] {
            batch.emit(rejected(entry, refused, cause.clone()));
        }
        if let (Became::Reserved(row), false) = (&only.became, only.replayed) {
            batch.emit(reserved(row, cause.clone()));
        }
        return;
    }
    let mut standings: Vec<Standing> = book.changed().map(|(a, _)| Standing::from(a)).collect();
    standings.sort_by(|a, b| a.account.cmp(&b.account));
    let id = ids::new_id("bat");
    for (part, standings) in (1..).zip(standings.chunks(ACCOUNTS_TOLD_AT_ONCE)) {
        batch.emit(Emit {
            kind: "ledger.transfers_posted",
            key: id.clone(),
            key_version: part,
            data: json!({
                "batch_id": id,
                "part": part,
                "booked": plan.written.booked.len(),
                "reserved": plan.reserved.len(),
                "refused": plan.written.refused.len(),
                "accounts": standings.iter().map(account).collect::<Vec<_>>(),
            }),
            cause: cause.clone(),
        });
    }
}
