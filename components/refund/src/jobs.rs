//! The task of `refund-tasks`: the sweep for refunds that are stuck.

use http::Method;
use innover_kit::{
    Cx, Db, Job, Result, call, ids,
    jobs::{Handled, Running, Task},
    log,
};
use serde::Deserialize;
use serde_json::json;

use crate::store::{self, End, Refund, Writer};

/// The sweep.
pub const SWEEP: Task = Task::new("refund.sweep", &[], sweep);
/// A refund that is pending for this long is looked at: far longer than the few milliseconds the
/// ledger takes, and than the backlog a burst can build up.
const STUCK_AFTER_US: i64 = 120_000_000;
/// Refunds one sweep looks at; the rest is the next sweep's, ten seconds later.
const SWEEP_MAX: i64 = 50;

/// What the ledger says of a refund it was asked to refuse from now on.
#[derive(Deserialize)]
struct Settlement {
    /// Set when the refund had been booked already.
    entry_id: Option<String>,
}

impl From<Settlement> for End {
    fn from(settlement: Settlement) -> End {
        match settlement.entry_id {
            Some(entry_id) => End::Booked { entry_id },
            None => End::Refused {
                code: "timed_out".into(),
                detail: "it was not booked in time and will not be".into(),
            },
        }
    }
}

/// `refund.sweep()`: ends refunds that are pending for two minutes, one way or the other.
///
/// The ledger decides, since only it knows whether money moved: asked to refuse the refund, it
/// either says that it is booked, or records a refusal that any later attempt to book it meets.
pub fn sweep<'a>(cx: &'a Cx, db: &'a Db, jobs: &'a [Job]) -> Running<'a> {
    Box::pin(async move {
        let stuck = store::stuck(db, ids::now_us() - STUCK_AFTER_US, SWEEP_MAX).await?;
        let mut writer = Writer::default();
        let mut swept = 0;
        for refund in &stuck {
            match settle(cx, refund).await {
                Ok(settlement) => {
                    swept += 1;
                    writer.end(refund, &settlement.into(), &refund.cause());
                }
                // The next sweep asks again; nothing was decided.
                Err(failure) => log::warn(
                    cx,
                    "a stuck refund could not be settled",
                    &[
                        ("refund_id", refund.id.as_str().into()),
                        ("error", failure.to_string().into()),
                    ],
                ),
            }
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

async fn settle(cx: &Cx, refund: &Refund) -> Result<Settlement> {
    let path = format!("/v1/refunds/{}/refuse", refund.id);
    call::json(cx, Method::POST, "ledger", &path, Some(&json!({})), true).await
}
