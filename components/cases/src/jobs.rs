//! The tasks of `cases-tasks`: scoring, having a payment follow its case, and the sweep for both.

use std::collections::HashMap;

use innover_kit::{
    Cause, Code, Cx, Db, Failure, Job, Result, ids,
    jobs::{Handled, Running, Task},
    log,
};
use serde::Deserialize;
use serde_json::json;

use crate::{
    events::follow,
    limits::{ASKED_OVERDUE_US, SCORE_OVERDUE_US, SWEEP_MAX},
    model::{Case, PaymentFollows},
    payment,
    scoring::{self, Asked},
    store::{self, Writer},
};

/// The queue of this service.
pub const QUEUE: &str = "cases-tasks";
/// Asks for the score of a case.
pub const RESCORE: Task = Task::new("cases.rescore", &["case_id", "force?"], rescore);
/// Has a payment do what was decided on its case.
pub const DECIDE_PAYMENT: Task = Task::new("cases.decide_payment", &["case_id"], decide_payment);
/// Looks for cases whose jobs are lost.
pub const SWEEP: Task = Task::new("cases.sweep", &[], sweep);

/// The job of a case's next attempt to be scored: one per attempt, however often it is enqueued.
pub fn score_job(case: &Case) -> Job {
    let id = format!("{}-score-{}", case.id, case.version);
    let mut job = RESCORE.job(id, vec![case.id.clone().into()]);
    job.eta = case.score_at.filter(|_| case.score_attempts > 0);
    job
}

/// The job that tells a case's payment: one per case.
pub fn payment_job(case: &Case) -> Job {
    let id = format!("{}-payment", case.id);
    DECIDE_PAYMENT.job(id, vec![case.id.clone().into()])
}

/// Which case a job is about.
#[derive(Deserialize)]
struct Which {
    case_id: String,
    #[serde(default)]
    force: bool,
}

/// The cases of `jobs`, and whether they are due whatever their state says; a job without one is
/// refused for good.
async fn cases_of<'a>(
    task: Task,
    db: &Db,
    jobs: &'a [Job],
    handled: &mut Handled,
) -> Result<Vec<(&'a Job, Case, bool)>> {
    let wanted: Vec<(&Job, Which)> = task.each(jobs, handled);
    let ids = wanted.iter().map(|(_, which)| which.case_id.clone());
    let mut cases: HashMap<String, Case> = store::by_ids(db, ids)
        .await?
        .into_iter()
        .map(|case| (case.id.clone(), case))
        .collect();
    let mut found = Vec::new();
    for (job, Which { case_id: id, force }) in wanted {
        match cases.remove(&id) {
            Some(case) => found.push((job, case, force)),
            None => {
                let failure = Failure::new(Code::CaseNotFound, format!("no case `{id}`"));
                handled.refused.insert(job.id.clone(), failure);
            }
        }
    }
    Ok(found)
}

/// `cases.rescore(case_id, force=False)`: asks for the score of a case nobody has decided on, when
/// it has none yet or `force` says so. One whose payment's review has ended meanwhile is closed instead.
///
/// A failure is an outcome like a score: the case says `PENDING_SCORE`, an event does too, and the
/// same commit enqueues the next attempt, so that there is no moment without one.
pub fn rescore<'a>(cx: &'a Cx, db: &'a Db, jobs: &'a [Job]) -> Running<'a> {
    Box::pin(async move {
        let mut handled = Handled::default();
        let mut writer = Writer::default();
        for (job, case, force) in cases_of(RESCORE, db, jobs, &mut handled).await? {
            // Decided, or scored by somebody who did not wait: nothing is due.
            if case.score_at.is_none() && (case.state.is_final() || !force) {
                handled.results.insert(job.id.clone(), json!("not due"));
                continue;
            }
            let asked = scoring::ask(cx, &case).await;
            let after = note_score(&mut writer, cx, &case, asked, &Cause::from(job));
            let said = json!({"score_state": after.score_state, "score": after.score});
            handled.results.insert(job.id.clone(), said);
        }
        handled.batch = writer.finish();
        Ok(handled)
    })
}

/// Adds what came of asking for a score; returns the case after it.
pub fn note_score(
    writer: &mut Writer,
    cx: &Cx,
    case: &Case,
    asked: Result<Asked>,
    cause: &Cause,
) -> Case {
    let now = ids::now_us();
    match asked {
        Ok(Asked::Settled(verdict)) => {
            follow(writer, case, verdict, now, cause);
            case.follow(verdict, now).unwrap_or_else(|| case.clone())
        }
        Ok(Asked::Score(score)) => {
            let after = case.scored(&score, now);
            writer.update(&after, "scored", cause);
            after
        }
        Err(failure) => {
            log::warn(
                cx,
                "a case could not be scored",
                &[
                    ("case_id", case.id.as_str().into()),
                    ("error", failure.to_string().into()),
                ],
            );
            let after = case.score_failed(now, ids::random());
            writer.score_failed(&after, &failure.0.code, cause);
            after
        }
    }
}

/// `cases.decide_payment(case_id)`: has the payment of a decided case follow, or the case its
/// payment where somebody else was faster. While the payment service cannot say, the job fails and
/// is tried again.
pub fn decide_payment<'a>(cx: &'a Cx, db: &'a Db, jobs: &'a [Job]) -> Running<'a> {
    Box::pin(async move {
        let mut handled = Handled::default();
        let mut writer = Writer::default();
        for (job, case, _) in cases_of(DECIDE_PAYMENT, db, jobs, &mut handled).await? {
            let payment_id = case.payment_id.as_deref();
            let due = case.payment_follows == PaymentFollows::Asked;
            let Some(payment_id) = payment_id.filter(|_| due) else {
                handled.results.insert(job.id.clone(), json!("not due"));
                continue;
            };
            match payment::decide(cx, &case, payment_id).await {
                Ok(verdict) => {
                    follow(
                        &mut writer,
                        &case,
                        verdict,
                        ids::now_us(),
                        &Cause::from(job),
                    );
                    handled.results.insert(job.id.clone(), json!(verdict));
                }
                // A wallet was frozen while it waited. The sweep has it asked again, until that is over
                // or the payment is decided otherwise. (Of a closed one the payment is declined.)
                Err(failure) if failure.code() == Code::WalletNotActive => {
                    handled
                        .results
                        .insert(job.id.clone(), json!("wallet_not_active"));
                }
                Err(failure) => drop(handled.refused.insert(job.id.clone(), failure)),
            }
        }
        handled.batch = writer.finish();
        Ok(handled)
    })
}

/// `cases.sweep()`: enqueues again what should have happened and did not. Jobs are not lost by
/// themselves, but they are discarded by people and used up by long outages.
pub fn sweep<'a>(_: &'a Cx, db: &'a Db, jobs: &'a [Job]) -> Running<'a> {
    Box::pin(async move {
        let now = ids::now_us();
        let overdue = store::overdue(db, now - SCORE_OVERDUE_US, SWEEP_MAX).await?;
        let asking = store::asking(db, now - ASKED_OVERDUE_US, SWEEP_MAX).await?;
        let mut writer = Writer::default();
        // One job per case and period, however many sweeps see it.
        let again = |mut job: Job, period: i64| {
            job.id = format!("{}-{}", job.id, now / period);
            job.eta = None;
            job
        };
        for case in &overdue {
            writer.enqueue(again(score_job(case), SCORE_OVERDUE_US), &case.cause());
        }
        for case in &asking {
            writer.enqueue(again(payment_job(case), ASKED_OVERDUE_US), &case.cause());
        }
        let swept = overdue.len() + asking.len();
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
