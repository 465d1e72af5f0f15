//! SQLite databases: pooled connections, one asynchronous write lock per database, group commit.
//!
//! SQLite lets one writer in at a time. Left to its own busy handler, a waiting writer would sleep
//! on a thread the holder needs to finish; here it waits as a task ([`lock`]). A connection takes the
//! lock before its first statement that writes (BEGIN IMMEDIATE is one) and gives it back when SQLite
//! is in autocommit mode again, so COMMIT, ROLLBACK, a failing autocommit statement and a dropped
//! connection all release it. No commit waits for the disk; answers do ([`disk`]). Nor does a commit
//! copy the log into the database: [`checkpoint`] does, aside.

mod checkpoint;
mod connection;
mod disk;
mod lock;
mod policy;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use rusqlite::OpenFlags;
use rusqlite::config::DbConfig;
use tokio::sync::watch;

use crate::limits;
use crate::metrics::Metrics;
use checkpoint::Checkpoints;
use disk::Disk;
use lock::WriteLock;

pub(crate) use connection::Connection;
pub(crate) use disk::Seen;
pub use lock::WriteGuard;

/// An open database file, by its label.
pub(crate) struct Database {
    label: String,
    path: PathBuf,
    lock: Arc<WriteLock>,
    disk: Arc<Disk>,
    checkpoints: Checkpoints,
    idle: Mutex<Vec<connection::Session>>,
    commits: Arc<AtomicU64>,
    signal: watch::Sender<()>,
    metrics: Arc<Metrics>,
}

/// The write lock was not to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LockError {
    /// Nobody gave it back in time.
    #[error("database is locked")]
    Timeout,
    /// The holder is another task of the same guest instance, which cannot run while this one
    /// waits in a synchronous call.
    #[error(
        "database is locked by another request of this instance: use the async function to wait"
    )]
    SameInstance,
}

impl Database {
    /// Opens or creates the file, switches it to WAL and keeps one connection ready.
    fn open(
        label: &str,
        path: &Path,
        signal: watch::Sender<()>,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("database {label}: cannot make {}", folder.display()))?;
        }
        let describe = || format!("database {label}: cannot open {}", path.display());
        // The first connection stays open as long as the database: SQLite deletes the log with the
        // last one.
        let first = connect(path).with_context(describe)?;
        // A read creates the log and registers the connection with it.
        first
            .query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
            .with_context(describe)?;
        let disk = Disk::open(path).with_context(describe)?;
        Ok(Self {
            label: label.to_owned(),
            path: path.to_owned(),
            lock: Arc::default(),
            disk: Arc::new(disk),
            checkpoints: Checkpoints::new(first),
            idle: Mutex::default(),
            commits: Arc::default(),
            signal,
            metrics,
        })
    }

    fn connect(&self) -> rusqlite::Result<connection::Session> {
        connection::Session::new(connect(&self.path)?, &self.disk)
    }

    fn take(&self) -> rusqlite::Result<connection::Session> {
        let kept = self
            .idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        kept.map_or_else(|| self.connect(), Ok)
    }

    fn give_back(&self, session: connection::Session) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < limits::CONNECTIONS_IDLE_MAX {
            idle.push(session);
        }
    }

    /// Waits for the write lock, at most [`limits::DATABASE_LOCK_WAIT`]. `instance` says who asks
    /// (0 is native code); `blocks_instance` that nothing else of it runs meanwhile.
    async fn lock(&self, instance: u64, blocks_instance: bool) -> Result<WriteGuard, LockError> {
        if let Some(guard) = self.lock.try_lock(instance) {
            return Ok(guard);
        }
        if blocks_instance && instance != 0 && self.lock.holder() == instance {
            return Err(LockError::SameInstance);
        }
        let asked = Instant::now();
        let waiting = self.lock.lock(instance);
        let guard = tokio::time::timeout(limits::DATABASE_LOCK_WAIT, waiting).await;
        self.metrics
            .database_wait(&self.label, asked.elapsed(), guard.is_ok());
        guard.map_err(|_| LockError::Timeout)
    }

    /// Something was committed; the log now has `pages`. The caller still holds the write lock.
    fn committed(self: &Arc<Self>, pages: u32) {
        self.disk.finish();
        self.commits.fetch_add(1, Ordering::Release);
        self.signal.send_replace(());
        if self.checkpoints.due(pages) {
            tokio::spawn(checkpoint::run(Arc::clone(self)));
        }
    }
}

/// Opens a file as every connection to it is opened.
fn connect(path: &Path) -> rusqlite::Result<rusqlite::Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let sqlite = rusqlite::Connection::open_with_flags(path, flags)?;
    // Before the policy is in place: guests may not change any of these. NORMAL: see `disk`.
    sqlite.busy_timeout(limits::DATABASE_LOCK_WAIT)?;
    sqlite.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA foreign_keys = ON;",
    )?;
    // From here on waiting is done by tasks (see `Connection::execute`), not inside SQLite.
    sqlite.busy_timeout(Duration::ZERO)?;
    sqlite.set_prepared_statement_cache_capacity(limits::STATEMENTS_CACHED);
    // A statement is planned once, not again for every value that is bound.
    sqlite.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(sqlite)
}

/// All databases of the application.
pub(crate) struct Databases {
    by_label: BTreeMap<String, Arc<Database>>,
    /// Commits by label, also of databases that are no files.
    commits: BTreeMap<String, Arc<AtomicU64>>,
    signal: watch::Sender<()>,
}

impl Databases {
    /// Opens the files, and knows of databases elsewhere by their `labels`.
    pub(crate) fn open<'a>(
        files: &BTreeMap<String, PathBuf>,
        labels: impl Iterator<Item = &'a str>,
        metrics: &Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        let (signal, _) = watch::channel(());
        let by_label: BTreeMap<_, _> = files
            .iter()
            .map(|(label, path)| {
                let database = Database::open(label, path, signal.clone(), Arc::clone(metrics))?;
                Ok((label.clone(), Arc::new(database)))
            })
            .collect::<anyhow::Result<_>>()?;
        let mut commits: BTreeMap<String, Arc<AtomicU64>> = labels
            .map(|label| (label.to_owned(), Arc::default()))
            .collect();
        commits.extend(
            by_label
                .iter()
                .map(|(label, db): (&String, &Arc<Database>)| {
                    (label.clone(), Arc::clone(&db.commits))
                }),
        );
        Ok(Self {
            by_label,
            commits,
            signal,
        })
    }

    /// A database that is no file here has been written to.
    pub(crate) fn committed_elsewhere(&self, label: &str) {
        if let Some(commits) = self.commits.get(label) {
            commits.fetch_add(1, Ordering::Release);
            self.signal.send_replace(());
        }
    }

    pub(crate) fn get(&self, label: &str) -> Option<&Arc<Database>> {
        self.by_label.get(label)
    }

    /// The write lock for native code that works on the same file.
    pub(crate) async fn lock(&self, label: &str) -> Option<Result<WriteGuard, LockError>> {
        let database = self.by_label.get(label)?;
        Some(database.lock(0, false).await)
    }

    /// Returns when all that is committed in a database now is on disk.
    pub(crate) async fn settle(&self, label: &str) {
        if let Some(database) = self.by_label.get(label) {
            database.disk.wait(database.disk.seen()).await;
        }
    }

    pub(crate) fn commits(&self) -> Commits {
        Commits {
            seen: self
                .commits
                .iter()
                .map(|(label, commits)| (label.clone(), Arc::clone(commits), 0))
                .collect(),
            signal: self.signal.subscribe(),
        }
    }
}

/// Tells which databases guests committed to. Commits are counted, not queued: however slowly a
/// reader comes back, the committer never waits and the reader misses no label.
pub struct Commits {
    seen: Vec<(String, Arc<AtomicU64>, u64)>,
    signal: watch::Receiver<()>,
}

impl Commits {
    /// The labels committed to since the last call (since the start, the first time); waits until
    /// there is one. `None` when the host is gone.
    pub async fn changed(&mut self) -> Option<Vec<String>> {
        loop {
            // Marked as seen before the counters are read, so that a commit in between wakes again.
            self.signal.borrow_and_update();
            let mut labels = Vec::new();
            for (label, commits, seen) in &mut self.seen {
                let now = commits.load(Ordering::Acquire);
                if now != *seen {
                    *seen = now;
                    labels.push(label.clone());
                }
            }
            if !labels.is_empty() {
                return Some(labels);
            }
            self.signal.changed().await.ok()?;
        }
    }
}
