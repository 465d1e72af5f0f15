//! A running host: how it starts, what native code may ask of it, how it stops.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt};
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use innover_manifest::Manifest;
use wasmtime::Engine;
use wasmtime::component::Linker;

use crate::cache::{ModuleCache, Origin};
use crate::config::{HostConfig, KeyValueStore};
use crate::database::{Commits, Databases, LockError, WriteGuard};
use crate::engine;
use crate::guest::Guest;
use crate::interfaces::key_value::Stores;
use crate::interfaces::redis::Servers;
use crate::load::{self, App};
use crate::management::{self, Management};
use crate::metrics::Metrics;
use crate::problem::Problem;
use crate::route::{Client, Entrance};
use crate::serve::Server;
use crate::service::{Exports, Service, Via};
use crate::shared::Shared;
use crate::triggers::redis::Subscriptions;
use crate::{config, limits, postgres};

/// A running application.
pub struct Host {
    shared: Arc<Shared>,
    loader: Arc<Loader>,
    management: Arc<Management>,
    server: Server,
    management_server: Option<Server>,
    subscriptions: Subscriptions,
    release_memory: fn(),
}

/// Why a call from native code got no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No such component, or it exports no HTTP handler.
    #[error("no such component, or it serves no HTTP")]
    NotFound,
    /// It is at its limit; nothing was done.
    #[error("the component is at its limit")]
    Saturated,
    /// The deadline passed; the work may still finish.
    #[error("no answer within the deadline")]
    Deadline,
    /// It trapped; the work may have been done or not.
    #[error("the component failed")]
    Trapped,
    /// The host stops; nothing was done.
    #[error("the host is stopping")]
    Stopping,
    /// The answer is larger than the host takes.
    #[error(
        "the answer is larger than {} bytes, or broke off",
        limits::BODY_BYTES_MAX
    )]
    Body,
}

impl From<Problem> for CallError {
    fn from(problem: Problem) -> Self {
        match problem {
            Problem::NotFound | Problem::NoHost => CallError::NotFound,
            Problem::Saturated => CallError::Saturated,
            Problem::Deadline => CallError::Deadline,
            Problem::Trapped => CallError::Trapped,
            Problem::Stopping => CallError::Stopping,
            Problem::BodyTooLarge | Problem::HeadersTooLarge => CallError::Body,
        }
    }
}

impl Host {
    /// Loads every component, opens every store, binds and serves. When this returns, the host
    /// answers; only Redis servers may still be away.
    pub async fn start(config: HostConfig) -> anyhow::Result<Host> {
        let started = Instant::now();
        refuse_unsupported(&config.manifest)?;
        let metrics = Arc::new(Metrics::default());
        let shared = Arc::new(Shared::new(
            Databases::open(&database_files(&config), database_labels(&config), &metrics)?,
            Stores::open(&key_value_stores(&config))?,
            Servers::default(),
            postgres::Servers::new(config.postgres_connections),
            config.log.clone(),
            metrics,
        ));
        let apps = apps(&config)?;
        let memory_max = apps.iter().map(|app| app.memory_bytes).max();
        let engine = engine::new(memory_max.unwrap_or(limits::MEMORY_BYTES_DEFAULT))
            .map_err(|error| anyhow!("{error:#}"))?;
        engine::tick(&engine).context("cannot start the epoch thread")?;
        let linker = engine::linker(&engine).map_err(|error| anyhow!("{error:#}"))?;
        let loader = Arc::new(Loader {
            linker,
            cache: ModuleCache::open(&config.module_cache)?,
            engine: engine.clone(),
        });
        let mut services = HashMap::new();
        for (app, exports) in loader.load_all(apps).await? {
            let service = Service::new(&shared, Arc::clone(&app), &engine, exports);
            services.insert(app.id.clone(), Arc::new(service));
        }
        shared.set_services(services);
        (config.release_memory)();
        check_exports(&config.manifest, &shared)?;

        let entrance = Arc::new(Entrance::new(&shared, &config.manifest)?);
        let server = Server::start(config.listen, move |address| {
            let entrance = Arc::clone(&entrance);
            let client = Arc::new(Client::new(address));
            move |request| {
                let (entrance, client) = (Arc::clone(&entrance), Arc::clone(&client));
                async move { entrance.answer(request, &client).await }
            }
        })
        .await
        .with_context(|| format!("cannot listen on {}", config.listen))?;
        let management = Arc::new(Management::new(&shared));
        let management_server = match config.management_listen {
            Some(address) => {
                let management = Arc::clone(&management);
                let server = Server::start(address, move |_| {
                    let management = Arc::clone(&management);
                    move |request| {
                        let management = Arc::clone(&management);
                        async move { management.answer(request).await }
                    }
                })
                .await
                .with_context(|| format!("cannot listen on {address}"))?;
                Some(server)
            }
            None => None,
        };
        let subscriptions = Subscriptions::start(&config, &shared)?;
        tracing::info!(
            address = %server.address(),
            components = shared.services().count(),
            took_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "host is serving"
        );
        Ok(Host {
            shared,
            loader,
            management,
            server,
            management_server,
            subscriptions,
            release_memory: config.release_memory,
        })
    }

    /// Where HTTP is served.
    pub fn addr(&self) -> SocketAddr {
        self.server.address()
    }

    /// Where management is served.
    pub fn management_addr(&self) -> Option<SocketAddr> {
        self.management_server.as_ref().map(Server::address)
    }

    /// Calls a component in process, as another component would. A relative URI is completed with
    /// `http://<component>.spin.internal`. The answer's body is read whole.
    pub async fn call(
        &self,
        component: &str,
        request: Request<Bytes>,
        deadline: Duration,
    ) -> Result<Response<Bytes>, CallError> {
        self.caller().call(component, request, deadline).await
    }

    /// A handle for [`Host::call`] that tasks of their own may keep.
    pub fn caller(&self) -> Caller {
        Caller {
            shared: Arc::clone(&self.shared),
        }
    }

    /// Tells which databases guests committed to.
    pub fn commits(&self) -> Commits {
        self.shared.databases.commits()
    }

    /// Takes a database's write lock, the one guests take at BEGIN IMMEDIATE. Waits at most
    /// [`limits::DATABASE_LOCK_WAIT`]. `None`: no database has this label.
    pub async fn lock_database(&self, label: &str) -> Option<Result<WriteGuard, LockError>> {
        self.shared.databases.lock(label).await
    }

    /// Returns when all that guests have committed in a database so far is on disk: they go on
    /// before that, and only what leaves the process waits.
    pub async fn settle_database(&self, label: &str) {
        self.shared.databases.settle(label).await;
    }

    /// Loads a component's file again. New requests go to the new version, those in flight finish on
    /// the old one. On an error the old one stays.
    pub async fn reload(&self, component: &str) -> anyhow::Result<()> {
        let service = self
            .shared
            .service(component)
            .with_context(|| format!("no component {component}"))?;
        let loader = Arc::clone(&self.loader);
        let app = Arc::clone(&service.app);
        let (exports, _) = tokio::task::spawn_blocking(move || loader.load(&app)).await??;
        if service.exports_http() && exports.http.is_none()
            || service.exports_redis() && exports.redis.is_none()
        {
            bail!("component {component}: the new version lacks an export its triggers need");
        }
        service.replace(exports);
        (self.release_memory)();
        Ok(())
    }

    /// Adds text to `/metrics`; `render` appends whole lines in Prometheus' text format.
    pub fn add_metrics(&self, render: impl Fn(&mut String) + Send + Sync + 'static) {
        self.shared.metrics.add(Box::new(render));
    }

    /// Adds a check to `/readiness`, under `name`. It must not block.
    pub fn add_readiness(
        &self,
        name: impl Into<String>,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) {
        let check: config::ReadinessCheck = Arc::new(check);
        self.management.add_readiness(name.into(), check);
    }

    /// Serves paths that begin with `prefix` on the management listener.
    pub fn add_handler(&self, prefix: &'static str, handler: management::Handler) {
        self.management.add_handler(prefix, handler);
    }

    /// Stops accepting, finishes what was accepted (at most `grace`), and closes.
    pub async fn shutdown(self, grace: Duration) {
        let management = self.management_server;
        futures::join!(self.server.stop(grace), self.subscriptions.stop(grace));
        self.shared.stop();
        if let Some(management) = management {
            management.stop(Duration::from_millis(200)).await;
        }
        let log = self.shared.log.clone();
        // The writer thread may be behind; a failed join only means that lines are lost.
        let _ = tokio::task::spawn_blocking(move || log.flush()).await;
    }
}

/// See [`Host::caller`].
#[derive(Clone)]
pub struct Caller {
    shared: Arc<Shared>,
}

impl Caller {
    /// See [`Host::call`].
    pub async fn call(
        &self,
        component: &str,
        request: Request<Bytes>,
        deadline: Duration,
    ) -> Result<Response<Bytes>, CallError> {
        if self.shared.is_stopping() {
            return Err(CallError::Stopping);
        }
        let service = self.shared.service(component).ok_or(CallError::NotFound)?;
        let (mut parts, body) = request.into_parts();
        if parts.uri.authority().is_none() {
            let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
            parts.uri = format!("http://{component}.spin.internal{path}")
                .parse()
                .map_err(|_| CallError::NotFound)?;
        }
        let body = Full::new(body)
            .map_err(|never| match never {})
            .boxed_unsync();
        let request = Request::from_parts(parts, body);
        let started = Instant::now();
        let response = service.call(request, deadline, Via::Call, "/...").await?;
        let (parts, body) = response.into_parts();
        let cap = usize::try_from(limits::BODY_BYTES_MAX).unwrap_or(usize::MAX);
        let left = deadline.saturating_sub(started.elapsed());
        let body = tokio::time::timeout(left, Limited::new(body, cap).collect())
            .await
            .map_err(|_| CallError::Deadline)?
            .map_err(|_| CallError::Body)?;
        Ok(Response::from_parts(parts, body.to_bytes()))
    }
}

/// Components that are read or compiled at the same moment.
const LOADED_AT_ONCE: usize = 2;

/// What it takes to make a component callable; kept for `reload`.
struct Loader {
    linker: Linker<Guest>,
    cache: ModuleCache,
    engine: Engine,
}

impl Loader {
    fn load(&self, app: &App) -> anyhow::Result<(Exports, Origin)> {
        load::exports(&self.engine, &self.linker, &self.cache, app)
            .with_context(|| format!("component {}", app.id))
    }

    /// Loads two at a time: compiling one uses every core by itself, and the second fills the gaps
    /// where the first one does not. All at once, the compiler's memory for all of them is there at
    /// the same moment, and the process keeps some of it.
    async fn load_all(
        self: &Arc<Self>,
        apps: Vec<App>,
    ) -> anyhow::Result<Vec<(Arc<App>, Exports)>> {
        // Threads that end with the compiling: what they leave behind in their part of the allocator
        // is free for the rest of the process only then.
        let compilers = Arc::new(rayon::ThreadPoolBuilder::new().build()?);
        let loading = apps.into_iter().map(|app| {
            let (loader, compilers) = (Arc::clone(self), Arc::clone(&compilers));
            tokio::task::spawn_blocking(move || {
                let started = Instant::now();
                let (exports, origin) = compilers.install(|| loader.load(&app))?;
                tracing::debug!(component = app.id, ?origin, took = ?started.elapsed(), "loaded");
                Ok((Arc::new(app), exports))
            })
            .map(|loaded| loaded.map_err(anyhow::Error::from).flatten())
        });
        futures::stream::iter(loading)
            .buffered(LOADED_AT_ONCE)
            .try_collect()
            .await
    }
}

fn apps(config: &HostConfig) -> anyhow::Result<Vec<App>> {
    // Only what a trigger starts: other components may be there for composition or for Spin.
    let http = config
        .manifest
        .http_triggers
        .iter()
        .filter_map(|t| t.component.as_deref());
    let redis = config
        .manifest
        .redis_triggers
        .iter()
        .map(|t| t.component.as_str());
    let ids: BTreeSet<&str> = http.chain(redis).collect();
    ids.into_iter()
        .map(|id| {
            let definition = config
                .manifest
                .components
                .get(id)
                .with_context(|| format!("component {id} is not defined"))?;
            load::app(config, id, definition).with_context(|| format!("component {id}"))
        })
        .collect()
}

fn database_files(config: &HostConfig) -> BTreeMap<String, PathBuf> {
    let labels = config
        .manifest
        .components
        .values()
        .flat_map(|c| &c.sqlite_databases);
    labels
        .map(|label| {
            let file = config.sqlite.get(label).cloned();
            let default = || config.state_dir.join("db").join(format!("{label}.db"));
            (label.clone(), file.unwrap_or_else(default))
        })
        .collect()
}

/// Labels of the services' databases, wherever they are.
fn database_labels(config: &HostConfig) -> impl Iterator<Item = &str> {
    let components = config.manifest.components.values();
    components.filter_map(|c| c.innover.database.as_deref())
}

fn key_value_stores(config: &HostConfig) -> BTreeMap<String, KeyValueStore> {
    let labels = config
        .manifest
        .components
        .values()
        .flat_map(|c| &c.key_value_stores);
    labels
        .map(|label| {
            let store = config.key_value.get(label).cloned();
            let default = || KeyValueStore::File(config.state_dir.join("key_value.db"));
            (label.clone(), store.unwrap_or_else(default))
        })
        .collect()
}

fn refuse_unsupported(manifest: &Manifest) -> anyhow::Result<()> {
    let unsupported = manifest.unsupported();
    if unsupported.is_empty() {
        return Ok(());
    }
    bail!("this host does not run: {}", unsupported.join("; "))
}

/// Each trigger's component must export what the trigger calls.
fn check_exports(manifest: &Manifest, shared: &Shared) -> anyhow::Result<()> {
    for id in manifest
        .http_triggers
        .iter()
        .filter_map(|trigger| trigger.component.as_deref())
    {
        if !shared
            .service(id)
            .is_some_and(|service| service.exports_http())
        {
            bail!("component {id} has an HTTP trigger but exports no wasi:http/handler@0.3.0");
        }
    }
    Ok(())
}
