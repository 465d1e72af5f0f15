//! The tasks of `payment-tasks`: the confirmation, and the sweep for payments that are stuck.

use std::collections::HashMap;

use innover_kit::{
    Cause, Code, Cx, Db, Failure, Job, Result, call, ids,
    jobs::{Handled, Running, Task},
    log,
};
use serde::Deserialize;
use serde_json::json;

use crate::{
    model::{self, LEDGER_GAVE_UP, Signal, State, next},
    store::{self, Change, Payment, Writer},
};

/// The queue of this service.
pub const QUEUE: &str = "payment-tasks";
/// The confirmation.
pub const CONFIRM: Task = Task::new("payment.confirm", &["payment_id"], confirm).batch(50);
/// The sweep for payments that are stuck.
pub const SWEEP: Task = Task::new("payment.sweep", &[], sweep);
/// A payment that has not moved for this long is looked at: far longer than the few milliseconds a
/// step takes, and than the backlog a burst can build up.
const STUCK_AFTER_US: i64 = 120_000_000;
/// Payments one sweep looks at; the rest is the next sweep's, ten seconds later.
const SWEEP_MAX: i64 = 50;

#[derive(Deserialize)]
struct Confirm {
    payment_id: String,
}

/// `payment.confirm(payment_id)`: completes a booked payment.
pub fn confirm<'a>(_cx: &'a Cx, db: &'a Db, jobs: &'a [Job]) -> Running<'a> {
    Box::pin(async move {
        let mut handled = Handled::default();
        let wanted: Vec<(&Job, Confirm)> = CONFIRM.each(jobs, &mut handled);
        let ids = wanted.iter().map(|(_, wanted)| wanted.payment_id.clone());
        let payments: HashMap<String, Payment> = store::by_ids(db, ids)
            .await?
            .into_iter()
            .map(|p| (p.id.clone(), p))
            .collect();
        let mut writer = Writer::default();
        let mut confirmed = std::collections::HashSet::new();
        for (job, Confirm { payment_id: id }) in wanted {
            match payments.get(&id) {
                None => {
                    let failure = Failure::new(Code::PaymentNotFound, format!("no payment `{id}`"));
                    handled.refused.insert(job.id.clone(), failure);
                    continue;
                }
                Some(p) if p.state == State::Completed || !confirmed.insert(id) => {}
                Some(p) => match next(p.state, Signal::Confirmed) {
                    Some(to) => {
                        let cause = Cause::from(job);
                        writer.note(&p.id, "job", CONFIRM.name, &cause, "done");
                        writer.change(p, to, Change::default(), &cause);
                    }
                    None => {
                        let what = format!(
                            "a payment in state `{}` cannot be confirmed",
                            p.state.as_str()
                        );
                        handled
                            .refused
                            .insert(job.id.clone(), Failure::new(Code::InvalidState, what));
                        continue;
                    }
                },
            }
            handled.results.insert(job.id.clone(), json!("completed"));
        }
        handled.batch = writer.finish();
        Ok(handled)
    })
}

/// What the ledger says of a payment it was asked to refuse from now on.
#[derive(Deserialize)]
pub struct Settlement {
    /// Set when the payment had been booked already.
    pub entry_id: Option<String>,
}

/// `payment.sweep()`: finishes or fails payments that have not moved for two minutes, never both.
///
/// The ledger decides, since only it knows whether money moved: asked to refuse the payment, it
/// either says that it is booked, or records a refusal that any later attempt to book it meets.
pub fn sweep<'a>(cx: &'a Cx, db: &'a Db, jobs: &'a [Job]) -> Running<'a> {
    Box::pin(async move {
        let now = ids::now_us();
        let stuck = store::stuck(db, now - STUCK_AFTER_US, SWEEP_MAX).await?;
        let mut writer = Writer::default();
        let mut swept = 0;
        for payment in &stuck {
            let cause = payment.cause();
            let change = if payment.state == State::Processing {
                None
            } else {
                match settle(cx, payment).await {
                    Ok(settlement) => Some(settlement),
                    Err(failure) => {
                        // The next sweep asks again; nothing was decided.
                        log::warn(
                            cx,
                            "a stuck payment could not be settled",
                            &[
                                ("payment_id", payment.id.as_str().into()),
                                ("error", failure.to_string().into()),
                            ],
                        );
                        continue;
                    }
                }
            };
            swept += 1;
            writer.note(&payment.id, "job", SWEEP.name, &cause, "");
            match change {
                Some(Settlement { entry_id: None }) => {
                    let signal = model::refused(payment.withdrawn_by.is_some(), LEDGER_GAVE_UP);
                    if let Some(to) = next(payment.state, signal) {
                        let change = match signal {
                            Signal::Cancelled => Change::default(),
                            _ => Change {
                                reason_codes: Some(LEDGER_GAVE_UP.into()),
                                reason_detail: Some(
                                    "it was not booked in time and will not be".into(),
                                ),
                                ..Change::default()
                            },
                        };
                        writer.change(payment, to, change, &cause);
                    }
                    continue;
                }
                Some(Settlement { entry_id }) => {
                    if let Some(to) = next(payment.state, Signal::Posted) {
                        let change = Change {
                            entry_id,
                            ..Change::default()
                        };
                        writer.change(payment, to, change, &cause);
                    }
                }
                None => {}
            }
            // One confirmation per payment and minute, however many sweeps see it.
            let id = format!("{}-confirm-{}", payment.id, now / 60_000_000);
            let job = CONFIRM.job(id, vec![payment.id.clone().into()]);
            writer.batch.enqueue(QUEUE, job, cause);
        }
        let results = jobs
            .iter()
            .map(|job| (job.id.clone(), json!({ "swept": swept })))
            .collect();
        Ok(Handled {
            batch: writer.finish(),
            results,
            ..Handled::default()
        })
    })
}

/// Asks the ledger to refuse a payment from now on. It is booked already, or never will be.
///
/// # Errors
/// The failure of the call: nothing is known then, and it may be asked again.
pub async fn settle(cx: &Cx, payment: &Payment) -> Result<Settlement> {
    let path = format!("/v1/payments/{}/refuse", payment.id);
    call::json(
        cx,
        http::Method::POST,
        "ledger",
        &path,
        Some(&json!({})),
        true,
    )
    .await
}
