//! The tasks of `payment-tasks`: the confirmation, the rules' second chance, and the sweep for payments
//! that are stuck.

use std::collections::HashMap;

use innover_kit::{
    Batch, Cause, Code, Cx, Db, Failure, Job, Result, call, ids,
    jobs::{Handled, Running, Task},
    log,
};
use innover_money::{Currency, Money};
use serde::Deserialize;
use serde_json::json;

use crate::{
    api::order::{Standing, standing},
    model::{self, LEDGER_GAVE_UP, Signal, State, next},
    rules::{self, Facts},
    store::{self, Change, Payment, Writer},
};

/// The queue of this service.
pub const QUEUE: &str = "payment-tasks";
/// The confirmation.
pub const CONFIRM: Task = Task::new("payment.confirm", &["payment_id"], confirm).batch(50);
/// The rules are asked about a payment that they could not be asked about when it was made.
pub const ASK_RULES: Task = Task::new("payment.ask_rules", &["payment_id"], ask_rules);
/// The sweep for payments that are stuck.
pub const SWEEP: Task = Task::new("payment.sweep", &[], sweep);
/// A payment that has not moved for this long is looked at: far longer than the few milliseconds a
/// step takes, and than the backlog a burst can build up.
const STUCK_AFTER_US: i64 = 120_000_000;
/// When rules that could not be asked are asked again; later tries are the queue's.
const RULES_AGAIN_AFTER_US: i64 = 1_000_000;
/// Confirmations go first: behind this there is money that has moved.
const RULES_PRIORITY: u8 = 9;
/// Payments one sweep looks at; the rest is the next sweep's, ten seconds later.
const SWEEP_MAX: i64 = 50;

#[derive(Deserialize)]
struct OfPayment {
    payment_id: String,
}

/// `payment.confirm(payment_id)`: completes a booked payment.
pub fn confirm<'a>(_cx: &'a Cx, db: &'a Db, jobs: &'a [Job]) -> Running<'a> {
    Box::pin(async move {
        let mut handled = Handled::default();
        let wanted: Vec<(&Job, OfPayment)> = CONFIRM.each(jobs, &mut handled);
        let ids = wanted.iter().map(|(_, wanted)| wanted.payment_id.clone());
        let payments: HashMap<String, Payment> = store::by_ids(db, ids)
            .await?
            .into_iter()
            .map(|p| (p.id.clone(), p))
            .collect();
        let mut writer = Writer::default();
        let mut confirmed = std::collections::HashSet::new();
        for (job, OfPayment { payment_id: id }) in wanted {
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

/// Has the rules asked again about a payment that is being stored.
pub fn ask_rules_later(batch: &mut Batch, payment_id: &str, cause: Cause) {
    let mut job = ASK_RULES.job(format!("{payment_id}-rules"), vec![payment_id.into()]);
    job.eta = Some(ids::now_us() + RULES_AGAIN_AFTER_US);
    job.priority = RULES_PRIORITY;
    batch.enqueue(QUEUE, job, cause);
}

/// `payment.ask_rules(payment_id)`: asks the rules about a payment that is under review only because
/// they could not be asked. Nobody waits for a person because something was away for a moment; who
/// decides first, a person or the rules, has decided. What they cannot evaluate stays a person's.
pub fn ask_rules<'a>(cx: &'a Cx, db: &'a Db, jobs: &'a [Job]) -> Running<'a> {
    Box::pin(async move {
        let mut handled = Handled::default();
        let mut writer = Writer::default();
        for (job, OfPayment { payment_id: id }) in ASK_RULES.each(jobs, &mut handled) {
            let waiting = store::by_id(db, &id).await?.filter(Payment::awaits_rules);
            let Some(payment) = waiting else {
                handled.results.insert(job.id.clone(), json!("decided"));
                continue;
            };
            let decision = match rules::ask(cx, &facts(&payment)?).await {
                Ok(decision) => decision,
                // What a queue takes for final as well.
                Err(failure) if matches!(failure.status(), 400 | 404 | 410 | 422) => {
                    handled.results.insert(job.id.clone(), json!("review"));
                    continue;
                }
                Err(failure) => return Err(failure),
            };
            let cause = payment.cause();
            writer.note_decision(&id, &decision, &cause);
            let mut to = decision.signal().and_then(|s| next(payment.state, s));
            let mut reasons = decision.reason_codes.clone();
            if to == Some(State::Initiated) {
                // Of a frozen wallet it is a person's now.
                let (instead, failure) = match standing(cx, &payment).await? {
                    Standing::Active => (to, None),
                    Standing::Frozen(failure) => (None, Some(failure)),
                    Standing::Closed(failure) => (Some(State::Declined), Some(failure)),
                };
                to = instead;
                reasons.extend(failure.map(|failure| failure.0.code));
            }
            let change = Change {
                reason_codes: Some(reasons.join(",")),
                rules_version: decision.version,
                ..Change::default()
            };
            match to {
                Some(to) => writer.change(&payment, to, change, &cause),
                None => writer.amend(&payment, change),
            }
            let state = to.unwrap_or(payment.state);
            handled.results.insert(job.id.clone(), json!(state));
        }
        handled.batch = writer.finish();
        Ok(handled)
    })
}

fn facts(payment: &Payment) -> Result<Facts<'_>> {
    // Both were checked when they were stored.
    let money = Currency::parse(&payment.source_currency)
        .and_then(|currency| Money::new(payment.source_minor, currency))
        .map_err(|e| Failure::new(Code::Internal, e.to_string()))?;
    Ok(Facts {
        payment_id: Some(&payment.id),
        money,
        target_currency: &payment.target_currency,
        cross_currency: payment.source_currency != payment.target_currency,
        payer_owner: &payment.payer_owner,
        payee_owner: &payment.payee_owner,
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
