//! One component in service: takes a request, finds or makes an instance, and answers in time.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, OnceLock, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::header::HeaderName;
use http::{HeaderValue, Request, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::{Sleep, sleep_until, timeout};
use wasmtime::component::GuestTaskId;
use wasmtime::{Engine, Store, StoreContextMut};
use wasmtime_wasi_http::handler::{
    ExpirationError, HandlerState, Instance, InstantiationError, Proxy, ProxyHandler, ShouldAccept,
    WorkerExpiration, WorkerState, WorkerStatus,
};
use wasmtime_wasi_http::p3::bindings::ServicePre;
use wasmtime_wasi_http::{WasiBody, WasiHttpView};

use crate::bindings::subscriber::RedisSubscriberPre;
use crate::database::Seen;
use crate::guest::Guest;
use crate::hold::hold;
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
    http: Option<(ProxyHandler<Handler>, Arc<Room>)>,
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
        let (handler, room) = {
            let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
            current.http.clone().ok_or(Problem::NotFound)?
        };
        let seen = Arc::new(OnceLock::new());
        let handling = async {
            let (_counted, start) = room.enter().await;
            let ends = Ends {
                at: started + deadline.min(limits::DEADLINE_MAX),
                seen: Arc::clone(&seen),
                start,
            };
            handle(&handler, ends, request).await
        };
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
        if let Some(InstantiationError { error, .. }) =
            error.downcast_ref::<InstantiationError<Ends>>()
        {
            tracing::error!(
                service_name = %self.app.service,
                error = format!("{error:#}"),
                "cannot make an instance"
            );
            // The pool is full: as saturated as a component at its own limit.
            if error.is::<wasmtime::PoolConcurrencyLimitError>() {
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
        let http = exports.http.map(|pre| {
            let room = Arc::new(Room::new(app.concurrent_max));
            let handler = ProxyHandler::new(Handler {
                pre,
                engine: engine.clone(),
                shared: Arc::clone(shared),
                app: Arc::clone(app),
                room: Arc::clone(&room),
            });
            (handler, room)
        });
        Self {
            http,
            redis: exports.redis,
        }
    }
}

fn store(engine: &Engine, shared: &Arc<Shared>, app: &Arc<App>) -> Store<Guest> {
    let mut store = Store::new(engine, Guest::new(shared, app));
    store.limiter(|guest| &mut guest.limits);
    store.set_epoch_deadline(1);
    store.epoch_deadline_async_yield_and_update(1);
    store
}

/// Hands a request to an instance. When the pool of all components' instances is full the request
/// comes back, and is tried again for a moment: instances end all the time.
async fn handle(
    handler: &ProxyHandler<Handler>,
    ends: Ends,
    request: Request<WasiBody>,
) -> wasmtime::Result<Response<WasiBody>> {
    let asked = Instant::now();
    let (mut ends, mut request) = (ends, request);
    loop {
        let error = match handler.handle(ends, request).await {
            Ok(response) => return Ok(response),
            Err(error) => error,
        };
        let full = error
            .downcast_ref::<InstantiationError<Ends>>()
            .is_some_and(|error| error.error.is::<wasmtime::PoolConcurrencyLimitError>());
        if !full || asked.elapsed() >= limits::SATURATION_WAIT {
            return Err(error);
        }
        let back = error.downcast::<InstantiationError<Ends>>()?;
        ends = back.request_data;
        request = back
            .request
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        tokio::time::sleep(limits::SATURATION_RETRY).await;
    }
}

/// How many requests fit into the instances there are. Left alone, a burst makes an instance for
/// every request that comes before the first instance is ready, and the pool is soon empty; here at
/// most [`limits::INSTANCE_STARTS`] are made at once and the others look again.
struct Room {
    requests: AtomicUsize,
    instances: AtomicUsize,
    per_instance: usize,
    starts: Arc<Semaphore>,
}

impl Room {
    fn new(per_instance: usize) -> Self {
        Self {
            requests: AtomicUsize::new(0),
            instances: AtomicUsize::new(0),
            per_instance,
            starts: Arc::new(Semaphore::new(limits::INSTANCE_STARTS)),
        }
    }

    fn is_full(&self) -> bool {
        let room = self.instances.load(Ordering::Relaxed) * self.per_instance;
        self.requests.load(Ordering::Relaxed) > room
    }

    /// Counts a request; with a permit to make an instance for it if it fits into none.
    async fn enter(&self) -> (Counted<'_>, Option<OwnedSemaphorePermit>) {
        let counted = Counted::new(&self.requests);
        if !self.is_full() {
            return (counted, None);
        }
        // Never closed.
        let start = Arc::clone(&self.starts).acquire_owned().await.ok();
        (counted, start.filter(|_| self.is_full()))
    }
}

struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Makes instances for a `ProxyHandler`.
pub(crate) struct Handler {
    pre: ServicePre<Guest>,
    engine: Engine,
    shared: Arc<Shared>,
    app: Arc<App>,
    room: Arc<Room>,
}

impl HandlerState for Handler {
    type StoreData = Guest;
    type WorkerExpiration = Expiry;
    type WorkerState = Worker;

    async fn instantiate(&self) -> wasmtime::Result<Instance<Guest, Expiry, Worker>> {
        let mut store = store(&self.engine, &self.shared, &self.app);
        let started = self.pre.instantiate_async(&mut store);
        let proxy = timeout(self.app.deadline, started)
            .await
            .map_err(|_| wasmtime::format_err!("instantiation took longer than the deadline"))??;
        let life = Arc::new(Life::default());
        self.room.instances.fetch_add(1, Ordering::Relaxed);
        Ok(Instance {
            store,
            proxy: Proxy::P3(proxy),
            view: Guest::http,
            expiration: Expiry::new(Arc::clone(&life)),
            state: Worker {
                life,
                shared: Arc::clone(&self.shared),
                app: Arc::clone(&self.app),
                room: Arc::clone(&self.room),
            },
        })
    }
}

/// When a request ends; travels with it into the instance, and brings back what that has seen.
pub(crate) struct Ends {
    at: Instant,
    seen: Arc<OnceLock<Arc<Seen>>>,
    /// Given back when the request is in an instance.
    start: Option<OwnedSemaphorePermit>,
}

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What an instance's timers know about its requests.
#[derive(Default)]
struct Life {
    /// The last of the deadlines of its requests, in milliseconds since [`START`].
    latest_ms: AtomicU64,
    /// A request ran past its deadline.
    expired: AtomicBool,
}

impl Life {
    fn extend(&self, ends: Instant) {
        let ms = ends.saturating_duration_since(*START).as_millis();
        self.latest_ms
            .fetch_max(u64::try_from(ms).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn latest(&self) -> Instant {
        *START + Duration::from_millis(self.latest_ms.load(Ordering::Relaxed) + 1)
    }
}

pub(crate) struct Worker {
    life: Arc<Life>,
    shared: Arc<Shared>,
    app: Arc<App>,
    room: Arc<Room>,
}

impl WorkerState for Worker {
    type StoreData = Guest;
    type RequestData = Ends;

    fn should_accept_request(&self, concurrent: usize, total: usize) -> ShouldAccept {
        if total >= self.app.reuse_max {
            ShouldAccept::Never
        } else if concurrent >= self.app.concurrent_max {
            ShouldAccept::No
        } else {
            ShouldAccept::Yes
        }
    }

    fn on_request_start(
        &self,
        store: StoreContextMut<'_, Guest>,
        ends: Ends,
        _: GuestTaskId,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + Sync>> {
        // Empty: it was made for this request.
        let _ = ends.seen.set(Arc::clone(&store.data().seen));
        drop(ends.start);
        let ends = ends.at;
        self.life.extend(ends);
        let life = Arc::clone(&self.life);
        Box::pin(async move {
            sleep_until(ends.into()).await;
            life.expired.store(true, Ordering::Relaxed);
        })
    }

    fn drop(&self, store: Store<Guest>, result: wasmtime::Result<()>) {
        drop(store);
        self.room.instances.fetch_sub(1, Ordering::Relaxed);
        let Err(error) = result else { return };
        // When the runtime ends after a stop, it drops idle instances; wasmtime's handler can only
        // report a dropped one as a panic.
        if self.shared.is_stopping() {
            return;
        }
        let late = Instant::now() >= self.life.latest();
        let counter = if late {
            &self.shared.metrics.runaways
        } else {
            &self.shared.metrics.traps
        };
        counter.fetch_add(1, Ordering::Relaxed);
        tracing::error!(
            service_name = %self.app.service,
            error = format!("{error:?}"),
            "{}",
            if late { "instance stopped at its deadline" } else { "instance trapped" }
        );
    }
}

/// Ends an instance that is idle, or that does not end by itself. Polled whenever the instance has
/// nothing to do or yields, so its timer is only moved when it would ring too late.
pub(crate) struct Expiry {
    life: Arc<Life>,
    timer: Pin<Box<Sleep>>,
}

impl Expiry {
    fn new(life: Arc<Life>) -> Self {
        Self {
            life,
            timer: Box::pin(sleep_until((Instant::now() + limits::INSTANCE_IDLE).into())),
        }
    }

    fn until(&self, status: WorkerStatus, since: Instant) -> Instant {
        match status {
            WorkerStatus::Idle => since + limits::INSTANCE_IDLE,
            WorkerStatus::PostReturn if self.life.expired.load(Ordering::Relaxed) => {
                since + limits::POST_RETURN_EXPIRED
            }
            WorkerStatus::PostReturn => since + limits::POST_RETURN,
            WorkerStatus::Requests => self.life.latest() + limits::RUNAWAY_GRACE,
        }
    }
}

impl WorkerExpiration for Expiry {
    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        status: WorkerStatus,
        since: Instant,
    ) -> Poll<()> {
        let until = self.until(status, since);
        loop {
            if Instant::now() >= until {
                return Poll::Ready(());
            }
            if self.timer.deadline().into_std() > until || self.timer.is_elapsed() {
                self.timer.as_mut().reset(until.into());
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}
