//! A service's outbox, wherever its database is: what the relay reads and deletes.
//!
//! An outbox is read in commit order per key. Rows that are read stay until they are deleted, and are
//! not read again meanwhile; after an error, or in another process, they are.

mod file;
mod server;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::{sync::Notify, time::Instant};

use crate::{
    config::{Database, Place},
    door::WriteGate,
    limits::{RELAY_LEASE, RELAY_YIELD},
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

/// A bridge's claim on an outbox that several see, as each of its connections there knows it.
pub(crate) struct Lease {
    /// Names this bridge: of several on one outbox one relays.
    owner: String,
    state: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    /// Until when the claim surely holds.
    until: Option<Instant>,
    /// The bus does not take events. Then the claim is not renewed, and for a moment after its end it
    /// is not taken again, so that a bridge whose bus does can have the outbox.
    stuck: bool,
}

/// What is to be done to relay now.
#[derive(Debug, PartialEq, Eq)]
enum Claim {
    Holds,
    Ask,
    /// It is another bridge's turn.
    Yield,
}

impl Lease {
    pub(crate) fn of(owner: String) -> Lease {
        Lease {
            owner,
            state: Mutex::default(),
        }
    }

    /// Says whether the bus takes events.
    pub(crate) fn events_flow(&self, they_do: bool) {
        self.held().stuck = !they_do;
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn claim(&self, now: Instant) -> Claim {
        let held = self.held();
        match held.until {
            Some(until) if held.stuck && now < until => Claim::Holds,
            Some(until) if held.stuck && now < until + RELAY_YIELD => Claim::Yield,
            Some(until) if !held.stuck && now + RELAY_LEASE / 2 < until => Claim::Holds,
            _ => Claim::Ask,
        }
    }

    /// What came of asking at this moment.
    fn asked(&self, at: Instant, taken: bool) {
        self.held().until = taken.then_some(at + RELAY_LEASE);
    }
}

/// An open outbox.
pub(crate) enum Outbox {
    /// In a SQLite file.
    File(file::File),
    /// In PostgreSQL.
    Server(server::Server),
}

impl Outbox {
    /// Opens a database's outbox. `wake` is rung when another process says that it has committed there.
    pub(crate) async fn open(
        database: &Database,
        lease: &Arc<Lease>,
        wake: &Arc<Notify>,
    ) -> Result<Outbox, StoreError> {
        Ok(match &database.place {
            Place::File(path) => Outbox::File(file::File::open(path.clone()).await?),
            Place::Server { url, authority } => {
                Outbox::Server(server::Server::open(url, authority.as_deref(), lease, wake).await?)
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
