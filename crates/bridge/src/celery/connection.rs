//! The one connection to Redis: commands, and what the server says by itself. It tells of changes of
//! the queues' lists (CLIENT TRACKING: Celery's clients push and notify nobody, and polling or a
//! blocked connection per list would cost more) and of remote control's messages. It is made again
//! with backoff when it breaks; a command that finds it broken fails at once.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use redis::{
    AsyncConnectionConfig, Client, ErrorKind, IntoConnectionInfo, ProtocolVersion, PushInfo,
    PushKind, RedisError, Value,
    aio::{AsyncPushSender, MultiplexedConnection},
};
use tokio::sync::{Notify, mpsc, watch};

use crate::{
    backoff::{backoff, random},
    config::StartError,
    limits::{JOB_JITTER, REDIS_ANSWER, REDIS_BACKOFF_MAX, REDIS_BACKOFF_MIN, REDIS_CONNECT},
    metrics::Metrics,
};

/// A script and the name the server knows it by.
pub(crate) struct Script {
    code: &'static str,
    hash: String,
}

impl Script {
    fn new(code: &'static str) -> Script {
        let hash = redis::Script::new(code).get_hash().to_owned();
        Script { code, hash }
    }

    /// A call of it; keys and arguments are added to the command.
    pub(crate) fn call<'p>(
        &self,
        pipeline: &'p mut redis::Pipeline,
        keys: &[String],
    ) -> &'p mut redis::Pipeline {
        pipeline
            .cmd("EVALSHA")
            .arg(&self.hash)
            .arg(keys.len())
            .arg(keys)
    }
}

/// The scripts, compiled into the program.
pub(crate) struct Scripts {
    pub(crate) fetch: Script,
    pub(crate) settle: Script,
    pub(crate) join: Script,
    pub(crate) renew: Script,
    pub(crate) take_back: Script,
    pub(crate) letters: Script,
}

impl Scripts {
    fn new() -> Scripts {
        Scripts {
            fetch: Script::new(include_str!("scripts/fetch.lua")),
            settle: Script::new(include_str!("scripts/settle.lua")),
            join: Script::new(include_str!("scripts/join.lua")),
            renew: Script::new(include_str!("scripts/renew.lua")),
            take_back: Script::new(include_str!("scripts/take_back.lua")),
            letters: Script::new(include_str!("scripts/letters.lua")),
        }
    }

    fn all(&self) -> [&Script; 6] {
        [
            &self.fetch,
            &self.settle,
            &self.join,
            &self.renew,
            &self.take_back,
            &self.letters,
        ]
    }
}

/// Something the server said by itself.
#[derive(Debug)]
pub(crate) enum Said {
    /// A new connection is there: whatever was missed must be looked up.
    Connected,
    /// Remote control.
    Control(Vec<u8>),
    /// The connection has ended.
    Ended,
}

/// Called with the name of a list that has changed, with none when all may have. It must not block:
/// it runs where answers are read, so that news of a job takes no detour.
pub(crate) type Ring = Arc<dyn Fn(Option<&str>) + Send + Sync>;

struct Current {
    number: u64,
    connection: MultiplexedConnection,
}

/// A handle to the connection.
pub(crate) struct Redis {
    client: Client,
    pub(crate) scripts: Scripts,
    /// The broker's database.
    pub(crate) broker: i64,
    /// Where results are.
    pub(crate) backend: i64,
    /// `host:port`, without a password.
    pub(crate) address: String,
    current: Mutex<Option<Current>>,
    number: AtomicU64,
    broken: Notify,
}

fn unusable(what: String) -> StartError {
    StartError::Config(what)
}

impl Redis {
    /// Reads the addresses; connects to nothing yet.
    ///
    /// # Errors
    /// A URL that is none, or results on another server than the queues: both are written in one
    /// step.
    pub(crate) fn new(broker: &str, backend: Option<&str>) -> Result<Redis, StartError> {
        let read = |url: &str, name: &str| {
            url.into_connection_info()
                .map_err(|e| unusable(format!("{name} is no Redis URL: {e}")))
        };
        let info = read(broker, "REDIS_URL")?;
        let results = match backend {
            Some(url) => {
                let results = read(url, "CELERY_RESULT_BACKEND")?;
                if results.addr().to_string() != info.addr().to_string() {
                    return Err(unusable(format!(
                        "CELERY_RESULT_BACKEND is on {} and REDIS_URL on {}: results and queues are \
                         written in one step, so they must be on one server (databases may differ)",
                        results.addr(),
                        info.addr()
                    )));
                }
                results.redis_settings().db()
            }
            None => info.redis_settings().db(),
        };
        let (broker, address) = (info.redis_settings().db(), info.addr().to_string());
        let settings = info
            .redis_settings()
            .clone()
            .set_protocol(ProtocolVersion::RESP3);
        let client = Client::open(info.set_redis_settings(settings))
            .map_err(|e| unusable(format!("REDIS_URL: {e}")))?;
        Ok(Redis {
            client,
            scripts: Scripts::new(),
            broker,
            backend: results,
            address,
            current: Mutex::new(None),
            number: AtomicU64::new(0),
            broken: Notify::new(),
        })
    }

    /// Whether there is a connection.
    pub(crate) fn is_up(&self) -> bool {
        self.lock().is_some()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Current>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs commands in one round trip.
    ///
    /// # Errors
    /// What Redis says, or that there is no connection.
    pub(crate) async fn query<T: redis::FromRedisValue>(
        &self,
        commands: &redis::Pipeline,
    ) -> Result<T, RedisError> {
        let current = self
            .lock()
            .as_ref()
            .map(|c| (c.number, c.connection.clone()));
        let Some((number, mut connection)) = current else {
            return Err(RedisError::from((
                ErrorKind::Io,
                "there is no connection to Redis",
            )));
        };
        let answer = commands.query_async(&mut connection).await;
        if let Err(error) = &answer
            && (error.is_unrecoverable_error() || error.is_timeout())
        {
            self.give_up(number);
        }
        answer
    }

    /// A server that was told to forget its scripts is told them again, with a new connection.
    pub(crate) fn note(&self, error: &RedisError) {
        if code(error).as_deref() == Some("NOSCRIPT") {
            let number = self.lock().as_ref().map_or(0, |current| current.number);
            self.give_up(number);
        }
    }

    fn give_up(&self, number: u64) {
        let mut current = self.lock();
        if current.as_ref().is_some_and(|c| c.number == number) {
            *current = None;
            self.broken.notify_one();
        }
    }

    /// Connects for a few commands, without hearing of changes.
    pub(crate) async fn connect_once(&self) -> Result<(), RedisError> {
        let connection = self.open(|_| Ok::<(), ()>(())).await?;
        *self.lock() = Some(Current {
            number: 0,
            connection,
        });
        Ok(())
    }

    async fn open(
        &self,
        pushes: impl AsyncPushSender,
    ) -> Result<MultiplexedConnection, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_push_sender(pushes)
            .set_connection_timeout(Some(REDIS_CONNECT))
            .set_response_timeout(Some(REDIS_ANSWER));
        let mut connection = self
            .client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        let mut setup = redis::pipe();
        // A database that is not there is found out now, not when a job's end is written.
        for database in [self.backend, self.broker] {
            setup.cmd("SELECT").arg(database).ignore();
        }
        for script in self.scripts.all() {
            setup.cmd("SCRIPT").arg("LOAD").arg(script.code).ignore();
        }
        setup.exec_async(&mut connection).await?;
        Ok(connection)
    }

    /// Keeps a connection until shutdown and passes on what the server says. `prefixes` are what the
    /// lists' names begin with.
    pub(crate) async fn run(
        self: Arc<Redis>,
        prefixes: Vec<String>,
        ring: Ring,
        said: mpsc::UnboundedSender<Said>,
        metrics: Arc<Metrics>,
        mut shutdown: watch::Receiver<bool>,
    ) {
        let (mut failures, mut reached) = (0, false);
        while !*shutdown.borrow() {
            let (pushes, mut inbox) = mpsc::unbounded_channel();
            let connected = tokio::select! {
                connected = self.connect(&prefixes, ring.clone(), pushes) => connected,
                _ = shutdown.changed() => return,
            };
            match connected {
                Ok(connection) => {
                    (failures, reached) = (0, true);
                    let number = self.number.fetch_add(1, Relaxed) + 1;
                    *self.lock() = Some(Current { number, connection });
                    metrics.reachable("Redis", None);
                    tracing::info!(address = self.address, "connected to Redis");
                    let _ = said.send(Said::Connected);
                    loop {
                        let news = tokio::select! {
                            news = inbox.recv() => news,
                            () = self.broken.notified() => None,
                            _ = shutdown.changed() => return,
                        };
                        match news {
                            Some(Said::Ended) | None => break,
                            Some(news) => drop(said.send(news)),
                        }
                    }
                    *self.lock() = None;
                    tracing::warn!(address = self.address, "the connection to Redis is lost");
                    metrics.reachable("Redis", Some("the connection is lost"));
                }
                Err(error) => {
                    if failures == 0 {
                        tracing::warn!(address = self.address, %error, "Redis cannot be reached; it is tried again and again");
                    }
                    // A platform that never had one does without.
                    if reached {
                        metrics.reachable("Redis", Some(&error.to_string()));
                    }
                    failures += 1;
                }
            }
            let wait = backoff(
                failures.max(1),
                REDIS_BACKOFF_MIN,
                REDIS_BACKOFF_MAX,
                JOB_JITTER,
                random(),
            );
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = shutdown.changed() => return,
            }
        }
    }

    async fn connect(
        &self,
        prefixes: &[String],
        ring: Ring,
        said: mpsc::UnboundedSender<Said>,
    ) -> Result<MultiplexedConnection, RedisError> {
        let mut connection = self
            .open(move |push| {
                hear(push, &ring, &said);
                Ok::<(), ()>(())
            })
            .await?;
        let mut setup = redis::pipe();
        // Fanout is Pub/Sub under a name that carries the database (kombu/transport/redis.py).
        let control = format!("/{}.celery.pidbox", self.broker);
        setup.cmd("SUBSCRIBE").arg(control).ignore();
        setup
            .cmd("CLIENT")
            .arg(&["TRACKING", "ON", "BCAST", "NOLOOP"]);
        for prefix in prefixes {
            setup.arg("PREFIX").arg(prefix);
        }
        setup.ignore();
        setup.exec_async(&mut connection).await?;
        Ok(connection)
    }
}

/// Redis' word for what it refuses, e.g. `WRONGTYPE`; `None` when it said nothing at all.
fn code(error: &RedisError) -> Option<String> {
    let errors = error.clone().into_server_errors()?;
    errors.first().map(|(_, error)| error.code().to_owned())
}

/// Errors that pass: Redis starts, is out of memory, forgot its scripts, follows another server.
const PASSING: [&str; 6] = [
    "LOADING",
    "OOM",
    "NOSCRIPT",
    "BUSY",
    "READONLY",
    "MASTERDOWN",
];

/// Whether an error is none of the commands' own, but of the connection or the server's state: the
/// same may be tried again.
pub(crate) fn passes(error: &RedisError) -> bool {
    code(error).is_none_or(|code| PASSING.contains(&code.as_str()))
}

fn hear(push: PushInfo, ring: &Ring, said: &mpsc::UnboundedSender<Said>) {
    let bytes = |value: Value| match value {
        Value::BulkString(bytes) => Some(bytes),
        Value::SimpleString(text) => Some(text.into_bytes()),
        _ => None,
    };
    let news = match push.kind {
        PushKind::Disconnection => Some(Said::Ended),
        PushKind::Invalidate => {
            match push.data.into_iter().next() {
                Some(Value::Array(keys)) => keys.into_iter().filter_map(bytes).for_each(|key| {
                    ring(Some(&String::from_utf8_lossy(&key)));
                }),
                // The whole database was flushed.
                _ => ring(None),
            }
            None
        }
        PushKind::Message => push
            .data
            .into_iter()
            .nth(1)
            .and_then(bytes)
            .map(Said::Control),
        // Answers to SUBSCRIBE.
        _ => None,
    };
    if let Some(news) = news {
        // Nobody listens any more at shutdown.
        let _ = said.send(news);
    }
}
