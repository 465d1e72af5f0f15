//! The task of `rules-tasks`: forgetting what no decision needs any more.

use innover_kit::{
    Batch, Cx, Db, Job, ids,
    jobs::{Handled, Running, Task},
};
use serde_json::Value;

use crate::{store, velocity::HOUR_US};

/// Forgets old payments and old decisions in shadow; a schedule starts it.
pub const FORGET: Task = Task::new("rules.forget", &[], forget);
/// Twice the longest window, so that what is delivered late still meets its row.
const PAYMENTS_KEPT_US: i64 = 48 * HOUR_US;
/// Long enough to judge a candidate by a month of payments.
const DECISIONS_KEPT_US: i64 = 30 * 24 * HOUR_US;

/// `rules.forget()`.
pub fn forget<'a>(_: &'a Cx, _: &'a Db, jobs: &'a [Job]) -> Running<'a> {
    let now = ids::now_us();
    let mut batch = Batch::new();
    store::forget(&mut batch, now - PAYMENTS_KEPT_US, now - DECISIONS_KEPT_US);
    let results = jobs.iter().map(|job| (job.id.clone(), Value::Null));
    let handled = Handled {
        batch,
        results: results.collect(),
        ..Handled::default()
    };
    Box::pin(std::future::ready(Ok(handled)))
}
