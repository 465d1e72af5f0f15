//! A bridge's connections to the database it shares. A few, each lent to one piece of work at a time;
//! one that failed in the middle is thrown away, and while the server is away connecting is tried
//! with growing pauses, whoever asks.

use std::{
    collections::HashMap,
    ops::Deref,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use innover_postgres::Address;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_postgres::{Client, Statement};

use crate::{
    backoff::{backoff, random},
    config::Place,
    limits::{JOB_JITTER, JOBS_BACKOFF_MAX, JOBS_BACKOFF_MIN, JOBS_CONNECTIONS, JOBS_STATEMENT},
    metrics::Metrics,
    store::StoreError,
};

/// How this appears on readiness.
const WHO: &str = "the jobs' database";

pub(super) struct Connections {
    address: Address,
    /// Whether a commit of theirs waits for the disk.
    synchronous: bool,
    idle: Mutex<Vec<Arc<Connection>>>,
    room: Arc<Semaphore>,
    away: Mutex<Option<Away>>,
    metrics: Arc<Metrics>,
}

/// The server did not let this bridge in.
struct Away {
    times: u32,
    /// It is not asked again before.
    until: Instant,
    problem: String,
}

struct Connection {
    client: Client,
    /// By their text, which is theirs for good.
    statements: Mutex<HashMap<&'static str, Statement>>,
}

/// No change below can be left half done by a panic, so a poisoned lock is still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Connections {
    /// Connects to nothing yet.
    pub(super) fn new(
        place: &Place,
        synchronous: bool,
        metrics: Arc<Metrics>,
    ) -> Result<Connections, StoreError> {
        let Place::Server { url, authority } = place else {
            return Err(StoreError::Postgres(
                "bridges share a database of PostgreSQL, no file".to_owned(),
            ));
        };
        let address = Address::parse(url, authority.as_deref(), JOBS_STATEMENT)
            .map_err(|error| StoreError::Postgres(error.to_string()))?;
        Ok(Connections {
            address,
            synchronous,
            idle: Mutex::default(),
            room: Arc::new(Semaphore::new(if synchronous {
                1
            } else {
                JOBS_CONNECTIONS
            })),
            away: Mutex::default(),
            metrics,
        })
    }

    /// A connection for one piece of work. Not for longer than a moment: whoever has one may be work
    /// that goes on only when the one who asks goes on.
    pub(super) async fn lend(&self) -> Result<Lent<'_>, StoreError> {
        let limit = JOBS_STATEMENT * 2;
        let room = tokio::time::timeout(limit, self.room.clone().acquire_owned()).await;
        let Ok(room) = room else {
            let problem = format!("no connection was free within {} s", limit.as_secs());
            self.metrics.reachable(WHO, Some(&problem));
            return Err(StoreError::Postgres(problem));
        };
        let room = room.map_err(|_| StoreError::Closed)?;
        let idle = {
            let mut idle = lock(&self.idle);
            std::iter::from_fn(|| idle.pop()).find(|c| !c.client.is_closed())
        };
        let connection = match idle {
            Some(connection) => connection,
            None => Arc::new(self.connect().await?),
        };
        Ok(Lent {
            connection,
            whole: AtomicBool::new(true),
            of: self,
            _room: room,
        })
    }

    async fn connect(&self) -> Result<Connection, StoreError> {
        if let Some(away) = &*lock(&self.away)
            && Instant::now() < away.until
        {
            return Err(StoreError::Postgres(away.problem.clone()));
        }
        let connecting = async {
            let client = self.address.connect().await.map_err(|e| e.to_string())?;
            let commit = if self.synchronous { "on" } else { "off" };
            client
                .batch_execute(&format!("SET synchronous_commit = {commit}"))
                .await
                .map_err(|error| innover_postgres::explain(&error))?;
            Ok(client)
        };
        // To connect has its own limit, shorter than this one.
        let connected: Result<Client, String> =
            match tokio::time::timeout(JOBS_STATEMENT * 2, connecting).await {
                Ok(connected) => connected,
                Err(_) => Err(format!(
                    "no answer within {} s",
                    (JOBS_STATEMENT * 2).as_secs()
                )),
            };
        match connected {
            Ok(client) => {
                *lock(&self.away) = None;
                Ok(Connection {
                    client,
                    statements: Mutex::default(),
                })
            }
            Err(problem) => {
                let problem = format!("cannot connect: {problem}");
                let mut away = lock(&self.away);
                let times = away.as_ref().map_or(0, |away| away.times) + 1;
                let (min, max) = (JOBS_BACKOFF_MIN, JOBS_BACKOFF_MAX);
                *away = Some(Away {
                    times,
                    until: Instant::now() + backoff(times, min, max, JOB_JITTER, random()),
                    problem: problem.clone(),
                });
                self.metrics.reachable(WHO, Some(&problem));
                Err(StoreError::Postgres(problem))
            }
        }
    }
}

/// A connection that is this work's alone. When the work failed, or was dropped in the middle, it is
/// closed: what the server makes of it, nobody knows.
pub(super) struct Lent<'a> {
    connection: Arc<Connection>,
    whole: AtomicBool,
    of: &'a Connections,
    _room: OwnedSemaphorePermit,
}

impl Deref for Lent<'_> {
    type Target = Client;
    fn deref(&self) -> &Client {
        &self.connection.client
    }
}

impl Lent<'_> {
    /// A statement, prepared once per connection.
    pub(super) async fn prepared(&self, sql: &'static str) -> Result<Statement, StoreError> {
        let known = lock(&self.connection.statements).get(sql).cloned();
        if let Some(statement) = known {
            return Ok(statement);
        }
        let statement = self.run(self.prepare(sql)).await?;
        lock(&self.connection.statements).insert(sql, statement.clone());
        Ok(statement)
    }

    /// Does the work, which ends whatever transaction it begins. A server that is gone without a
    /// word must not hold it up for good.
    pub(super) async fn run<T>(
        &self,
        work: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, StoreError> {
        let limit = JOBS_STATEMENT + Duration::from_secs(1);
        self.whole.store(false, Relaxed);
        let done = match tokio::time::timeout(limit, work).await {
            Ok(done) => done.map_err(StoreError::from),
            Err(_) => Err(StoreError::Postgres(format!(
                "no answer within {} s",
                limit.as_secs()
            ))),
        };
        self.whole.store(done.is_ok(), Relaxed);
        let problem = done.as_ref().err().map(ToString::to_string);
        self.of.metrics.reachable(WHO, problem.as_deref());
        done
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if *self.whole.get_mut() {
            lock(&self.of.idle).push(self.connection.clone());
        }
    }
}
