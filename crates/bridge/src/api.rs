//! `POST /v1/jobs/<service>` and `GET /v1/jobs/<service>/<id>`: jobs for those who have no Celery
//! client. The gateway calls it, with a service token for the bridge, for `/api/<service>/v1/jobs`;
//! it listens where management does.

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use innover_contract::{
    Code, Job, Keyring, Problem, ServiceClaims,
    job::ID_BYTES_MAX,
    limits::IDEMPOTENCY_KEY_BYTES_MAX,
    problem::PROBLEM_JSON,
    service_token,
    time::{parse_rfc3339, rfc3339},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use crate::{Bridge, EnqueueError, Enqueued, door::CALLER, inspect::JobRow};

/// What these paths begin with.
pub const JOBS_PATH: &str = "/v1/jobs/";
/// Tells the caller's request in logs; the gateway looks for it.
const REQUEST_ID: &str = "x-request-id";
/// Seconds of a year.
const COUNTDOWN_MAX: f64 = 31_536_000.0;
/// Who may put jobs on queues.
const WRITE: &str = "jobs:write";
/// Who may look at them.
const READ: &str = "jobs:read";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewJob {
    /// `payment.confirm`, or `confirm` on payment's queue.
    task: String,
    #[serde(default)]
    args: Vec<Value>,
    #[serde(default)]
    kwargs: Map<String, Value>,
    id: Option<String>,
    #[serde(default)]
    priority: u8,
    /// RFC 3339.
    eta: Option<String>,
    /// Seconds from now.
    countdown: Option<f64>,
    /// RFC 3339.
    expires: Option<String>,
}

#[derive(Serialize)]
struct JobView {
    id: String,
    task: String,
    queue: String,
    /// `queued`, `delayed`, `running`, `done`, `revoked` (it expired), `failed` (refused for good) or
    /// `dead` (its tries are used up).
    state: String,
    attempts: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    eta: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    enqueued_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl From<JobRow> for JobView {
    fn from(row: JobRow) -> JobView {
        JobView {
            id: row.id,
            task: row.task,
            queue: row.queue,
            state: match row.state.as_str() {
                "leased" => "running".into(),
                _ => row.state,
            },
            attempts: row.attempts,
            eta: (row.eta > 0).then(|| rfc3339(row.eta)),
            enqueued_at: Some(rfc3339(row.enqueued_at)),
            started_at: row.started_at.map(rfc3339),
            finished_at: row.finished_at.map(rfc3339),
            result: row.result.and_then(|text| serde_json::from_str(&text).ok()),
            error: row.error,
        }
    }
}

type Answer = Result<Response<Bytes>, Box<Problem>>;

fn problem(code: Code, detail: impl Into<String>) -> Box<Problem> {
    Box::new(Problem::new(code, detail))
}

impl Bridge {
    /// Answers a request under [`JOBS_PATH`]. `keyring` is the bridge's own.
    pub async fn answer(&self, keyring: &Keyring, request: Request<Bytes>) -> Response<Bytes> {
        let path = request.uri().path().to_owned();
        self.route(keyring, request)
            .await
            .unwrap_or_else(|mut problem| {
                problem.instance = Some(path);
                let body = serde_json::to_vec(&problem).unwrap_or_default();
                respond(problem.status, PROBLEM_JSON, body, None)
            })
    }

    async fn route(&self, keyring: &Keyring, request: Request<Bytes>) -> Answer {
        let who = caller(keyring, &request)?;
        let path = request
            .uri()
            .path()
            .strip_prefix(JOBS_PATH)
            .unwrap_or_default();
        let nothing = || problem(Code::NotFound, "jobs are under /v1/jobs/<service>");
        let (service, id) = match path.split_once('/') {
            None => (path, None),
            Some((service, id)) if !id.is_empty() && !id.contains('/') => (service, Some(id)),
            Some(_) => return Err(nothing()),
        };
        let queue = self.routes.of_service(service).ok_or_else(nothing)?;
        match (request.method(), id) {
            (&Method::POST, None) => {
                require(&who, WRITE)?;
                self.put(&who, &queue.name, &request).await
            }
            (&Method::GET, Some(id)) => {
                require(&who, READ)?;
                self.show(&queue.name, id).await
            }
            _ => Err(problem(
                Code::MethodNotAllowed,
                "POST a job, GET one by its id",
            )),
        }
    }

    async fn put(&self, who: &ServiceClaims, queue: &str, request: &Request<Bytes>) -> Answer {
        // A list would be taken for the fields in their order.
        if request.body().trim_ascii_start().first() == Some(&b'[') {
            return Err(problem(Code::InvalidRequest, "a job is an object"));
        }
        let new: NewJob = serde_json::from_slice(request.body()).map_err(|e| {
            let what = format!("not {{\"task\": …, \"args\": [], \"kwargs\": {{}}}}: {e}");
            problem(
                if e.is_data() {
                    Code::InvalidRequest
                } else {
                    Code::MalformedJson
                },
                what,
            )
        })?;
        let mut job = self.read(who, &new, request)?;
        let wanted = job.clone();
        if let Some(scope) = self.scope_of(queue, &job.task) {
            require(who, &scope)?;
        }
        let enqueued = self
            .enqueue(Some(queue), job.clone())
            .await
            .map_err(|e| match e {
                EnqueueError::Unknown(what) => problem(Code::UnknownTask, what),
                EnqueueError::Store(error) => {
                    tracing::error!(%error, "a job was not enqueued");
                    problem(
                        Code::Unavailable,
                        "the job was not enqueued; ask again with the same key",
                    )
                }
            })?;
        self.routes
            .route(Some(queue), &mut job)
            .map_err(|what| problem(Code::UnknownTask, what))?;
        let row = self.row(&job.id).await?;
        if let (Enqueued::Known, Some(row)) = (enqueued, &row) {
            let wanted = Job {
                task: job.task,
                ..wanted
            };
            differs(&wanted, row, new.eta.is_some())?;
        }
        let Some(row) = row else {
            return Err(problem(
                Code::Internal,
                "the job was enqueued and cannot be found",
            ));
        };
        let location = format!("{}/{}", public(request.uri().path()), row.id);
        let body = serde_json::to_vec(&JobView::from(row)).unwrap_or_default();
        Ok(respond(202, "application/json", body, Some(location)))
    }

    /// What a task needs beside [`WRITE`]: one that does what an endpoint does needs that one's.
    fn scope_of(&self, queue: &str, task: &str) -> Option<String> {
        let route = self.routes.resolve(Some(queue), task).ok()?;
        self.routes.spec(&route)?.scope.clone()
    }

    fn read(
        &self,
        who: &ServiceClaims,
        new: &NewJob,
        request: &Request<Bytes>,
    ) -> Result<Job, Box<Problem>> {
        let bad = |what: &str, field: &str| {
            Box::new(Problem::new(Code::InvalidRequest, what).param(field))
        };
        let time = |text: &Option<String>, field: &str| {
            let parsed = text.as_deref().map(parse_rfc3339).transpose();
            parsed.map_err(|e| bad(&format!("not a time as in RFC 3339: {e}"), field))
        };
        let header = |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok());
        let key = header("idempotency-key");
        if key.is_some_and(|k| k.is_empty() || k.len() > IDEMPOTENCY_KEY_BYTES_MAX) {
            let what = format!("1 to {IDEMPOTENCY_KEY_BYTES_MAX} bytes");
            return Err(problem(Code::InvalidIdempotencyKey, what));
        }
        let id = match (&new.id, key) {
            // It is part of a path.
            (Some(id), _) if !is_id(id) => {
                let what = format!("1 to {ID_BYTES_MAX} letters, digits, `.`, `_`, `-` or `:`");
                return Err(bad(&what, "/id"));
            }
            (Some(id), _) => id.clone(),
            // The key is the caller's, and so is the job it names.
            (None, Some(key)) => {
                let digest = Sha256::digest(format!("{}\0{key}", who.identity.sub));
                let hex: String = digest.iter().take(16).map(|b| format!("{b:02x}")).collect();
                format!("job_{hex}")
            }
            (None, None) => format!("job_{}", uuid::Uuid::now_v7().simple()),
        };
        if new.priority > 9 {
            return Err(bad("0 is first, 9 is last", "/priority"));
        }
        let within = |seconds: f64| (0.0..=COUNTDOWN_MAX).contains(&seconds);
        if new.countdown.is_some_and(|seconds| !within(seconds)) {
            return Err(bad("seconds from now, a year's at most", "/countdown"));
        }
        let from_now = new.countdown.map(|s| self.clock.now() + (s * 1e6) as i64);
        let mut job = Job::new(id, new.task.clone(), new.args.clone());
        job.kwargs = new.kwargs.clone();
        job.priority = new.priority;
        job.eta = time(&new.eta, "/eta")?.or(from_now);
        job.expires = time(&new.expires, "/expires")?;
        job.traceparent = header("traceparent").map(str::to_owned);
        job.correlationid = header(REQUEST_ID).map(str::to_owned);
        job.asked_by = Some(who.identity.sub.clone()).filter(|sub| !sub.is_empty());
        Ok(job)
    }

    async fn row(&self, id: &str) -> Result<Option<JobRow>, Box<Problem>> {
        self.publisher.jobs.job(id).await.map_err(|error| {
            tracing::error!(%error, "a job cannot be read");
            problem(Code::Unavailable, "the queue cannot be read now; ask again")
        })
    }

    async fn show(&self, queue: &str, id: &str) -> Answer {
        let view = match self.row(id).await? {
            Some(row) if row.queue == queue => Some(JobView::from(row)),
            Some(_) => None,
            None => self.in_redis(queue, id).await?,
        };
        let view = view.ok_or_else(|| {
            problem(
                Code::JobNotFound,
                "there is no such job, or its result is no longer kept",
            )
        })?;
        Ok(respond(
            200,
            "application/json",
            serde_json::to_vec(&view).unwrap_or_default(),
            None,
        ))
    }

    /// A job of a Celery client: Redis keeps results without their queue.
    async fn in_redis(&self, queue: &str, id: &str) -> Result<Option<JobView>, Box<Problem>> {
        let Some(queues) = self.celery.as_ref().and_then(|celery| celery.queues()) else {
            return Ok(None);
        };
        let unreadable = |error| {
            tracing::warn!(%error, "Redis was not read");
            problem(Code::Unavailable, "Redis cannot be read now; ask again")
        };
        let Some(found) = queues.result(id).await.map_err(unreadable)? else {
            return Ok(None);
        };
        Ok(Some(JobView {
            id: id.to_owned(),
            task: String::new(),
            queue: queue.to_owned(),
            state: found.state.to_owned(),
            attempts: 0,
            eta: None,
            enqueued_at: None,
            started_at: None,
            finished_at: None,
            result: found
                .result
                .and_then(|text| serde_json::from_str(&text).ok()),
            error: found.error,
        }))
    }
}

fn is_id(id: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b':');
    (1..=ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(plain)
}

/// The path as the gateway's callers know it: `/v1/jobs/profile/…` is `/api/profile/v1/jobs/…`.
fn public(path: &str) -> String {
    let rest = path.strip_prefix(JOBS_PATH).unwrap_or_default();
    match rest.split_once('/') {
        Some((service, id)) => format!("/api/{service}/v1/jobs/{id}"),
        None => format!("/api/{rest}/v1/jobs"),
    }
}

fn caller(keyring: &Keyring, request: &Request<Bytes>) -> Result<ServiceClaims, Box<Problem>> {
    let token = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
        .ok_or_else(|| {
            problem(
                Code::InvalidToken,
                "a service token for the bridge is needed",
            )
        })?;
    service_token::verify(keyring, CALLER, token)
        .map_err(|error| problem(Code::InvalidToken, error.to_string()))
}

fn require(who: &ServiceClaims, scope: &str) -> Result<(), Box<Problem>> {
    if who.identity.has_scope(scope) {
        return Ok(());
    }
    let mut problem = problem(
        Code::InsufficientScope,
        format!("this needs the scope {scope}"),
    );
    problem.scope = Some(scope.to_owned());
    Err(problem)
}

/// A key or id that names another job already.
fn differs(wanted: &Job, row: &JobRow, absolute: bool) -> Result<(), Box<Problem>> {
    let there: Job = match serde_json::from_str(&row.envelope) {
        Ok(there) => there,
        Err(_) => return Ok(()),
    };
    let fields = [
        ("/task", wanted.task != there.task),
        ("/args", wanted.args != there.args),
        ("/kwargs", wanted.kwargs != there.kwargs),
        ("/priority", wanted.priority != there.priority),
        // A countdown is another time each time it is sent.
        ("/eta", absolute && wanted.eta != there.eta),
        ("/expires", wanted.expires != there.expires),
    ];
    let differing: Vec<String> = fields
        .into_iter()
        .filter(|(_, d)| *d)
        .map(|(name, _)| name.to_owned())
        .collect();
    if differing.is_empty() {
        return Ok(());
    }
    let what = "another job was put on the queue under this key or id";
    let mut problem = problem(Code::IdempotencyKeyReused, what);
    problem.differing_fields = differing;
    Err(problem)
}

fn respond(status: u16, kind: &str, body: Vec<u8>, location: Option<String>) -> Response<Bytes> {
    let mut response = Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, kind)
        .header(header::CACHE_CONTROL, "no-store");
    if let Some(location) = location {
        response = response.header(header::LOCATION, location);
    }
    response.body(body.into()).unwrap_or_else(|_| {
        let mut failed = Response::new(Bytes::new());
        *failed.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        failed
    })
}
