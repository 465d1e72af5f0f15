//! The management listener: `/health`, `/readiness`, `/metrics`, and what the program around the host
//! adds. Nothing of it is for the public.

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use wasmtime_wasi_http::WasiBody;

use crate::config::ReadinessCheck;
use crate::limits;
use crate::problem::full;
use crate::serve::Server;
use crate::shared::Shared;

/// Answers requests whose body was read.
pub type Handler = Arc<dyn Fn(Request<Bytes>) -> BoxFuture<'static, Response<Bytes>> + Send + Sync>;

/// What the management listener answers from.
pub(crate) struct Management {
    shared: Arc<Shared>,
    checks: RwLock<Vec<(String, ReadinessCheck)>>,
    /// By what the path begins with.
    handlers: RwLock<Vec<(&'static str, Handler)>>,
}

impl Management {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
            checks: RwLock::default(),
            handlers: RwLock::default(),
        }
    }

    pub(crate) fn add_handler(&self, prefix: &'static str, handler: Handler) {
        self.handlers
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push((prefix, handler));
    }

    fn handler(&self, path: &str) -> Option<Handler> {
        let handlers = self.handlers.read().unwrap_or_else(PoisonError::into_inner);
        let found = handlers.iter().find(|(prefix, _)| path.starts_with(prefix));
        found.map(|(_, handler)| Arc::clone(handler))
    }

    pub(crate) fn add_readiness(&self, name: String, check: ReadinessCheck) {
        self.checks
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push((name, check));
    }

    pub(crate) async fn answer(&self, request: Request<Incoming>) -> Response<WasiBody> {
        match self.handler(request.uri().path()) {
            Some(handler) => handle(&handler, request).await,
            None => self.own(&request),
        }
    }

    fn own(&self, request: &Request<Incoming>) -> Response<WasiBody> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = answer(StatusCode::METHOD_NOT_ALLOWED, "text/plain", String::new());
            response
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match request.uri().path() {
            "/health" => json(StatusCode::OK, &serde_json::json!({ "status": "ok" })),
            "/readiness" => self.readiness(),
            "/metrics" => {
                let mut text = self.shared.metrics.render(self.shared.log.dropped());
                self.shared.postgres.render(&mut text);
                answer(
                    StatusCode::OK,
                    "text/plain; version=0.0.4; charset=utf-8",
                    text,
                )
            }
            _ => json(
                StatusCode::NOT_FOUND,
                &serde_json::json!({ "paths": ["/health", "/readiness", "/metrics"] }),
            ),
        }
    }

    fn readiness(&self) -> Response<WasiBody> {
        let mut missing = serde_json::Map::new();
        if self.shared.is_stopping() {
            missing.insert("host".into(), "stopping".into());
        }
        for (name, check) in self
            .checks
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
        {
            if let Err(reason) = check() {
                missing.insert(name.clone(), reason.into());
            }
        }
        let (status, word) = if missing.is_empty() {
            (StatusCode::OK, "ready")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "not ready")
        };
        json(
            status,
            &serde_json::json!({ "status": word, "missing": missing }),
        )
    }
}

async fn handle(handler: &Handler, request: Request<Incoming>) -> Response<WasiBody> {
    let (parts, body) = request.into_parts();
    let read = tokio::time::timeout(
        limits::BODY_READ,
        Limited::new(body, limits::MANAGEMENT_BODY_BYTES_MAX).collect(),
    );
    match read.await {
        Ok(Ok(body)) => handler(Request::from_parts(parts, body.to_bytes()))
            .await
            .map(full),
        Ok(Err(_)) => answer(
            StatusCode::PAYLOAD_TOO_LARGE,
            "text/plain",
            "the body is too large\n".into(),
        ),
        Err(_) => answer(
            StatusCode::REQUEST_TIMEOUT,
            "text/plain",
            "the body did not come\n".into(),
        ),
    }
}

/// A listener of a program without a host.
pub struct Listener(Server);

impl Listener {
    /// Binds `address` and answers with `handler`.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start(address: SocketAddr, handler: Handler) -> std::io::Result<Listener> {
        let server = Server::start(address, move |_| {
            let handler = Arc::clone(&handler);
            move |request| {
                let handler = Arc::clone(&handler);
                async move { handle(&handler, request).await }
            }
        });
        Ok(Listener(server.await?))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.0.address()
    }

    /// Finishes the requests under way, for at most `grace`.
    pub async fn stop(self, grace: Duration) {
        self.0.stop(grace).await;
    }
}

fn json(status: StatusCode, value: &serde_json::Value) -> Response<WasiBody> {
    answer(status, "application/json", value.to_string())
}

fn answer(status: StatusCode, kind: &'static str, body: String) -> Response<WasiBody> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
