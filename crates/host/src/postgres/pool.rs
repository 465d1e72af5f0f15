//! Sessions by address, and how many there are.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::pki_types::{CertificateDer, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{CancelToken, Config};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::session::{Lease, Session, explain};
use crate::limits;

/// A server, a database and whom to be there.
pub(crate) struct Address {
    config: Config,
    tls: Option<MakeRustlsConnect>,
    /// What the guest gave: the key of the pool.
    key: (String, Option<String>),
    pool: Arc<Pool>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreachable {
    #[error("the address is none of PostgreSQL: {0}")]
    Address(String),
    #[error("the certificate of the authority cannot be read: {0}")]
    Certificate(String),
    #[error("all {0} connections to PostgreSQL are in use: try again")]
    Busy(usize),
    #[error("{0}")]
    Server(String),
}

/// Every server that guests reach.
pub(crate) struct Servers {
    addresses: Mutex<HashMap<(String, Option<String>), Arc<Address>>>,
    pool: Arc<Pool>,
}

struct Pool {
    size: usize,
    /// One permit per session that is lent.
    slots: Arc<Semaphore>,
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    by_address: HashMap<(String, Option<String>), Vec<Session>>,
    count: usize,
}

impl Idle {
    /// The newest of an address: the others may end of old age.
    fn take(&mut self, key: &(String, Option<String>)) -> Option<Session> {
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
        idle.by_address
            .entry(address.key.clone())
            .or_default()
            .push(session);
        idle.count += 1;
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
                slots: Arc::new(Semaphore::new(size)),
                idle: Mutex::default(),
            }),
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
        let mut config: Config = address
            .parse()
            .map_err(|error| Unreachable::Address(explain(&error)))?;
        config.connect_timeout(limits::POSTGRES_CONNECT);
        config.tcp_user_timeout(limits::POSTGRES_SILENCE);
        config.keepalives_idle(limits::POSTGRES_SILENCE);
        if config.get_application_name().is_none() {
            config.application_name("innover");
        }
        if config.get_options().is_none() {
            // Should this host die or hang, the server gives up what it left behind by itself.
            config.options(format!(
                "-c statement_timeout={} -c idle_in_transaction_session_timeout={}",
                limits::POSTGRES_STATEMENT.as_millis(),
                limits::POSTGRES_STATEMENT.as_millis()
            ));
        }
        let tls = match config.get_ssl_mode() {
            SslMode::Disable => None,
            _ => Some(connector(authority)?),
        };
        let address = Arc::new(Address {
            config,
            tls,
            key: key.clone(),
            pool: Arc::clone(&self.pool),
        });
        // Guests make addresses up as they like.
        if known.len() >= limits::POSTGRES_ADDRESSES_MAX {
            known.clear();
        }
        known.insert(key, Arc::clone(&address));
        Ok(address)
    }
}

/// TLS with the certificates web browsers trust, or those of one authority.
fn connector(authority: Option<&str>) -> Result<MakeRustlsConnect, Unreachable> {
    let mut roots = RootCertStore::empty();
    match authority {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                certificate
                    .map_err(|error| error.to_string())
                    .and_then(|der| roots.add(der).map_err(|error| error.to_string()))
                    .map_err(Unreachable::Certificate)?;
            }
            if roots.is_empty() {
                return Err(Unreachable::Certificate("there is none in it".to_owned()));
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Unreachable::Certificate(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

impl Address {
    /// Hosts and ports, for permissions. `None`: a Unix socket.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = Option<(&str, u16)>> {
        let ports = self.config.get_ports();
        self.config
            .get_hosts()
            .iter()
            .enumerate()
            .map(move |(i, host)| {
                let port = ports.get(i).or(ports.first()).copied().unwrap_or(5432);
                match host {
                    Host::Tcp(name) => Some((name.as_str(), port)),
                    Host::Unix(_) => None,
                }
            })
    }

    /// Lends a session, an idle one or a new one. Waits a bounded time for one to be free.
    pub(crate) async fn lease(self: &Arc<Self>) -> Result<Lease, Unreachable> {
        let pool = &self.pool;
        let waited = tokio::time::timeout(
            limits::POSTGRES_WAIT,
            Arc::clone(&pool.slots).acquire_owned(),
        );
        let Ok(Ok(permit)) = waited.await else {
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
            None => self.connect().await?,
        };
        Ok(Lease::new(Arc::clone(self), session, slot))
    }

    async fn connect(&self) -> Result<Session, Unreachable> {
        let connecting = async {
            match &self.tls {
                Some(tls) => {
                    let (client, connection) = self.config.connect(tls.clone()).await?;
                    // It ends with the client, or with the server.
                    tokio::spawn(connection);
                    Ok(client)
                }
                None => {
                    let (client, connection) = self.config.connect(tokio_postgres::NoTls).await?;
                    tokio::spawn(connection);
                    Ok(client)
                }
            }
        };
        // The driver's own limit is for each host it tries, and covers no log-in.
        match tokio::time::timeout(limits::POSTGRES_CONNECT * 2, connecting).await {
            Ok(Ok(client)) => Ok(Session::new(client)),
            Ok(Err(error)) => Err(Unreachable::Server(explain(&error))),
            Err(_) => Err(Unreachable::Server(format!(
                "no answer within {} s",
                (limits::POSTGRES_CONNECT * 2).as_secs()
            ))),
        }
    }

    /// Has the server stop what runs.
    pub(super) async fn cancel(&self, token: CancelToken) {
        let cancelling = async {
            match &self.tls {
                Some(tls) => token.cancel_query(tls.clone()).await,
                None => token.cancel_query(tokio_postgres::NoTls).await,
            }
        };
        // Should it fail, the server notices the closed connection or its own time limit.
        let _ = tokio::time::timeout(limits::POSTGRES_CONNECT, cancelling).await;
    }
}
