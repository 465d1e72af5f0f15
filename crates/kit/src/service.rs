//! What every service answers whatever it does: health, readiness, its OpenAPI document and docs
//! page, deliveries, and the limits and errors of `docs/errors.md`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock},
};

use axum::{Router, body::Body, response::IntoResponse};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, Response, header, request::Parts};
use innover_contract::{Code, ServiceClaims, limits::BODY_BYTES_MAX, service_token};
use tower::ServiceExt;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;

use crate::{
    Answer, Cx, Db, Failure, Result, call,
    events::{self, EventHandlers, Locking},
    jobs::{self, Tasks},
    params,
    room::{BODIES, Room},
};

/// The route pattern of a request, for the host's metrics; the host takes it off again.
const ROUTE: HeaderName = HeaderName::from_static("x-route");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FORWARDED_PATH: HeaderName = HeaderName::from_static("x-forwarded-path");

/// A service token that was verified is taken from memory for this long. It lives for a minute and
/// is accepted for half a minute longer, so this adds nothing a clock's error would not.
const VERIFIED_US: i64 = 5_000_000;
/// Verified tokens kept per instance; the gateway uses one for 20 s of a caller's requests.
const VERIFIED_MAX: usize = 256;
/// The end of a token that tells it from others.
const TAIL_BYTES: usize = 24;

/// A migration the code needs: its number and name, as in `migrations/NNNN_name.sql`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migration(pub i64, pub &'static str);

/// A service: what it is made of. Build one per component with `Service { … }`.
pub struct Service {
    /// The component's name, e.g. `payment`.
    pub name: &'static str,
    /// Builds the routes under `/v1`, each with its OpenAPI; called once per instance.
    pub api: fn() -> OpenApiRouter,
    /// What it subscribes to.
    pub events: EventHandlers,
    /// When the database is locked for a handler of events.
    pub events_locking: Locking,
    /// Its tasks, besides the samples.
    pub tasks: Tasks,
    /// Whether jobs wait for it, in the queue `<name>-tasks`.
    pub queue: bool,
    /// The newest migration its code needs; `None` for a service without a database.
    pub migration: Option<Migration>,
    /// The largest body it reads; [`BODY_BYTES_MAX`] unless it takes batches.
    pub body_bytes_max: usize,
}

impl Service {
    /// A service with this name and routes and nothing else.
    pub const fn new(name: &'static str, api: fn() -> OpenApiRouter) -> Service {
        Service {
            name,
            api,
            events: &[],
            events_locking: Locking::AtCommit,
            tasks: &[],
            queue: true,
            migration: None,
            body_bytes_max: BODY_BYTES_MAX,
        }
    }

    /// Its OpenAPI 3.1 document.
    pub fn openapi(&self) -> OpenApi {
        self.parts().1
    }

    fn parts(&self) -> (Router, OpenApi) {
        let (router, mut document) = (self.api)().split_for_parts();
        if self.queue {
            document.merge(jobs::document());
        }
        (router, document)
    }
}

struct Built {
    router: Router,
    openapi: String,
}

/// Built once per instance: rebuilding router and document per request halves the throughput.
static BUILT: OnceLock<Built> = OnceLock::new();

fn built(service: &Service) -> &'static Built {
    BUILT.get_or_init(|| {
        let (router, openapi) = service.parts();
        let router = router
            .route_layer(axum::middleware::from_fn(note_route))
            .fallback(async || Failure::new(Code::NotFound, "no such path; see /openapi.json"))
            .method_not_allowed_fallback(async || {
                Failure::new(
                    Code::MethodNotAllowed,
                    "see /openapi.json for this path's methods",
                )
            });
        Built {
            router,
            openapi: openapi.to_json().unwrap_or_default(),
        }
    })
}

async fn note_route(
    matched: axum::extract::MatchedPath,
    request: axum::extract::Request,
    next: axum::middleware::Next,
) -> axum::response::Response {
    let mut response = next.run(request).await;
    if let Ok(route) = HeaderValue::from_str(matched.as_str()) {
        response.headers_mut().insert(ROUTE, route);
    }
    response
}

/// Serves one request of `service`.
#[cfg(target_family = "wasm")]
pub async fn serve(
    service: &'static Service,
    request: spin_sdk::http::Request,
) -> crate::wire::Served {
    crate::wire::Served::new(handle(service, request).await).await
}

/// Serves one request of `service`.
#[cfg(not(target_family = "wasm"))]
pub async fn serve<B>(service: &'static Service, request: Request<B>) -> Response<Body>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    handle(service, request).await
}

async fn handle<B>(service: &'static Service, request: Request<B>) -> Response<Body>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    let (mut parts, body) = request.into_parts();
    // The path the caller knows: the gateway takes its `/api/<service>` off before it asks here.
    let asked_path = parts
        .headers
        .remove(FORWARDED_PATH)
        .and_then(|path| path.to_str().map(str::to_owned).ok())
        .unwrap_or_else(|| parts.uri.path().to_owned());
    let named = parts
        .headers
        .get(REQUEST_ID)
        .and_then(|id| id.to_str().ok());
    let named = named
        .filter(|id| crate::context::is_request_id(id))
        .map(str::to_owned);
    let (request_id, mut response) = match enter(service, parts, body).await {
        Ok((cx, request, _room)) => {
            let id = cx.request_id().to_owned();
            (id, answer(service, cx, request).await)
        }
        Err(failure) => (
            named.unwrap_or_else(crate::ids::new_uuid),
            failure.into_response(),
        ),
    };
    if let Some(failure) = response.extensions_mut().remove::<Failure>() {
        response = explain(failure, &asked_path, &request_id, &response);
    }
    if let Ok(id) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// Adds the path and the request's id to a problem.
fn explain(
    failure: Failure,
    path: &str,
    request_id: &str,
    first: &Response<Body>,
) -> Response<Body> {
    let mut problem = *failure.0;
    problem.instance.get_or_insert_with(|| path.to_owned());
    problem.request_id = Some(request_id.to_owned());
    let mut response = Failure::from(problem).into_response();
    response.extensions_mut().clear();
    if let Some(route) = first.headers().get(ROUTE) {
        response.headers_mut().insert(ROUTE, route.clone());
    }
    response
}

/// Checks the token and reads the body within its bound.
async fn enter<B>(
    service: &Service,
    mut parts: Parts,
    body: B,
) -> Result<(Cx, Request<Bytes>, Room)>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    let token = parts
        .headers
        .get(header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.strip_prefix("Bearer "));
    let claims = match token {
        Some(token) => Some(verified(service, token).await?),
        None => None,
    };
    let cx = Cx::new(service.name, &parts, claims);
    if cx.claims().is_none() && !is_open(parts.uri.path()) {
        cx.identity()?;
    }
    let announced = announced(&parts);
    let mut room = BODIES.room(announced.min(service.body_bytes_max))?;
    let bytes = match has_body(&parts) {
        true => read(body, service.body_bytes_max).await?,
        false => Bytes::new(),
    };
    if announced == 0 {
        room = BODIES.room(bytes.len())?;
    }
    parts.extensions.insert(cx.clone());
    Ok((cx, Request::from_parts(parts, bytes), room))
}

/// The claims of a service token. Verifying costs more than all else a health check does, and the
/// gateway uses one token for many requests.
async fn verified(service: &Service, token: &str) -> Result<Arc<ServiceClaims>> {
    static SEEN: Mutex<BTreeMap<Box<[u8]>, Verified>> = Mutex::new(BTreeMap::new());
    // Tokens differ in their signatures first of all: whole ones share hundreds of bytes, which
    // every comparison on the way through the map would read.
    let tail = &token.as_bytes()[token.len().saturating_sub(TAIL_BYTES)..];
    let now = crate::ids::now_us();
    if let Ok(seen) = SEEN.lock()
        && let Some(known) = seen.get(tail)
        && known.until > now
        && known.token == token
    {
        return Ok(Arc::clone(&known.claims));
    }
    let claims =
        service_token::verify(call::keyring().await?, service.name, token).map_err(|e| {
            // Why is for the log; a caller learns only that it was refused.
            println!(
                "{}",
                serde_json::json!({"level": "warn", "service_name": service.name,
            "msg": "service token refused", "error": e.to_string()})
            );
            Failure::new(Code::InvalidToken, "the service token was refused")
        })?;
    let claims = Arc::new(claims);
    if let Ok(mut seen) = SEEN.lock() {
        if seen.len() >= VERIFIED_MAX {
            seen.clear();
        }
        let known = Verified {
            until: now + VERIFIED_US,
            token: token.to_owned(),
            claims: Arc::clone(&claims),
        };
        seen.insert(tail.into(), known);
    }
    Ok(claims)
}

/// A token that was good, and for how long that is taken for granted.
struct Verified {
    until: i64,
    token: String,
    claims: Arc<ServiceClaims>,
}

/// Whether there is a body to read: asking the stream of a request without one costs a turn of the
/// host. A GET that has one says so by its length or its coding.
fn has_body(parts: &Parts) -> bool {
    match parts.headers.get(header::CONTENT_LENGTH) {
        Some(length) => length != "0",
        None => {
            !matches!(parts.method, Method::GET | Method::HEAD | Method::DELETE)
                || parts.headers.contains_key(header::TRANSFER_ENCODING)
        }
    }
}

/// How long the body will be, by what its sender says; 0 when it does not.
fn announced(parts: &Parts) -> usize {
    let length = parts.headers.get(header::CONTENT_LENGTH);
    length
        .and_then(|length| length.to_str().ok()?.parse().ok())
        .unwrap_or_default()
}

/// Paths that need no token.
fn is_open(path: &str) -> bool {
    matches!(path, "/health" | "/readiness" | "/openapi.json" | "/docs")
}

async fn read<B>(body: B, limit: usize) -> Result<Bytes>
where
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    use http_body_util::{BodyExt, LengthLimitError, Limited};
    let too_large = || {
        Failure::new(
            Code::BodyTooLarge,
            format!("the body is larger than {limit} bytes"),
        )
    };
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let body = body.map_err(|e| e.to_string());
    match Limited::new(body, limit).collect().await {
        Ok(read) => Ok(read.to_bytes()),
        Err(e) if e.downcast_ref::<LengthLimitError>().is_some() => Err(too_large()),
        Err(e) => Err(Failure::new(
            Code::InvalidRequest,
            format!("the body broke off: {e}"),
        )),
    }
}

async fn answer(service: &'static Service, cx: Cx, request: Request<Bytes>) -> Response<Body> {
    let path = request.uri().path();
    let mut response = match path {
        "/health" => health(service, &cx).into_response(),
        "/readiness" => readiness(service).await.into_response(),
        "/openapi.json" => openapi(service),
        "/docs" => docs(service),
        "/_events" | "/_tasks" => deliver(service, &cx, &request).await.into_response(),
        _ => {
            let router = built(service).router.clone();
            return match router.oneshot(request.map(Body::from)).await {
                Ok(response) => response,
                Err(never) => match never {},
            };
        }
    };
    if let Ok(route) = HeaderValue::from_str(path) {
        response.headers_mut().insert(ROUTE, route);
    }
    response
}

fn health(service: &Service, cx: &Cx) -> Result<Answer> {
    let mut body = serde_json::json!({
        "status": "ok",
        "service": format!("svc-{}", service.name),
        "version": env!("CARGO_PKG_VERSION"),
    });
    if let Some(claims) = cx.claims() {
        let who = &claims.identity;
        body["user"] = serde_json::json!({
            "username": who.preferred_username, "email": who.email, "roles": who.roles,
        });
    }
    Answer::json(200, &body)
}

async fn readiness(service: &Service) -> Result<Answer> {
    if let Some(Migration(needed, name)) = service.migration {
        let db = Db::open().await?;
        let rows = db
            .query(
                "SELECT COALESCE(MAX(version), 0) FROM schema_migrations",
                params![],
            )
            .await
            .map_err(|_| not_migrated(service, needed, name, 0))?;
        let found = rows.first().map_or(Ok(0), |row| row.int(0))?;
        if found < needed {
            return Err(not_migrated(service, needed, name, found));
        }
    }
    Answer::json(
        200,
        &serde_json::json!({"status": "ready", "service": format!("svc-{}", service.name)}),
    )
}

fn not_migrated(service: &Service, needed: i64, name: &str, found: i64) -> Failure {
    Failure::new(
        Code::NotReady,
        format!(
            "the database of `{}` is at migration {found:04}, the code needs {needed:04}_{name}; run `innover migrate`",
            service.name
        ),
    )
}

fn openapi(service: &Service) -> Response<Body> {
    (
        [(header::CONTENT_TYPE, "application/json")],
        built(service).openapi.as_str(),
    )
        .into_response()
}

fn docs(service: &Service) -> Response<Body> {
    let page = include_str!("docs.html").replace("{{service}}", service.name);
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], page).into_response()
}

async fn deliver(service: &Service, cx: &Cx, request: &Request<Bytes>) -> Result<Answer> {
    if request.method() != Method::POST {
        return Err(Failure::new(Code::MethodNotAllowed, "POST a delivery"));
    }
    if !cx.is_delivery() {
        return Err(crate::context::insufficient_scope(
            service_token::SCOPE_DELIVER,
        ));
    }
    if request.uri().path() == "/_tasks" {
        return jobs::receive(cx, service.tasks, request.body()).await;
    }
    let kind = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok());
    events::receive(
        cx,
        service.events,
        kind.unwrap_or_default(),
        request.body(),
        service.events_locking,
    )
    .await
}
