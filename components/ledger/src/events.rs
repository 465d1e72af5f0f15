//! `forex.converted` becomes an entry: `ledger.posted`, or `ledger.rejected` with the reason.

use std::collections::BTreeSet;

use innover_kit::{
    Batch, Cause, Cx, Db, Emit, Event, Result,
    events::{Handled, Handling, data},
    ids, log,
};
use serde_json::json;

use crate::{
    model::{AccountId, Converted, Posted},
    store::{self, EntryRow, Outcome},
};

/// The only service whose conversions move money.
const FOREX: &str = "forex";

/// Books payments, up to 100 in one commit: all accounts are read at once, the entries are applied
/// one after the other in memory, and what comes out is written together.
pub fn converted<'a>(cx: &'a Cx, db: &'a Db, events: &'a [Event]) -> Handling<'a> {
    Box::pin(async move {
        let mut handled = Handled::default();
        let mut payments: Vec<(&Event, Converted)> = Vec::with_capacity(events.len());
        for event in events {
            // Anyone who can write to the topic can make such an event; only the relay's source says
            // that forex did. Acknowledged, so that it is not delivered again.
            if event.service() != Some(FOREX) {
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
            match data::<Converted>(event) {
                Ok(payment) => payments.push((event, payment)),
                Err(failure) => drop(handled.refused.insert(event.id.clone(), failure)),
            }
        }
        if !payments.is_empty() {
            book(db, &payments, &mut handled.batch).await?;
        }
        Ok(handled)
    })
}

async fn book(db: &Db, payments: &[(&Event, Converted)], batch: &mut Batch) -> Result<()> {
    let mut settled =
        store::settled(db, payments.iter().map(|(_, p)| p.payment_id.as_str())).await?;
    let touched: BTreeSet<AccountId> = payments.iter().flat_map(|(_, p)| p.accounts()).collect();
    let mut book = store::book(db, &touched).await?;
    let now = ids::now_us();
    let (mut entries, mut outcomes) = (Vec::new(), Vec::new());
    for (event, payment) in payments {
        // One payment is booked or refused once, however often and by whatever event it comes.
        if !settled.insert(payment.payment_id.clone()) {
            continue;
        }
        let refused = match payment.entry() {
            Ok(entry) => match book.post(&entry) {
                Ok(posted) => {
                    let row = payment_row(payment, now);
                    batch.emit(posted_event(&row, &posted, Cause::from(*event)));
                    let booked = Outcome::Booked {
                        entry_id: row.id.clone(),
                    };
                    outcomes.push((payment.payment_id.clone(), booked));
                    entries.push((row, posted));
                    continue;
                }
                Err(refusal) => (refusal.code(), refusal.to_string()),
            },
            Err(error) => (error.code(), error.to_string()),
        };
        let (code, detail) = refused;
        batch.emit(rejected_event(
            &payment.payment_id,
            code,
            &detail,
            Cause::from(*event),
        ));
        outcomes.push((
            payment.payment_id.clone(),
            Outcome::Refused { code, detail },
        ));
    }
    if !entries.is_empty() {
        store::post(batch, &book, &entries);
    }
    if !outcomes.is_empty() {
        store::settle(batch, &outcomes, now);
    }
    Ok(())
}

fn payment_row(payment: &Converted, now: i64) -> EntryRow {
    EntryRow {
        id: ids::new_id("ent"),
        external_id: Some(payment.payment_id.clone()),
        kind: "payment".into(),
        reference: payment.payment_id.clone(),
        payment_id: Some(payment.payment_id.clone()),
        reverses: None,
        metadata: "{}".into(),
        created_by: FOREX.into(),
        created_at: now,
    }
}

/// `ledger.posted`: the entry and what each account it touched holds after it. Its key is the
/// payment where there is one, so that it stays in order with the payment's other events.
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
    Emit {
        kind: "ledger.posted",
        key: entry.payment_id.clone().unwrap_or_else(|| entry.id.clone()),
        key_version: 1,
        data: json!({
            "entry_id": entry.id,
            "kind": entry.kind,
            "payment_id": entry.payment_id,
            "reverses": entry.reverses,
            "reference": entry.reference,
            "accounts": accounts,
        }),
        cause,
    }
}

/// `ledger.rejected`: the payment is not booked and never will be.
pub fn rejected_event(payment_id: &str, code: &str, detail: &str, cause: Cause) -> Emit {
    Emit {
        kind: "ledger.rejected",
        key: payment_id.to_owned(),
        key_version: 1,
        data: json!({"payment_id": payment_id, "code": code, "detail": detail}),
        cause,
    }
}
