//! The tasks of `ledger-tasks`.

use innover_kit::{
    Cause, Cx, Db, Job,
    jobs::{Handled, Running, Task},
};
use serde_json::json;

use crate::{checkpoints, settling};

/// Signs the heads of all accounts.
pub const CHECKPOINT: Task = Task::new("ledger.checkpoint", &[], checkpoint);
/// Gives back reservations.
pub const EXPIRE: Task = Task::new("ledger.expire", &[], expire);

/// `ledger.checkpoint()`: signs the heads of all accounts; the result is the checkpoint's number,
/// null when nothing happened since the last one.
pub fn checkpoint<'a>(_cx: &'a Cx, db: &'a Db, jobs: &'a [Job]) -> Running<'a> {
    Box::pin(async move {
        let mut handled = Handled::default();
        let made = checkpoints::next(db, &mut handled.batch).await?;
        // However many jobs waited for one, one does for all of them.
        for job in jobs {
            let number = made.as_ref().map(|line| line.number);
            handled.results.insert(job.id.clone(), json!(number));
        }
        Ok(handled)
    })
}

/// `ledger.expire()`: gives back the reservations nobody settled in time; the result is how many.
pub fn expire<'a>(_cx: &'a Cx, db: &'a Db, jobs: &'a [Job]) -> Running<'a> {
    Box::pin(async move {
        let mut handled = Handled::default();
        let Some(first) = jobs.first() else {
            return Ok(handled);
        };
        let cause = Cause::from(first);
        let expired = settling::expire(db, &mut handled.batch, &cause).await?;
        // However many jobs waited for one, one does for all of them.
        for job in jobs {
            handled.results.insert(job.id.clone(), json!(expired));
        }
        Ok(handled)
    })
}
