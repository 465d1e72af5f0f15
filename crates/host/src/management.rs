//! The management listener: `/health`, `/readiness`, `/metrics`. Nothing of it is for the public.

use std::sync::{Arc, PoisonError, RwLock};

use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use wasmtime_wasi_http::WasiBody;

use crate::config::ReadinessCheck;
use crate::problem::full;
use crate::shared::Shared;

/// What the management listener answers from.
pub(crate) struct Management {
    shared: Arc<Shared>,
    checks: RwLock<Vec<(String, ReadinessCheck)>>,
}

impl Management {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Self {
            shared: Arc::clone(shared),
            checks: RwLock::default(),
        }
    }

    pub(crate) fn add_readiness(&self, name: String, check: ReadinessCheck) {
        self.checks
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push((name, check));
    }

    pub(crate) fn answer(&self, request: &Request<Incoming>) -> Response<WasiBody> {
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
                let text = self.shared.metrics.render(self.shared.log.dropped());
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
