//! Sessions by address, and how many there are.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_postgres::CancelToken;

use super::session::{Lease, Session};
use crate::{limits, metrics};

/// What a guest gave: an address, and the certificate of its authority.
type Key = (String, Option<String>);

/// A server, a database and whom to be there.
pub(crate) struct Address {
    server: innover_postgres::Address,
    key: Key,
    pool: Arc<Pool>,
    answered: AtomicBool,
}

/// Why there is no session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreachable {
    #[error("all {0} connections to PostgreSQL are in use: try again")]
    Busy(usize),
    #[error(transparent)]
    Server(#[from] innover_postgres::Unreachable),
}

/// Every server that guests reach.
pub(crate) struct Servers {
    addresses: Mutex<HashMap<Key, Arc<Address>>>,
    pool: Arc<Pool>,
}

struct Pool {
    size: usize,
    /// Sessions that were opened since the start.
    opened: AtomicU64,
    /// Statements that found no session within the time.
    given_up: AtomicU64,
    /// One permit per session that is lent.
    slots: Arc<Semaphore>,
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    by_address: HashMap<Key, Vec<Session>>,
    count: usize,
}

impl Idle {
    /// The newest of an address: the others may end of old age.
    fn take(&mut self, key: &Key) -> Option<Session> {
        let sessions = self.by_address.get_mut(key)?;
        while let Some(session) = sessions.pop() {
            self.count -= 1;
            if session.is_usable() {
                return Some(session);
            }
        }
        None
    }

    /// Closes what is too old, and beyond `keep` the oldest.
    fn shrink(&mut self, keep: usize) {
        for sessions in self.by_address.values_mut() {
            sessions.retain(Session::is_usable);
        }
        self.by_address.retain(|_, sessions| !sessions.is_empty());
        self.count = self.by_address.values().map(Vec::len).sum();
        while self.count > keep {
            // Each address' sessions are in the order they came back.
            let oldest = self
                .by_address
                .values_mut()
                .filter(|sessions| !sessions.is_empty())
                .min_by_key(|sessions| sessions[0].idle_since());
            let Some(sessions) = oldest else { break };
            drop(sessions.remove(0));
            self.count -= 1;
        }
    }
}

/// The right to one of the pool's sessions.
pub(super) struct Slot {
    _permit: OwnedSemaphorePermit,
}

impl Slot {
    /// Keeps the session for whoever comes next. The slot is free a moment later, so that its waiter
    /// finds the session.
    pub(super) fn give_back(self, address: &Address, session: Session) {
        let mut idle = address.pool.idle();
        let sessions = idle.by_address.entry(address.key.clone()).or_default();
        sessions.push(session);
        // The newest is lent first, so after a burst nobody else would look at the oldest.
        match sessions[0].is_usable() {
            true => idle.count += 1,
            false => drop(sessions.remove(0)),
        }
    }
}

impl Pool {
    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Servers {
    /// At most `size` sessions, lent and idle ones together.
    pub(crate) fn new(size: usize) -> Servers {
        Servers {
            addresses: Mutex::default(),
            pool: Arc::new(Pool {
                size,
                opened: AtomicU64::new(0),
                given_up: AtomicU64::new(0),
                slots: Arc::new(Semaphore::new(size)),
                idle: Mutex::default(),
            }),
        }
    }

    /// The pool in Prometheus' text format; nothing when no guest has used it.
    pub(crate) fn render(&self, out: &mut String) {
        let unused = self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_empty();
        if unused {
            return;
        }
        let pool = &self.pool;
        let name = "innover_postgres_connections";
        metrics::head(out, name, "Connections to PostgreSQL.", "gauge");
        let lent = pool.size - pool.slots.available_permits();
        for (state, count) in [("lent", lent), ("idle", pool.idle().count)] {
            metrics::line(out, name, "", &format!("state=\"{state}\""), count);
        }
        for (name, help, kind, value) in [
            (
                "innover_postgres_connections_max",
                "The most connections there are at once.",
                "gauge",
                pool.size as u64,
            ),
            (
                "innover_postgres_connections_opened_total",
                "Connections made.",
                "counter",
                pool.opened.load(Relaxed),
            ),
            (
                "innover_postgres_connections_refused_total",
                "Statements that found no free connection in time.",
                "counter",
                pool.given_up.load(Relaxed),
            ),
        ] {
            metrics::head(out, name, help, kind);
            metrics::line(out, name, "", "", value);
        }
    }

    /// Reads an address, once; connects to nothing yet. `authority` is a certificate in PEM.
    pub(crate) fn address(
        &self,
        address: &str,
        authority: Option<&str>,
    ) -> Result<Arc<Address>, Unreachable> {
        let key = (address.to_owned(), authority.map(str::to_owned));
        let mut known = self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(address) = known.get(&key) {
            return Ok(Arc::clone(address));
        }
        let server =
            innover_postgres::Address::parse(address, authority, limits::POSTGRES_STATEMENT)?;
        let address = Arc::new(Address {
            server,
            key: key.clone(),
            pool: Arc::clone(&self.pool),
            answered: AtomicBool::new(false),
        });
        // Guests make addresses up as they like.
        if known.len() >= limits::POSTGRES_ADDRESSES_MAX {
            known.clear();
        }
        known.insert(key, Arc::clone(&address));
        Ok(address)
    }
}

impl Address {
    /// Whether a connection goes to [`Address::hosts`] and nowhere else.
    pub(crate) fn names_its_hosts(&self) -> bool {
        self.server.names_its_hosts()
    }

    /// Hosts and ports, for permissions. `None`: a Unix socket.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = Option<(&str, u16)>> {
        self.server.hosts()
    }

    /// Whether somebody has ever answered there. Who opens a connection is told if not; else the first
    /// statement finds out, and nobody waits for a session that is not used.
    pub(crate) fn has_answered(&self) -> bool {
        self.answered.load(Relaxed)
    }

    /// Lends a session, an idle one or a new one. Waits a bounded time for one to be free.
    pub(crate) async fn lease(self: &Arc<Self>) -> Result<Lease, Unreachable> {
        let pool = &self.pool;
        let waited = tokio::time::timeout(
            limits::POSTGRES_WAIT,
            Arc::clone(&pool.slots).acquire_owned(),
        );
        let Ok(Ok(permit)) = waited.await else {
            pool.given_up.fetch_add(1, Relaxed);
            return Err(Unreachable::Busy(pool.size));
        };
        let slot = Slot { _permit: permit };
        let kept = {
            let mut idle = pool.idle();
            let kept = idle.take(&self.key);
            if kept.is_none() {
                let lent = pool.size - pool.slots.available_permits();
                idle.shrink(pool.size.saturating_sub(lent));
            }
            kept
        };
        let session = match kept {
            Some(session) => session,
            None => {
                let client = self.server.connect().await?;
                pool.opened.fetch_add(1, Relaxed);
                self.answered.store(true, Relaxed);
                Session::new(client)
            }
        };
        Ok(Lease::new(Arc::clone(self), session, slot))
    }

    /// Has the server stop what runs.
    pub(super) async fn cancel(&self, token: CancelToken) {
        self.server.cancel(token).await;
    }
}
