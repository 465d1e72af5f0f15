//! Copies the log into the database file, so that it can start again from its beginning.
//!
//! SQLite would do this inside some guest's commit. Here a thread of its own does the bulk while
//! writers go on, and then the little they added meanwhile, under the write lock: only a log that is
//! copied to its last page starts again, and under load it would otherwise grow for ever.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::Database;
use crate::limits;

pub(super) struct Checkpoints {
    sqlite: Mutex<rusqlite::Connection>,
    running: AtomicBool,
    /// Pages in the log at which the next one is due.
    next: AtomicU32,
}

impl Checkpoints {
    pub(super) fn new(sqlite: rusqlite::Connection) -> Self {
        Self {
            sqlite: Mutex::new(sqlite),
            running: AtomicBool::new(false),
            next: AtomicU32::new(limits::CHECKPOINT_PAGES),
        }
    }

    /// Whether the caller is to start one.
    pub(super) fn due(&self, pages: u32) -> bool {
        pages >= self.next.load(Ordering::Relaxed) && !self.running.swap(true, Ordering::Relaxed)
    }

    /// Copies what no reader holds back. Returns the pages in the log and how many are copied.
    fn copy(&self) -> rusqlite::Result<(u32, u32)> {
        let sqlite = self.sqlite.lock().unwrap_or_else(PoisonError::into_inner);
        sqlite.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| {
            Ok((row.get(1)?, row.get(2)?))
        })
    }
}

/// One checkpoint. A failed one is tried again when the log has grown by as much again; until then
/// the log is simply longer.
pub(super) async fn run(database: Arc<Database>) {
    let (bulk, copied) = copy(&database).await;
    let mut left = bulk;
    if copied > 0
        && let Ok(guard) = database.lock(0, false).await
    {
        let (pages, copied) = copy(&database).await;
        drop(guard);
        left = pages.saturating_sub(copied);
    }
    // Someone reads an old snapshot: later.
    let next = left.saturating_add(limits::CHECKPOINT_PAGES);
    database.checkpoints.next.store(next, Ordering::Relaxed);
    database.checkpoints.running.store(false, Ordering::Relaxed);
}

async fn copy(database: &Arc<Database>) -> (u32, u32) {
    let this = Arc::clone(database);
    match tokio::task::spawn_blocking(move || this.checkpoints.copy()).await {
        Ok(Ok(pages)) => pages,
        Ok(Err(error)) => {
            tracing::warn!(database = database.label, %error, "checkpoint failed");
            (0, 0)
        }
        // The runtime ends.
        Err(_) => (0, 0),
    }
}
