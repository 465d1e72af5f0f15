//! What payments tell: that one waits for a decision, and that its review has ended.

use std::collections::{BTreeMap, HashMap, HashSet};

use innover_kit::{
    Cause, Cx, Db, Event, Failure, Result,
    events::{Handled, Handling, data},
    ids, log,
};
use serde::Deserialize;

use crate::{
    model::{Case, Verdict},
    store::{self, Writer},
};

/// The only service that knows where a payment stands.
const PAYMENT: &str = "payment";

#[derive(Deserialize)]
struct Payment {
    payment_id: String,
    state: String,
}

/// `payment.review`: a case for each payment that has none.
pub fn review<'a>(cx: &'a Cx, db: &'a Db, events: &'a [Event]) -> Handling<'a> {
    Box::pin(async move {
        let (payments, refused) = read(cx, events);
        let known: HashSet<String> = cases_of(db, &payments).await?.into_keys().collect();
        let mut writer = Writer::default();
        for (event, payment) in &payments {
            if !known.contains(&payment.payment_id) {
                let cause = Cause::from(*event);
                writer.open(&case_of(&payment.payment_id, &cause), &cause);
            }
        }
        Ok(Handled {
            batch: writer.finish(),
            refused,
            ..Handled::default()
        })
    })
}

/// `payment.initiated`, `payment.declined`, `payment.cancelled`: the review of a payment is over,
/// whoever ended it. Most payments had none and have no case.
pub fn settled<'a>(cx: &'a Cx, db: &'a Db, events: &'a [Event]) -> Handling<'a> {
    Box::pin(async move {
        let (payments, refused) = read(cx, events);
        let cases = cases_of(db, &payments).await?;
        let mut writer = Writer::default();
        let now = ids::now_us();
        for (event, payment) in &payments {
            let case = cases.get(&payment.payment_id);
            if let Some((case, verdict)) = case.zip(Verdict::of_payment(&payment.state)) {
                follow(&mut writer, case, verdict, now, &Cause::from(*event));
            }
        }
        Ok(Handled {
            batch: writer.finish(),
            refused,
            ..Handled::default()
        })
    })
}

/// Notes how the review of a case's payment ended. What it changes about the decision is a decision
/// itself.
pub fn follow(writer: &mut Writer, case: &Case, verdict: Verdict, now: i64, cause: &Cause) {
    match case.follow(verdict, now) {
        Some(after) if after.state != case.state => writer.decide(&after, cause),
        Some(after) => writer.update(&after, "payment_followed", cause),
        None => {}
    }
}

/// The case of a payment. Nobody has asked for it, so it is nobody's.
fn case_of(payment_id: &str, cause: &Cause) -> Case {
    let title = format!("Payment {payment_id} is under review");
    let mut case = Case::opened(ids::new_id("case"), title, ids::now_us());
    case.payment_id = Some(payment_id.to_owned());
    case.traceparent = cause.traceparent.clone().unwrap_or_default();
    case.correlation_id = cause.correlation_id.clone().unwrap_or_default();
    case
}

/// The payload of each event that is the payment service's own: whoever can write to a topic must
/// not be able to close a case. Others are acknowledged, so that they are not delivered again.
fn read<'a>(
    cx: &Cx,
    events: &'a [Event],
) -> (Vec<(&'a Event, Payment)>, BTreeMap<String, Failure>) {
    let mut payments = Vec::new();
    let mut refused = BTreeMap::new();
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
        match data::<Payment>(event) {
            Ok(payment) => payments.push((event, payment)),
            Err(failure) => drop(refused.insert(event.id.clone(), failure)),
        }
    }
    (payments, refused)
}

async fn cases_of(db: &Db, payments: &[(&Event, Payment)]) -> Result<HashMap<String, Case>> {
    if payments.is_empty() {
        return Ok(HashMap::new());
    }
    let ids = payments.iter().map(|(_, payment)| &payment.payment_id);
    let cases = store::by_payments(db, ids.cloned()).await?;
    Ok(cases
        .into_iter()
        .filter_map(|case| Some((case.payment_id.clone()?, case)))
        .collect())
}
