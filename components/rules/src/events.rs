//! What payers do, told by payment: a payment is counted when it is asked for, and no more when it
//! ends without money having moved.

use std::collections::BTreeMap;

use innover_kit::{
    Batch, Code, Cx, Db, Event, Failure, Result,
    contract::time::parse_rfc3339,
    events::{Handled, Handling, data},
    log,
};
use serde::Deserialize;

use crate::{store, velocity::Asked};

/// The only service whose word counts: others could make a payer look busy, or idle.
const PAYMENT: &str = "payment";

#[derive(Deserialize)]
struct Told {
    payment_id: String,
    payer_owner: String,
    /// Where payment knows it: of the first event of a payment.
    amount_eur_minor: Option<i64>,
}

/// `payment.initiated` and `payment.review`: asked for. A payment that was under review and is
/// initiated after all was counted before.
pub fn asked<'a>(cx: &'a Cx, _: &'a Db, events: &'a [Event]) -> Handling<'a> {
    Box::pin(std::future::ready(apply(cx, events, store::count)))
}

/// `payment.declined`, `payment.failed`, `payment.cancelled`: no money moved.
pub fn ended<'a>(cx: &'a Cx, _: &'a Db, events: &'a [Event]) -> Handling<'a> {
    Box::pin(std::future::ready(apply(cx, events, store::discount)))
}

fn apply(
    cx: &Cx,
    events: &[Event],
    step: fn(&mut Batch, std::collections::btree_map::IntoValues<String, Asked>),
) -> Result<Handled> {
    let mut handled = Handled::default();
    // By payment: no statement meets a row twice.
    let mut told = BTreeMap::new();
    for event in events {
        if event.service() != Some(PAYMENT) {
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
        match read(event) {
            Ok(asked) => drop(told.insert(asked.payment_id.clone(), asked)),
            Err(failure) => drop(handled.refused.insert(event.id.clone(), failure)),
        }
    }
    if !told.is_empty() {
        step(&mut handled.batch, told.into_values());
    }
    Ok(handled)
}

fn read(event: &Event) -> Result<Asked> {
    let told: Told = data(event)?;
    Ok(Asked {
        payment_id: told.payment_id,
        payer_owner: told.payer_owner,
        asked_at: parse_rfc3339(&event.time)
            .map_err(|e| Failure::new(Code::InvalidRequest, format!("the event's time: {e}")))?,
        amount_eur_minor: told.amount_eur_minor,
    })
}
