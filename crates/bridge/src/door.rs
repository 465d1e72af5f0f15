//! How a delivery reaches a component: in this process (the command line implements [`Door`] over
//! its host), or over HTTP through the gateway beside stock Spin ([`HttpDoor`]).

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use innover_contract::{
    Identity, Keyring,
    limits::SERVICE_TOKEN_SECONDS,
    service_token::{self, SCOPE_DELIVER},
};

use crate::{
    config::{Database, Place},
    limits::ANSWER_BYTES_MAX,
};

/// The path events are delivered to.
pub const EVENTS_PATH: &str = "/_events";
/// The path jobs are delivered to.
pub const TASKS_PATH: &str = "/_tasks";
/// The bridge's name in `iss`.
pub const CALLER: &str = "bridge";

/// One call of a component's private route.
pub struct Delivery<'a> {
    /// The service.
    pub service: &'a str,
    /// [`EVENTS_PATH`] or [`TASKS_PATH`].
    pub path: &'static str,
    /// The body's media type.
    pub content_type: &'static str,
    /// The body.
    pub body: Bytes,
    /// W3C trace context, when the delivery belongs to one trace.
    pub traceparent: Option<String>,
    /// The answer must be there within this time.
    pub deadline: Duration,
}

/// Why a delivery has no answer.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum DoorError {
    /// Nobody took the request: connection refused, component not loaded, no permit. No handler ran,
    /// so it is no try of the events or jobs.
    #[error("{0}")]
    Unavailable(String),
    /// The handler may have run, but no answer came: trap, cut connection.
    #[error("{0}")]
    Failed(String),
    /// The deadline passed.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

/// Whether a status that covers a whole delivery says that no handler took it, rather than what one
/// thought of its events or jobs: no valid token (401, 403), no such door (404, 405, 410), no room
/// (429, 503). They wait then; a refusal of one event comes inside a 200.
pub(crate) fn not_taken(status: u16) -> bool {
    matches!(status, 401 | 403 | 404 | 405 | 410 | 429 | 503)
}

/// Hands a delivery to a component and returns its status and body.
pub trait Door: Send + Sync + 'static {
    /// Delivers within `delivery.deadline`.
    fn deliver<'a>(
        &'a self,
        delivery: Delivery<'a>,
    ) -> BoxFuture<'a, Result<(u16, Bytes), DoorError>>;
}

/// How the relay shares a service's database with those who write it.
pub trait WriteGate: Send + Sync + 'static {
    /// Waits for the write lock of a database; it is held until the guard is dropped. The host's own
    /// lock makes the relay's deletes queue with the service's commits instead of spinning in
    /// SQLite's busy handler on a thread the holder needs.
    fn lock<'a>(&'a self, label: &'a str) -> BoxFuture<'a, Box<dyn Send>>;

    /// Waits until all that is committed in the database is on disk: our host lets a commit be read
    /// a moment before, and an event that a power cut takes back must not be published.
    fn settle<'a>(&'a self, database: &'a Database) -> BoxFuture<'a, std::io::Result<()>>;
}

/// For a bridge in a process of its own: SQLite's own lock and busy timeout decide.
pub struct NoGate;

impl WriteGate for NoGate {
    fn lock<'a>(&'a self, _label: &'a str) -> BoxFuture<'a, Box<dyn Send>> {
        Box::pin(async { Box::new(()) as Box<dyn Send> })
    }

    fn settle<'a>(&'a self, database: &'a Database) -> BoxFuture<'a, std::io::Result<()>> {
        let log = match &database.place {
            Place::File(path) => {
                let mut log = path.clone().into_os_string();
                log.push("-wal");
                Some(log)
            }
            Place::Server { .. } => None,
        };
        Box::pin(async move {
            let Some(log) = log else { return Ok(()) };
            match tokio::fs::File::open(log).await {
                Ok(log) => log.sync_data().await,
                // What is not in a log is in the database, where SQLite syncs it itself.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                Err(error) => Err(error),
            }
        })
    }
}

/// Delivers over HTTP: `POST <gateway>/_deliver/<service>/events|tasks` with a token of
/// `aud=gateway, scope=deliver`.
pub struct HttpDoor {
    gateway: String,
    keyring: Keyring,
    client: reqwest::Client,
    token: Mutex<Option<(String, Instant)>>,
}

impl HttpDoor {
    /// `gateway` is its base URL, e.g. `http://127.0.0.1:3000`; `keyring` is the bridge's own and
    /// must hold a key for `gateway`.
    ///
    /// # Errors
    /// What reqwest says of its own set-up.
    pub fn new(gateway: &str, keyring: Keyring) -> Result<HttpDoor, reqwest::Error> {
        let client = reqwest::Client::builder()
            .tcp_nodelay(true)
            .connect_timeout(Duration::from_secs(3))
            .redirect(reqwest::redirect::Policy::none())
            .build()?;
        Ok(HttpDoor {
            gateway: gateway.trim_end_matches('/').into(),
            keyring,
            client,
            token: Mutex::new(None),
        })
    }

    /// A token is used for half its life: what is left covers the way to a slow gateway.
    fn token(&self) -> Result<String, DoorError> {
        let unavailable = |e: String| DoorError::Unavailable(format!("no deliver token: {e}"));
        let mut cached = self
            .token
            .lock()
            .map_err(|_| unavailable("the token lock is poisoned".into()))?;
        if let Some((token, until)) = cached.as_ref()
            && Instant::now() < *until
        {
            return Ok(token.clone());
        }
        let identity = Identity {
            sub: CALLER.into(),
            scope: SCOPE_DELIVER.into(),
            ..Default::default()
        };
        let request_id = uuid::Uuid::now_v7().to_string();
        let token = service_token::mint(&self.keyring, CALLER, "gateway", &identity, &request_id)
            .map_err(|e| unavailable(e.to_string()))?;
        *cached = Some((
            token.clone(),
            Instant::now() + Duration::from_secs(SERVICE_TOKEN_SECONDS / 2),
        ));
        Ok(token)
    }

    async fn post(&self, delivery: &Delivery<'_>) -> Result<(u16, Bytes), DoorError> {
        let what = delivery.path.trim_start_matches("/_");
        let mut request = self
            .client
            .post(format!(
                "{}/_deliver/{}/{what}",
                self.gateway, delivery.service
            ))
            .bearer_auth(self.token()?)
            .header("content-type", delivery.content_type)
            .body(delivery.body.clone());
        if let Some(traceparent) = &delivery.traceparent {
            request = request.header("traceparent", traceparent);
        }
        let mut response = request.send().await.map_err(|e| match e.is_connect() {
            true => DoorError::Unavailable(format!("the gateway cannot be reached: {}", chain(&e))),
            false => DoorError::Failed(chain(&e)),
        })?;
        let status = response.status().as_u16();
        let mut body = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|e| DoorError::Failed(chain(&e)))?
        {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(DoorError::Failed(format!(
                    "an answer of over {ANSWER_BYTES_MAX} bytes"
                )));
            }
            body.extend_from_slice(&chunk);
        }
        Ok((status, body.into()))
    }
}

impl Door for HttpDoor {
    fn deliver<'a>(
        &'a self,
        delivery: Delivery<'a>,
    ) -> BoxFuture<'a, Result<(u16, Bytes), DoorError>> {
        Box::pin(async move {
            let deadline = delivery.deadline;
            tokio::time::timeout(deadline, self.post(&delivery))
                .await
                .unwrap_or(Err(DoorError::Timeout(deadline)))
        })
    }
}

/// An error with all its causes: reqwest's own text says "error sending request" and no more.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |e| e.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
