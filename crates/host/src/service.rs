//! One component in service: takes a request, finds or makes an instance, and answers in time.

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use http::header::HeaderName;
use http::{HeaderValue, Request, Response};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;
use wasmtime::{Engine, Store};
use wasmtime_wasi_http::WasiBody;
use wasmtime_wasi_http::handler::ExpirationError;
use wasmtime_wasi_http::p3::bindings::ServicePre;

use crate::bindings::subscriber::RedisSubscriberPre;
use crate::database::Seen;
use crate::guest::Guest;
use crate::hold::hold;
use crate::instances::{Ends, Instances, NoInstance};
use crate::limits;
use crate::load::App;
use crate::log::RequestLine;
use crate::metrics::{self, Requests};
use crate::problem::Problem;
use crate::shared::Shared;

/// The header in which a guest says which of its routes matched; never leaves the host.
static ROUTE: HeaderName = HeaderName::from_static("x-route");
static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What can be called in a component.
#[derive(Clone)]
pub(crate) struct Exports {
    pub(crate) http: Option<ServicePre<Guest>>,
    pub(crate) redis: Option<RedisSubscriberPre<Guest>>,
}

/// Where a request came from; the `via` of its log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    Http,
    Chain,
    Call,
}

impl Via {
    fn name(self) -> &'static str {
        match self {
            Via::Http => "http",
            Via::Chain => "chain",
            Via::Call => "call",
        }
    }
}

/// A component and everything in flight in it.
pub(crate) struct Service {
    pub(crate) app: Arc<App>,
    shared: Arc<Shared>,
    engine: Engine,
    current: RwLock<Current>,
    places: Semaphore,
    requests: Arc<Requests>,
}

/// The version that takes new requests. The ones in flight keep the version they began with.
struct Current {
    http: Option<Arc<Instances>>,
    redis: Option<RedisSubscriberPre<Guest>>,
}

impl Service {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        app: Arc<App>,
        engine: &Engine,
        exports: Exports,
    ) -> Self {
        let current = Current::new(shared, &app, engine, exports);
        Self {
            places: Semaphore::new(app.concurrency as usize),
            requests: shared.metrics.service(&app.service),
            shared: Arc::clone(shared),
            engine: engine.clone(),
            current: RwLock::new(current),
            app,
        }
    }

    /// New requests go to `exports` from here on.
    pub(crate) fn replace(&self, exports: Exports) {
        let fresh = Current::new(&self.shared, &self.app, &self.engine, exports);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
    }

    pub(crate) fn exports_http(&self) -> bool {
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .http
            .is_some()
    }

    pub(crate) fn exports_redis(&self) -> bool {
        self.redis().is_some()
    }

    pub(crate) fn redis(&self) -> Option<RedisSubscriberPre<Guest>> {
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .redis
            .clone()
    }

    /// A store with the component's limits, ready to instantiate in.
    pub(crate) fn store(&self) -> Store<Guest> {
        store(&self.engine, &self.shared, &self.app)
    }

    /// A free place, or `Saturated` after a short wait.
    pub(crate) async fn place(&self) -> Result<SemaphorePermit<'_>, Problem> {
        if let Ok(place) = self.places.try_acquire() {
            return Ok(place);
        }
        match timeout(limits::SATURATION_WAIT, self.places.acquire()).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) | Err(_) => {
                self.shared
                    .metrics
                    .saturated
                    .fetch_add(1, Ordering::Relaxed);
                Err(Problem::Saturated)
            }
        }
    }

    /// Answers a request whose URI is absolute, counts it and logs it. `route` is the label when the
    /// guest names none.
    pub(crate) async fn call(
        &self,
        request: Request<WasiBody>,
        deadline: Duration,
        via: Via,
        route: &str,
    ) -> Result<Response<WasiBody>, Problem> {
        let started = Instant::now();
        let method = metrics::method_index(request.method());
        let request_id = request.headers().get(&REQUEST_ID).cloned();
        let trace = request.headers().get(&TRACEPARENT).cloned();
        let mut result = self.answer(request, started, deadline).await;
        let (status, named, answered_id) = match &mut result {
            Ok(response) => {
                let named = response.headers_mut().remove(&ROUTE);
                let id = response.headers().get(&REQUEST_ID);
                (
                    response.status().as_u16(),
                    named,
                    id.filter(|_| request_id.is_none()).cloned(),
                )
            }
            Err(problem) => (problem.status().as_u16(), None, None),
        };
        let us = metrics::us(started.elapsed());
        let route = named
            .as_ref()
            .map_or(route, |value| value.to_str().unwrap_or(route));
        self.requests.record(method, route, status, us);
        if self.shared.log.wants_requests() {
            let text = |value: &Option<HeaderValue>| {
                value
                    .as_ref()
                    .and_then(|v| v.to_str().ok())
                    .unwrap_or_default()
                    .to_owned()
            };
            let trace = text(&trace);
            let line = RequestLine {
                service: &self.app.service,
                method: metrics::method_name(method),
                route,
                status,
                duration_us: us,
                request_id: &text(&request_id.or(answered_id)),
                // version-traceid-parentid-flags (W3C Trace Context)
                trace_id: trace.split('-').nth(1).unwrap_or_default(),
                via: via.name(),
            };
            self.shared.log.line(line.render());
        }
        result
    }

    async fn answer(
        &self,
        request: Request<WasiBody>,
        started: Instant,
        deadline: Duration,
    ) -> Result<Response<WasiBody>, Problem> {
        let _place = self.place().await?;
        let instances = {
            let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
            current.http.clone().ok_or(Problem::NotFound)?
        };
        let seen = Arc::new(OnceLock::new());
        let ends = Ends {
            at: started + deadline.min(limits::DEADLINE_MAX),
            seen: Arc::clone(&seen),
        };
        let handling = instances.handle(ends, request);
        // The instance's own timer ends the request; this one is for the case that the instance
        // does not get to it.
        let patience = deadline.min(limits::DEADLINE_MAX) + limits::RUNAWAY_GRACE;
        match timeout(patience, handling).await {
            Ok(Ok(response)) => Ok(self.when_on_disk(response, &seen).await),
            Err(_) => Err(Problem::Deadline),
            Ok(Err(error)) => Err(self.failure(&error, started.elapsed() >= deadline)),
        }
    }

    /// The answer, once all that its instance has seen is on disk.
    async fn when_on_disk(
        &self,
        response: Response<WasiBody>,
        seen: &OnceLock<Arc<Seen>>,
    ) -> Response<WasiBody> {
        match seen.get() {
            Some(seen) if !self.app.databases.is_empty() => {
                seen.on_disk().await;
                response.map(|body| hold(body, seen))
            }
            _ => response,
        }
    }

    fn failure(&self, error: &wasmtime::Error, late: bool) -> Problem {
        if error.is::<ExpirationError>() || late {
            return Problem::Deadline;
        }
        if let Some(none) = error.downcast_ref::<NoInstance>() {
            tracing::error!(service_name = %self.app.service, "{none}");
            // The pool is full: as saturated as a component at its own limit.
            if none.is_full() {
                self.shared
                    .metrics
                    .saturated
                    .fetch_add(1, Ordering::Relaxed);
                return Problem::Saturated;
            }
            return Problem::Trapped;
        }
        tracing::error!(
            service_name = %self.app.service,
            error = format!("{error:#}"),
            "request failed"
        );
        Problem::Trapped
    }
}

impl Current {
    fn new(shared: &Arc<Shared>, app: &Arc<App>, engine: &Engine, exports: Exports) -> Self {
        let http = exports
            .http
            .map(|pre| Instances::new(pre, engine, shared, app));
        Self {
            http,
            redis: exports.redis,
        }
    }
}

/// A store with the limits of its component.
pub(crate) fn store(engine: &Engine, shared: &Arc<Shared>, app: &Arc<App>) -> Store<Guest> {
    let mut store = Store::new(engine, Guest::new(shared, app));
    store.limiter(|guest| &mut guest.limits);
    store.set_epoch_deadline(1);
    store.epoch_deadline_async_yield_and_update(1);
    store
}
