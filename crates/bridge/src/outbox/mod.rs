//! A service's outbox, wherever its database is: what the relay reads and deletes.
//!
//! An outbox is read in commit order per key. Rows that are read stay until they are deleted, and are
//! not read again meanwhile; after an error, or in another process, they are.

mod file;
mod server;

use std::sync::Arc;

use tokio::sync::Notify;

use crate::{
    config::{Database, Place},
    door::WriteGate,
    store::StoreError,
};

/// A row of an outbox.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) topic: String,
    pub(crate) key: String,
    pub(crate) kind: String,
    pub(crate) payload: String,
    pub(crate) headers: String,
    pub(crate) created_at: i64,
    /// What tells it apart when it has no id that does.
    pub(crate) place: String,
}

/// An open outbox.
pub(crate) enum Outbox {
    /// In a SQLite file.
    File(file::File),
    /// In PostgreSQL.
    Server(server::Server),
}

impl Outbox {
    /// Opens a database's outbox. `owner` names this bridge: of several on one outbox one relays.
    /// `wake` is rung when another process says that it has committed there.
    pub(crate) async fn open(
        database: &Database,
        owner: &str,
        wake: &Arc<Notify>,
    ) -> Result<Outbox, StoreError> {
        Ok(match &database.place {
            Place::File(path) => Outbox::File(file::File::open(path.clone()).await?),
            Place::Server { url, authority } => {
                Outbox::Server(server::Server::open(url, authority.as_deref(), owner, wake).await?)
            }
        })
    }

    /// The rows that were not read yet, at most `RELAY_ROWS_MAX`.
    pub(crate) async fn read(&mut self) -> Result<Vec<Row>, StoreError> {
        match self {
            Outbox::File(file) => file.read().await,
            Outbox::Server(server) => server.read().await,
        }
    }

    /// The oldest jobs that are there, at most `RELAY_ROWS_MAX`, for when events do not flow. Read with
    /// an outbox that is used for nothing else, and delete before the next read.
    pub(crate) async fn read_jobs(&mut self) -> Result<Vec<Row>, StoreError> {
        match self {
            Outbox::File(file) => file.read_jobs().await,
            Outbox::Server(server) => server.read_jobs().await,
        }
    }

    /// How many rows were read and are still there.
    pub(crate) fn undeleted(&self) -> usize {
        match self {
            Outbox::File(file) => file.undeleted(),
            Outbox::Server(server) => server.undeleted(),
        }
    }

    /// Deletes what was read; it is published, durably. On an error the outbox must be opened anew.
    pub(crate) async fn delete(
        &mut self,
        gate: &Arc<dyn WriteGate>,
        label: &str,
    ) -> Result<(), StoreError> {
        match self {
            Outbox::File(file) => {
                let _turn = gate.lock(label).await;
                file.delete().await
            }
            Outbox::Server(server) => server.delete().await,
        }
    }
}
