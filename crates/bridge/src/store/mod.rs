//! The bridge's own SQLite file and the one writer that owns it.
//!
//! Every change is a command to the writer. It takes all commands that wait, runs each inside a
//! savepoint of one transaction, commits once and answers them all: a thousand publishes a second
//! share a few hundred fsyncs.
//!
//! **What is durable when.** A command says whether its commit must survive a power cut
//! ([`Durability::Full`]: `synchronous=FULL`, an fsync) or only a crash of the process
//! ([`Durability::Normal`]: no fsync). Almost everything is `Normal`, because a second copy exists:
//! a published event stays in its outbox until a `Full` commit has covered it ([`barrier`]), and
//! what a delivery did is in the consumer's inbox. Commits are lost from the end only, never from
//! the middle, so a cursor cannot outlive the event it passed. `Full` are what has no other copy (a
//! job pushed by hand) and the barrier that comes before an outbox row is deleted.

pub(crate) mod events;
pub(crate) mod readers;

use std::{
    fs::{File, OpenOptions},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, OptionalExtension};
use tokio::sync::{mpsc, oneshot};

use crate::{
    config::StartError,
    limits::{BUSY_TIMEOUT, STORE_GROUP, STORE_QUEUE},
};
use readers::Readers;

const SCHEMA: &str = include_str!("schema.sql");
const SCHEMA_VERSION: i64 = 2;
/// From version 1: jobs may be revoked.
const TO_2: &str = "DROP INDEX jobs_finished;
    CREATE INDEX jobs_finished ON jobs (finished_at) WHERE state IN ('done', 'revoked');";

/// Why a command had no effect. The text is shared by all commands of one commit.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite refused.
    #[error("{0}")]
    Sqlite(String),
    /// The file system refused.
    #[error("{0}")]
    Io(String),
    /// A service's PostgreSQL refused, or cannot be reached.
    #[error("PostgreSQL: {0}")]
    Postgres(String),
    /// The file was written by a later version of Innover.
    #[error("schema version {found} is newer than this program's {known}; use the newer program")]
    Newer {
        /// The file's version.
        found: i64,
        /// The latest version this program knows.
        known: i64,
    },
    /// Kafka did not take what was to be published.
    #[error("Kafka: {0}")]
    Bus(String),
    /// An outbox whose events Kafka did not take is left alone for a moment. That was said before.
    #[error("Kafka took no events; for a moment another bridge may try")]
    Yields,
    /// The writer has ended, or a blocking task was cancelled at shutdown.
    #[error("the bridge's store is closed")]
    Closed,
}

impl From<std::io::Error> for StoreError {
    fn from(error: std::io::Error) -> StoreError {
        StoreError::Io(error.to_string())
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> StoreError {
        StoreError::Sqlite(error.to_string())
    }
}

/// What a commit survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Durability {
    /// A crash of the process.
    Normal,
    /// A power cut.
    Full,
}

/// Called with the commit's outcome.
type Reply = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// Makes the change, or learns why it cannot be made.
type Work = Box<dyn FnOnce(Result<&Connection, StoreError>) -> Reply + Send>;

struct Command {
    durability: Durability,
    work: Work,
}

/// A handle to the writer and the readers.
#[derive(Clone)]
pub(crate) struct Store {
    commands: mpsc::Sender<Command>,
    readers: Readers,
    checkpoints: Arc<Mutex<Connection>>,
}

/// The exclusive claim on a store: two bridges on one file would deliver everything twice.
pub(crate) struct Claim {
    _file: File,
}

/// Opens a connection with the settings every connection to the store has.
pub(crate) fn open(path: &Path) -> Result<Connection, StoreError> {
    let connection = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_CREATE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(64);
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    // The housekeeper copies the WAL back (`Store::checkpoint`). Only a writer can start it anew, and
    // does when it finds 32 MB of it all but copied.
    connection.pragma_update(None, "wal_autocheckpoint", 8_000)?;
    // Plans do not depend on the values bound, so none is made twice.
    connection.set_db_config(
        rusqlite::config::DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG,
        true,
    )?;
    connection.pragma_update(None, "cache_size", -16_000)?;
    migrate(&connection)?;
    Ok(connection)
}

fn migrate(connection: &Connection) -> Result<(), StoreError> {
    let version = |c: &Connection| c.query_row("PRAGMA user_version", [], |r| r.get::<_, i64>(0));
    if version(connection)? == SCHEMA_VERSION {
        return Ok(());
    }
    connection.execute_batch("BEGIN IMMEDIATE")?;
    // Read again under the lock: two processes may open a new file at once.
    let found = version(connection)?;
    let bring = |script: &str| {
        connection
            .execute_batch(script)
            .and_then(|()| connection.pragma_update(None, "user_version", SCHEMA_VERSION))
            .map_err(StoreError::from)
    };
    let done = match found {
        0 => bring(SCHEMA),
        1 => bring(TO_2),
        SCHEMA_VERSION => Ok(()),
        found => Err(StoreError::Newer {
            found,
            known: SCHEMA_VERSION,
        }),
    };
    connection.execute_batch(if done.is_ok() { "COMMIT" } else { "ROLLBACK" })?;
    done
}

/// Claims the file for this process.
pub(crate) fn claim(path: &Path) -> Result<Claim, StartError> {
    let io = |e: std::io::Error| StartError::Store {
        path: path.into(),
        source: e.into(),
    };
    if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(io)?;
    }
    let lock_path = path.with_extension("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(lock_path)
        .map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(Claim { _file: file }),
        Err(std::fs::TryLockError::WouldBlock) => Err(StartError::InUse(path.into())),
        Err(std::fs::TryLockError::Error(e)) => Err(io(e)),
    }
}

impl Store {
    /// Opens the file and starts its writer, which ends when the last handle is dropped.
    pub(crate) fn start(path: PathBuf, claim: Claim) -> Result<Store, StoreError> {
        let connection = open(&path)?;
        let checkpoints = Arc::new(Mutex::new(open(&path)?));
        let (commands, inbox) = mpsc::channel(STORE_QUEUE);
        // Not tied to the bridge's tasks: a command that was accepted is carried out even when its
        // sender is gone, and only then the claim on the file is given up.
        tokio::spawn(write_loop(connection, inbox, claim));
        Ok(Store {
            commands,
            readers: Readers::new(path),
            checkpoints,
        })
    }

    /// Runs `work` in the next commit.
    ///
    /// # Errors
    /// Its own error (nothing of it is kept), or the commit's.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        durability: Durability,
        work: impl FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.write_then(durability, work, |_| ()).await
    }

    /// As [`Store::write`], and calls `after` once it is committed, in commit order.
    pub(crate) async fn write_then<T: Send + 'static>(
        &self,
        durability: Durability,
        work: impl FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
        after: impl FnOnce(&T) + Send + 'static,
    ) -> Result<T, StoreError> {
        let (sender, receiver) = oneshot::channel();
        let work = move |connection: Result<&Connection, StoreError>| -> Reply {
            let outcome = connection.and_then(|connection| in_savepoint(connection, work));
            Box::new(move |commit| {
                let outcome = commit.and(outcome);
                if let Ok(value) = &outcome {
                    after(value);
                }
                // The caller may have been dropped; its change stands.
                let _ = sender.send(outcome);
            })
        };
        let command = Command {
            durability,
            work: Box::new(work),
        };
        self.commands
            .send(command)
            .await
            .map_err(|_| StoreError::Closed)?;
        receiver.await.map_err(|_| StoreError::Closed)?
    }

    /// Copies committed pages from the WAL into the file without holding up the writer, which would
    /// otherwise do it in the middle of a commit: tens of milliseconds that every event waits for.
    pub(crate) async fn checkpoint(&self) -> Result<(), StoreError> {
        let checkpoints = self.checkpoints.clone();
        let task = tokio::task::spawn_blocking(move || {
            let connection = checkpoints.lock().unwrap_or_else(PoisonError::into_inner);
            connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
        });
        Ok(task.await.map_err(|_| StoreError::Closed)??)
    }

    /// Runs a query on a read connection, outside the runtime's threads.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.readers.read(query).await
    }
}

/// A command that fails must not take its neighbours' changes with it.
fn in_savepoint<T>(
    connection: &Connection,
    work: impl FnOnce(&Connection) -> Result<T, rusqlite::Error>,
) -> Result<T, StoreError> {
    connection
        .prepare_cached("SAVEPOINT command")?
        .execute([])?;
    let outcome = work(connection);
    if outcome.is_err() {
        connection
            .prepare_cached("ROLLBACK TO command")?
            .execute([])?;
    }
    connection.prepare_cached("RELEASE command")?.execute([])?;
    Ok(outcome?)
}

async fn write_loop(mut connection: Connection, mut inbox: mpsc::Receiver<Command>, claim: Claim) {
    let mut current = Durability::Full;
    loop {
        let mut group = Vec::new();
        if inbox.recv_many(&mut group, STORE_GROUP).await == 0 {
            break;
        }
        let wanted = group
            .iter()
            .map(|c| c.durability)
            .max()
            .unwrap_or(Durability::Full);
        // spawn_blocking rather than a thread of its own: tokio's paused test clock stands still
        // while it runs.
        let committed = tokio::task::spawn_blocking(move || {
            let outcome = run_group(&connection, group, current, wanted);
            (connection, outcome)
        });
        match committed.await {
            Ok((back, now)) => (connection, current) = (back, now),
            Err(error) => {
                tracing::error!(%error, "the bridge's store ended");
                break;
            }
        }
    }
    drop(claim);
}

/// Runs a group in one transaction and answers its commands; returns the connection's durability.
fn run_group(
    connection: &Connection,
    group: Vec<Command>,
    current: Durability,
    wanted: Durability,
) -> Durability {
    let mut now = current;
    let begun = (|| {
        if wanted != current {
            let level = if wanted == Durability::Full {
                "FULL"
            } else {
                "NORMAL"
            };
            connection.pragma_update(None, "synchronous", level)?;
            now = wanted;
        }
        connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])
    })();
    let begun = begun.map(drop).map_err(StoreError::from);
    let run = |command: Command| {
        // SQLite ends the transaction by itself when the disk is full or fails. A savepoint outside
        // of one would commit on its own, so whatever follows is refused.
        let open = match &begun {
            Ok(()) if connection.is_autocommit() => {
                Err(StoreError::Sqlite("the commit was given up".into()))
            }
            Ok(()) => Ok(connection),
            Err(error) => Err(error.clone()),
        };
        (command.work)(open)
    };
    let replies: Vec<Reply> = group.into_iter().map(run).collect();
    let commit = begun.and_then(|()| {
        let commit = connection
            .prepare_cached("COMMIT")
            .and_then(|mut s| s.execute([]));
        if commit.is_err() && !connection.is_autocommit() {
            let _ = connection.execute_batch("ROLLBACK");
        }
        commit.map(drop).map_err(StoreError::from)
    });
    for reply in replies {
        reply(commit.clone());
    }
    now
}

/// A change whose only purpose is its commit: an fsync covers everything written before it, and
/// SQLite makes none for a transaction that wrote nothing.
pub(crate) fn barrier(connection: &Connection, now: i64) -> Result<(), rusqlite::Error> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO meta (key, value) VALUES ('barrier', ?1)")?
        .execute([now.to_string()])
        .map(drop)
}

/// This file's identity and the number of this life, for lease owners: `<instance>/<life>`.
pub(crate) fn next_life(connection: &Connection) -> Result<(String, i64), rusqlite::Error> {
    let get = |key| {
        connection
            .query_row("SELECT value FROM meta WHERE key = ?1", [key], |r| {
                r.get::<_, String>(0)
            })
            .optional()
    };
    let instance = get("instance")?.unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
    let life = get("life")?
        .and_then(|l| l.parse::<i64>().ok())
        .unwrap_or(0)
        + 1;
    let mut put =
        connection.prepare_cached("INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)")?;
    put.execute(["instance", &instance])?;
    put.execute(["life", &life.to_string()])?;
    Ok((instance, life))
}

/// Time as SQL takes it.
pub(crate) fn micros_before(now: i64, age: Duration) -> i64 {
    now.saturating_sub(crate::clock::micros(age))
}
