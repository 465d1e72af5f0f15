//! The sweep: settles what a request left open when it died or the ledger did not answer.
//!
//! The ledger is asked and decides. A movement it never got is given up, and its allowance given
//! back; a hold that somebody was settling is settled as that request wanted; a hold that should have
//! expired follows what became of it.

use innover_kit::{
    Batch, Cause, Cx, Db, Job, Result, ids,
    jobs::{Handled, Running, Task},
    log,
};
use serde_json::json;

use crate::{
    ledger::{self, Verdict},
    limits::{ASKED_AFTER_US, EXPIRED_AFTER_US, SETTLING_AFTER_US, SWEEP_MAX},
    model::movement::{GIVEN_UP, Movement, State, TIMED_OUT},
    store::movements::{self, Changes},
};

/// `wallet.sweep()`.
pub const TASK: Task = Task::new("wallet.sweep", &[], run);

/// Settles up to [`SWEEP_MAX`] movements. What another request settles meanwhile fails the batch,
/// which is then tried again from the read.
pub fn run<'a>(cx: &'a Cx, db: &'a Db, jobs: &'a [Job]) -> Running<'a> {
    Box::pin(async move {
        let (batch, swept) = sweep(cx, db).await?;
        let results = jobs
            .iter()
            .map(|job| (job.id.clone(), json!({ "swept": swept })));
        Ok(Handled {
            batch,
            results: results.collect(),
            ..Handled::default()
        })
    })
}

async fn sweep(cx: &Cx, db: &Db) -> Result<(Batch, usize)> {
    let now = ids::now_us();
    let stuck = movements::stuck(
        db,
        now - ASKED_AFTER_US,
        now - SETTLING_AFTER_US,
        now - EXPIRED_AFTER_US,
        SWEEP_MAX,
    )
    .await?;
    let mut changes = Changes::default();
    let mut swept = 0;
    for before in &stuck {
        match settled(cx, before).await {
            Ok(after) if after != *before => {
                changes.change(before, &after, &Cause::from(cx));
                swept += 1;
            }
            Ok(_) => {}
            // The next sweep asks again; nothing was decided.
            Err(failure) => log::warn(
                cx,
                "an open movement could not be settled",
                &[
                    ("movement_id", before.id.as_str().into()),
                    ("error", failure.to_string().into()),
                ],
            ),
        }
    }
    Ok((changes.finish(), swept))
}

/// The movement as the ledger has it.
async fn settled(cx: &Cx, before: &Movement) -> Result<Movement> {
    let mut after = before.clone();
    let verdict = match &before.claim {
        Some(claim) if before.state == State::Held => ledger::settle(cx, before, claim).await?,
        // It may still be on its way, however long ago it was asked for: from here on it is refused.
        _ if before.state == State::Requested => match ledger::give_up(cx, before).await? {
            Some(transfer) => Verdict::Stands(transfer),
            None => {
                after.refuse(TIMED_OUT, GIVEN_UP);
                return Ok(after);
            }
        },
        _ => match ledger::find(cx, &before.id).await? {
            Some(transfer) => Verdict::Stands(transfer),
            None => return Ok(after),
        },
    };
    match verdict {
        Verdict::Stands(transfer) => {
            after.follow(&transfer.told(before)?);
        }
        // The hold stays as it was, free to be released.
        Verdict::Refused(_) => after.claim = None,
    }
    Ok(after)
}
