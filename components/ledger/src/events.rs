//! What others decided becomes an entry: `forex.converted` a payment's, `refund.initiated` a
//! refund's. The answer is `ledger.posted`, or `ledger.rejected` with the reason.

use std::collections::BTreeSet;

use innover_kit::{
    Batch, Cause, Cx, Db, Emit, Event, Result,
    events::{Handled, Handling, data},
    ids, log,
};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::{
    model::{AccountId, Checked, Converted, Entry, EntryError, Posted, Refunded},
    store::{self, EntryRow, KIND_REFUND, Outcome},
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
            Subject::Payment => "payment",
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

    /// The field of an event that holds its id.
    const fn field(self) -> &'static str {
        match self {
            Subject::Payment => "payment_id",
            Subject::Refund => "refund_id",
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
            id: ids::new_id("ent"),
            external_id: Some(self.payment_id.clone()),
            kind: Self::SUBJECT.as_str().into(),
            reference: self.payment_id.clone(),
            payment_id: Some(self.payment_id.clone()),
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

    /// It names the entry it takes back, and belongs to no payment: what a payment waits for is its
    /// own entry.
    fn row(&self, now: i64) -> EntryRow {
        EntryRow {
            id: ids::new_id("ent"),
            external_id: Some(self.refund_id.clone()),
            kind: Self::SUBJECT.as_str().into(),
            reference: self.payment_id.clone(),
            payment_id: None,
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
    let mut settled = store::settled(db, bookings.iter().map(|(_, b)| b.id())).await?;
    let touched: BTreeSet<AccountId> = bookings.iter().flat_map(|(_, b)| b.accounts()).collect();
    let mut book = store::book(db, &touched).await?;
    let now = ids::now_us();
    let (mut entries, mut outcomes) = (Vec::new(), Vec::new());
    for (event, booking) in bookings {
        // Each is booked or refused once, however often and by whatever event it comes.
        if !settled.insert(booking.id().to_owned()) {
            continue;
        }
        let refused = match booking.entry() {
            Ok(entry) => match book.post(&entry) {
                Ok(posted) => {
                    let row = booking.row(now);
                    batch.emit(posted_event(&row, &posted, Cause::from(*event)));
                    let booked = Outcome::Booked {
                        entry_id: row.id.clone(),
                    };
                    outcomes.push((booking.id().to_owned(), booked));
                    entries.push((row, posted));
                    continue;
                }
                Err(refusal) => (refusal.code(), refusal.to_string()),
            },
            Err(error) => (error.code(), error.to_string()),
        };
        let (code, detail) = refused;
        let cause = Cause::from(*event);
        batch.emit(rejected_event(
            B::SUBJECT,
            booking.id(),
            code,
            &detail,
            cause,
        ));
        outcomes.push((booking.id().to_owned(), Outcome::Refused { code, detail }));
    }
    if !entries.is_empty() {
        store::post(batch, &book, &entries);
    }
    if !outcomes.is_empty() {
        store::settle(batch, &outcomes, now);
    }
    Ok(())
}

/// `ledger.posted`: the entry and what each account it touched holds after it. Its key is the
/// payment or refund where there is one, so that it stays in order with its other events.
pub fn posted_event(entry: &EntryRow, posted: &[Posted], cause: Cause) -> Emit {
    let accounts: Vec<_> = posted
        .iter()
        .map(|p| {
            json!({
                "account_id": p.account.as_str(),
                "currency": p.money.currency(),
                "posted_minor": p.balance.posted,
                "held_minor": p.balance.held,
                "version": p.version,
            })
        })
        .collect();
    let subject = entry.payment_id.as_deref().or(entry.refund_id());
    Emit {
        kind: "ledger.posted",
        key: subject.unwrap_or(&entry.id).to_owned(),
        key_version: 1,
        data: json!({
            "entry_id": entry.id,
            "kind": entry.kind,
            "payment_id": entry.payment_id,
            "reverses": entry.reverses,
            "refund_id": entry.refund_id(),
            "reference": entry.reference,
            "accounts": accounts,
        }),
        cause,
    }
}

/// `ledger.rejected`: the payment or refund is not booked and never will be.
pub fn rejected_event(subject: Subject, id: &str, code: &str, detail: &str, cause: Cause) -> Emit {
    let mut data = json!({"code": code, "detail": detail});
    data[subject.field()] = id.into();
    Emit {
        kind: "ledger.rejected",
        key: id.to_owned(),
        key_version: 1,
        data,
        cause,
    }
}
