//! The tasks of `ledger-tasks`.

use innover_kit::{
    Cx, Db, Job,
    jobs::{Handled, Running},
};
use serde_json::json;

use crate::checkpoints;

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
