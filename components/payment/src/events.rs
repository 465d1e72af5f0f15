//! What moves a payment on: events of forex, ledger and wallet, and its own announcement.

use std::collections::{BTreeMap, HashMap};

use innover_kit::{
    Cause, Cx, Db, Event, Failure, Result,
    events::{Handled, Handling, data},
    log,
};
use serde::Deserialize;

use crate::{
    jobs,
    model::{self, Signal, State, next},
    store::{self, Change, Payment, Writer},
};

#[derive(Deserialize)]
struct Announced {
    payment_id: String,
}

#[derive(Deserialize)]
struct Converted {
    payment_id: String,
    target_minor: i64,
    margin_minor: i64,
    rate: String,
    rate_date: Option<String>,
    exact: String,
}

#[derive(Deserialize)]
struct Rejected {
    /// Absent when it was a refund.
    payment_id: Option<String>,
    code: String,
    detail: String,
}

#[derive(Deserialize)]
struct Posted {
    /// Absent for entries that are not of a payment.
    payment_id: Option<String>,
    /// Absent when no entry moved a wallet but a reservation.
    #[serde(default)]
    entry_id: String,
}

/// `payment.initiated`: it is on its way to forex.
pub fn initiated<'a>(cx: &'a Cx, db: &'a Db, events: &'a [Event]) -> Handling<'a> {
    Box::pin(apply(
        cx,
        db,
        events,
        |e: &Announced| Some(&e.payment_id),
        |writer, at, _, event| {
            if let Some(to) = next(at.state, Signal::Announced) {
                writer.change(at, to, Change::default(), &Cause::from(event));
            }
        },
    ))
}

/// `forex.converted`: the rate is locked, the amounts of both sides are known.
pub fn converted<'a>(cx: &'a Cx, db: &'a Db, events: &'a [Event]) -> Handling<'a> {
    Box::pin(apply(
        cx,
        db,
        events,
        |e: &Converted| Some(&e.payment_id),
        |writer, at, e, event| {
            let to = next(at.state, Signal::Converted);
            if to.is_none() && !model::misses_conversion(at.state, at.target_minor) {
                return;
            }
            let cause = Cause::from(event);
            let detail = format!("rate {}, exact {}", e.rate, e.exact);
            writer.note(&at.id, "event", &event.kind, &cause, &detail);
            let change = Change {
                target_minor: Some(e.target_minor),
                margin_minor: Some(e.margin_minor),
                rate: Some(e.rate.clone()),
                rate_date: e.rate_date.clone(),
                exact: Some(e.exact.clone()),
                ..Change::default()
            };
            match to {
                Some(to) => writer.change(at, to, change, &cause),
                None => writer.amend(at, change),
            }
        },
    ))
}

/// `forex.rejected`, `ledger.rejected`: nothing was booked and nothing will be. The ledger's may be
/// its answer to a withdrawal.
pub fn rejected<'a>(cx: &'a Cx, db: &'a Db, events: &'a [Event]) -> Handling<'a> {
    Box::pin(apply(
        cx,
        db,
        events,
        |e: &Rejected| e.payment_id.as_ref(),
        |writer, at, e, event| {
            let signal = model::refused(at.withdrawn_by.is_some(), &e.code);
            let Some(to) = next(at.state, signal) else {
                return;
            };
            let cause = Cause::from(event);
            writer.note(&at.id, "event", &event.kind, &cause, &e.code);
            let change = match signal {
                Signal::Cancelled => Change::default(),
                _ => Change {
                    reason_codes: Some(e.code.clone()),
                    reason_detail: Some(e.detail.clone()),
                    ..Change::default()
                },
            };
            writer.change(at, to, change, &cause);
        },
    ))
}

/// `ledger.posted`: the money moved.
pub fn posted<'a>(cx: &'a Cx, db: &'a Db, events: &'a [Event]) -> Handling<'a> {
    Box::pin(apply(
        cx,
        db,
        events,
        |e: &Posted| e.payment_id.as_ref(),
        |writer, at, e, event| {
            let Some(to) = next(at.state, Signal::Posted) else {
                return;
            };
            let cause = Cause::from(event);
            writer.note(&at.id, "entry", &event.kind, &cause, &e.entry_id);
            let change = Change {
                entry_id: Some(e.entry_id.clone()),
                ..Change::default()
            };
            writer.change(at, to, change, &cause);
        },
    ))
}

/// `wallet.updated`: both wallets show it, so the confirmation may run.
pub fn wallet_updated<'a>(cx: &'a Cx, db: &'a Db, events: &'a [Event]) -> Handling<'a> {
    Box::pin(apply(
        cx,
        db,
        events,
        |e: &Posted| e.payment_id.as_ref(),
        |writer, at, e, event| {
            let to = next(at.state, Signal::WalletsUpdated);
            if at.state != State::Processing && to.is_none() {
                return;
            }
            let cause = Cause::from(event);
            writer.note(&at.id, "event", &event.kind, &cause, "");
            if let Some(to) = to {
                let change = Change {
                    entry_id: Some(e.entry_id.clone()),
                    ..Change::default()
                };
                writer.change(at, to, change, &cause);
            }
            writer.note(&at.id, "job", jobs::CONFIRM.name, &cause, "enqueued");
            // The id is the payment's, so the confirmation is one job however often this arrives.
            let id = format!("{}-confirm", at.id);
            let job = jobs::CONFIRM.job(id, vec![at.id.clone().into()]);
            writer.batch.enqueue(jobs::QUEUE, job, cause);
        },
    ))
}

/// Reads the payments of all events at once, lets `decide` change each, and returns one batch.
///
/// Events that are not a service's own are logged and acknowledged: whoever can write to a topic
/// must not be able to complete a payment.
async fn apply<T: for<'de> Deserialize<'de>>(
    cx: &Cx,
    db: &Db,
    events: &[Event],
    payment_of: impl Fn(&T) -> Option<&String>,
    decide: impl Fn(&mut Writer, &Payment, &T, &Event),
) -> Result<Handled> {
    let mut refused: BTreeMap<String, Failure> = BTreeMap::new();
    let mut wanted: Vec<(&Event, T)> = Vec::new();
    for event in events {
        let emitter = event.kind.split('.').next();
        if event.service() != emitter {
            log::warn(
                cx,
                "an event of another source was ignored",
                &[
                    ("id", event.id.as_str().into()),
                    ("source", event.source.as_str().into()),
                ],
            );
            continue;
        }
        match data::<T>(event) {
            Ok(payload) if payment_of(&payload).is_some() => wanted.push((event, payload)),
            Ok(_) => {}
            Err(failure) => drop(refused.insert(event.id.clone(), failure)),
        }
    }
    let ids: Vec<String> = wanted
        .iter()
        .filter_map(|(_, p)| payment_of(p).cloned())
        .collect();
    let payments: HashMap<String, Payment> = store::by_ids(db, ids)
        .await?
        .into_iter()
        .map(|p| (p.id.clone(), p))
        .collect();
    let mut writer = Writer::default();
    for (event, payload) in &wanted {
        if let Some(at) = payment_of(payload).and_then(|id| payments.get(id)) {
            decide(&mut writer, at, payload, event);
        }
    }
    Ok(Handled {
        batch: writer.finish(),
        refused,
        ..Handled::default()
    })
}
