//! The instances of one version of a component, and the requests that wait for one of them.
//!
//! A component is asked by whom its [`Service`](crate::service::Service) lets in; here is decided in
//! which instance a request runs, when another instance is made and when one ends. An instance runs on
//! one processor at a time and serves many requests while they wait for something, and what it knows
//! (keys, verified tokens, requests to book together) it knows for all of them. So few instances that
//! serve many requests each are wanted: as many as there are processors, more only when those are full
//! or stuck.

use std::collections::VecDeque;
use std::fmt;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures::channel::oneshot;
use futures::future::poll_fn;
use futures::stream::{FuturesUnordered, StreamExt as _};
use http::{Request, Response};
use tokio::time::{Sleep, sleep, sleep_until, timeout};
use wasmtime::component::Accessor;
use wasmtime::{AsContextMut as _, Engine, Store};
use wasmtime_wasi_http::handler::{Prepared, Proxy};
use wasmtime_wasi_http::p3::bindings::ServicePre;
use wasmtime_wasi_http::{WasiBody, WasiHttpView};

use crate::database::Seen;
use crate::guest::Guest;
use crate::limits;
use crate::load::App;
use crate::shared::Shared;

/// The instances of a component, as many as its requests need.
pub(crate) struct Instances {
    pre: ServicePre<Guest>,
    engine: Engine,
    shared: Arc<Shared>,
    app: Arc<App>,
    state: Mutex<State>,
}

struct State {
    queue: VecDeque<Waiting>,
    /// Requests in the queue and in instances.
    requests: usize,
    /// Instances that take requests, and those that are being made.
    instances: usize,
    starting: usize,
    /// The instances that could take a request at once, by number; the last is asked first, so that
    /// the ones that are not needed end.
    free: Vec<(u64, Waker)>,
    next: u64,
    /// When an instance last took a request.
    taken: Instant,
}

struct Waiting {
    request: Request<WasiBody>,
    ends: Ends,
    since: Instant,
    answer: oneshot::Sender<wasmtime::Result<Response<WasiBody>>>,
}

/// When a request ends; travels with it into the instance, and brings back what that has seen.
pub(crate) struct Ends {
    pub(crate) at: Instant,
    pub(crate) seen: Arc<OnceLock<Arc<Seen>>>,
}

/// There is no instance for a request, and none can be made.
#[derive(Clone, Debug)]
pub(crate) struct NoInstance(Arc<wasmtime::Error>);

impl NoInstance {
    /// The pool of all components' instances is full.
    pub(crate) fn is_full(&self) -> bool {
        self.0.is::<wasmtime::PoolConcurrencyLimitError>()
    }
}

impl fmt::Display for NoInstance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot make an instance: {:#}", self.0)
    }
}

impl std::error::Error for NoInstance {}

impl Instances {
    pub(crate) fn new(
        pre: ServicePre<Guest>,
        engine: &Engine,
        shared: &Arc<Shared>,
        app: &Arc<App>,
    ) -> Arc<Self> {
        Arc::new(Self {
            pre,
            engine: engine.clone(),
            shared: Arc::clone(shared),
            app: Arc::clone(app),
            state: Mutex::new(State {
                queue: VecDeque::new(),
                requests: 0,
                instances: 0,
                starting: 0,
                free: Vec::new(),
                next: 0,
                taken: Instant::now(),
            }),
        })
    }

    /// Has an instance answer a request.
    pub(crate) async fn handle(
        self: &Arc<Self>,
        ends: Ends,
        request: Request<WasiBody>,
    ) -> wasmtime::Result<Response<WasiBody>> {
        let (answer, mut answered) = oneshot::channel();
        let seen = Arc::clone(&ends.seen);
        let _counted = Counted(self);
        self.push(Waiting {
            request,
            ends,
            since: Instant::now(),
            answer,
        });
        loop {
            match timeout(limits::INSTANCE_STUCK, &mut answered).await {
                // An error here: the instance ended, and the request with it.
                Ok(answered) => return answered?,
                Err(_) if seen.get().is_some() => return answered.await?,
                Err(_) => self.unstick(),
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No change under this lock can be left half done by a panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(self: &Arc<Self>, waiting: Waiting) {
        let mut state = self.state();
        state.requests += 1;
        state.queue.push_back(waiting);
        self.attend(state);
    }

    /// Sees to it that somebody takes what is in the queue.
    fn attend(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        if state.queue.is_empty() {
            return;
        }
        if let Some((_, waker)) = state.free.pop() {
            drop(state);
            waker.wake();
            return;
        }
        let full = state.requests > state.instances * self.app.concurrent_max;
        let apart = state.instances < self.app.parallelism;
        if (full || apart) && state.starting < limits::INSTANCE_STARTS {
            self.start(&mut state);
        }
    }

    /// Nobody took a request for a while: those that run are blocked, or loop.
    fn unstick(self: &Arc<Self>) {
        let mut state = self.state();
        let stuck = state.taken.elapsed() >= limits::INSTANCE_STUCK && !state.queue.is_empty();
        if stuck && state.starting < limits::INSTANCE_STARTS {
            self.start(&mut state);
        }
    }

    fn start(self: &Arc<Self>, state: &mut State) {
        state.instances += 1;
        state.starting += 1;
        let starting = Starting(Arc::clone(self));
        tokio::spawn(starting.run());
    }

    async fn instantiate(&self) -> wasmtime::Result<(Store<Guest>, Proxy)> {
        let mut store = crate::service::store(&self.engine, &self.shared, &self.app);
        let started = self.pre.instantiate_async(&mut store);
        let proxy = timeout(self.app.deadline, started)
            .await
            .map_err(|_| wasmtime::format_err!("instantiation took longer than the deadline"))??;
        Ok((store, Proxy::P3(proxy)))
    }

    /// An instance; when the pool is full it is tried again for a moment, since instances end all the
    /// time.
    async fn make(&self) -> wasmtime::Result<(Store<Guest>, Proxy)> {
        let asked = Instant::now();
        loop {
            let error = match self.instantiate().await {
                Ok(made) => return Ok(made),
                Err(error) => error,
            };
            let full = error.is::<wasmtime::PoolConcurrencyLimitError>();
            if !full || asked.elapsed() >= limits::SATURATION_WAIT {
                return Err(error);
            }
            sleep(limits::SATURATION_RETRY).await;
        }
    }

    /// What became of an instance that ended.
    fn ended(&self, life: &Life, result: wasmtime::Result<()>) {
        let Err(error) = result else { return };
        let late = Instant::now() >= life.latest();
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

    /// No instance could be made. Requests that others can still take wait for those, but not for long.
    fn refuse(&self, error: wasmtime::Error) {
        let error = NoInstance(Arc::new(error));
        let refused: VecDeque<_> = {
            let mut state = self.state();
            let alone = state.instances == 0;
            let late =
                |waiting: &Waiting| alone || waiting.since.elapsed() >= limits::SATURATION_WAIT;
            let (refused, others) = state.queue.drain(..).partition(late);
            state.queue = others;
            refused
        };
        for waiting in refused {
            // Err: the caller is gone.
            let _ = waiting.answer.send(Err(error.clone().into()));
        }
    }
}

/// Counts a request for as long as somebody waits for it.
struct Counted<'a>(&'a Instances);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.state().requests -= 1;
    }
}

/// An instance that is being made.
struct Starting(Arc<Instances>);

impl Starting {
    async fn run(self) {
        let all = Arc::clone(&self.0);
        match all.make().await {
            Ok((store, proxy)) => {
                let place = self.place();
                place.run(store, &proxy).await;
            }
            Err(error) => {
                drop(self);
                all.refuse(error);
            }
        }
    }

    fn place(self) -> Place {
        let mut state = self.0.state();
        // This one no longer counts, and the place does.
        state.instances += 1;
        state.next += 1;
        Place {
            all: Arc::clone(&self.0),
            number: state.next,
            retired: false,
        }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.starting -= 1;
        state.instances -= 1;
    }
}

/// One instance among the others.
struct Place {
    all: Arc<Instances>,
    number: u64,
    /// It takes no more requests: it has served enough, or one ran past its deadline.
    retired: bool,
}

impl Place {
    fn retire(&mut self) {
        if self.retired {
            return;
        }
        self.retired = true;
        let mut state = self.all.state();
        state.instances -= 1;
        state.free.retain(|(number, _)| *number != self.number);
        self.all.attend(state);
    }

    /// The next request somebody still waits for; without one the instance is told when there is.
    fn take(&self, cx: &Context<'_>) -> Option<Waiting> {
        let mut state = self.all.state();
        while let Some(waiting) = state.queue.pop_front() {
            if !waiting.answer.is_canceled() {
                state.taken = Instant::now();
                state.free.retain(|(number, _)| *number != self.number);
                return Some(waiting);
            }
        }
        let waker = cx.waker().clone();
        match state
            .free
            .iter_mut()
            .find(|(number, _)| *number == self.number)
        {
            Some((_, registered)) => *registered = waker,
            None => state.free.push((self.number, waker)),
        }
        None
    }

    /// It can take nothing now, so it leaves what waits to others.
    fn leave(&self) {
        let mut state = self.all.state();
        state.free.retain(|(number, _)| *number != self.number);
        self.all.attend(state);
    }

    async fn run(self, mut store: Store<Guest>, proxy: &Proxy) {
        let life = Arc::new(Life::default());
        let busy = AtomicBool::new(false);
        let all = Arc::clone(&self.all);
        let seen = Arc::clone(&store.data().seen);
        let mut expiry = pin!(Expiry::new(Arc::clone(&life)));
        let result = {
            let serve = async |accessor: &Accessor<Guest>| {
                self.serve(accessor, proxy, &life, &busy, &seen).await
            };
            let mut running = pin!(store.run_concurrent(serve));
            poll_fn(|cx| {
                loop {
                    if let Poll::Ready(result) = running.as_mut().poll(cx) {
                        return Poll::Ready(result.and_then(|served| served));
                    }
                    if let Poll::Ready(result) = expiry.as_mut().poll(cx) {
                        return Poll::Ready(result);
                    }
                    // Nothing runs: all that it serves waits for something, so there is room for
                    // another request.
                    if !busy.swap(false, Ordering::Relaxed) {
                        return Poll::Pending;
                    }
                }
            })
            .await
        };
        drop(store);
        all.ended(&life, result);
    }

    /// Takes requests and serves them until the instance retires.
    async fn serve(
        mut self,
        accessor: &Accessor<Guest>,
        proxy: &Proxy,
        life: &Arc<Life>,
        busy: &AtomicBool,
        seen: &Arc<Seen>,
    ) -> wasmtime::Result<()> {
        let Proxy::P3(guest) = proxy;
        let function = *guest.wasi_http_handler().func_handle().func();
        let app = Arc::clone(&self.all.app);
        let mut served = 0;
        let mut requests = FuturesUnordered::new();
        poll_fn(|cx| {
            loop {
                while let Poll::Ready(Some(answered)) = requests.poll_next_unpin(cx) {
                    let answered: bool = answered?;
                    if !answered {
                        self.retire();
                    }
                }
                let callable = accessor
                    .poll_ready_for_concurrent_call(function, cx)
                    .is_ready();
                if served >= app.reuse_max {
                    self.retire();
                }
                let free = !self.retired
                    && callable
                    && requests.len() < app.concurrent_max
                    && !busy.load(Ordering::Relaxed);
                let taken = if free { self.take(cx) } else { None };
                if let Some(Waiting {
                    request,
                    ends,
                    answer,
                    ..
                }) = taken
                {
                    served += 1;
                    busy.store(true, Ordering::Relaxed);
                    // Empty: it was made for this request.
                    let _ = ends.seen.set(Arc::clone(seen));
                    let over = life.request(ends.at);
                    let prepared = accessor.with(|mut access| {
                        let store = access.as_context_mut();
                        Prepared::new(store, proxy, request, Guest::http, answer)
                    });
                    requests.push(Box::pin(async move { prepared?.run(accessor, over).await }));
                    life.set(Doing::Requests);
                    continue;
                }
                if !free && !self.retired {
                    self.leave();
                }
                if !requests.is_empty() {
                    return Poll::Pending;
                }
                if life.doing().0 == Doing::Requests {
                    life.set(Doing::PostReturn);
                }
                if accessor.poll_no_interesting_tasks(cx).is_pending() {
                    return Poll::Pending;
                }
                if self.retired {
                    return Poll::Ready(Ok(()));
                }
                life.set(Doing::Nothing);
                return Poll::Pending;
            }
        })
        .await
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.retire();
    }
}

/// What an instance is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    /// It waits for requests.
    Nothing,
    Requests,
    /// All requests are answered and the guest still works: it streams a body, returns a connection.
    PostReturn,
}

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What an instance's timers know about its requests.
struct Life {
    doing: Mutex<(Doing, Instant)>,
    /// The last of the deadlines of its requests, in milliseconds since [`START`].
    latest_ms: AtomicU64,
    /// A request ran past its deadline.
    expired: AtomicBool,
}

impl Default for Life {
    fn default() -> Self {
        Self {
            doing: Mutex::new((Doing::Nothing, Instant::now())),
            latest_ms: AtomicU64::new(0),
            expired: AtomicBool::new(false),
        }
    }
}

impl Life {
    fn doing(&self) -> (Doing, Instant) {
        *self.doing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, doing: Doing) {
        let mut current = self.doing.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0 != doing {
            *current = (doing, Instant::now());
        }
    }

    /// Counts a request in; what is returned ends when the request has to.
    fn request(self: &Arc<Self>, ends: Instant) -> impl Future<Output = ()> + Send + use<> {
        let ms = ends.saturating_duration_since(*START).as_millis();
        self.latest_ms
            .fetch_max(u64::try_from(ms).unwrap_or(u64::MAX), Ordering::Relaxed);
        let life = Arc::clone(self);
        async move {
            sleep_until(ends.into()).await;
            life.expired.store(true, Ordering::Relaxed);
        }
    }

    fn latest(&self) -> Instant {
        *START + Duration::from_millis(self.latest_ms.load(Ordering::Relaxed) + 1)
    }

    fn until(&self) -> Instant {
        match self.doing() {
            (Doing::Nothing, since) => since + limits::INSTANCE_IDLE,
            (Doing::PostReturn, since) if self.expired.load(Ordering::Relaxed) => {
                since + limits::POST_RETURN_EXPIRED
            }
            (Doing::PostReturn, since) => since + limits::POST_RETURN,
            (Doing::Requests, _) => self.latest() + limits::RUNAWAY_GRACE,
        }
    }
}

/// Ends an instance that is idle, or that does not end by itself. Polled whenever the instance has
/// nothing to do or yields, so its timer is only moved when it would ring too late.
struct Expiry {
    life: Arc<Life>,
    timer: Pin<Box<Sleep>>,
}

impl Expiry {
    fn new(life: Arc<Life>) -> Self {
        let timer = Box::pin(sleep_until((Instant::now() + limits::INSTANCE_IDLE).into()));
        Self { life, timer }
    }
}

impl Future for Expiry {
    type Output = wasmtime::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let until = self.life.until();
        loop {
            if Instant::now() >= until {
                return Poll::Ready(match self.life.doing().0 {
                    Doing::Nothing => Ok(()),
                    Doing::Requests | Doing::PostReturn => {
                        Err(wasmtime::format_err!("the guest ran out of time"))
                    }
                });
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
