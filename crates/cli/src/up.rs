//! `innover up`: the whole platform in this process.

use std::{
    net::SocketAddr,
    pin::pin,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use futures::future::join_all;
use http::Request;
use innover_bridge::{Bridge, BridgeConfig, Commits, RedisConfig, announce};
use innover_contract::Keyring;
use innover_host::{Host, HostConfig, KeyValueStore};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::{JoinHandle, JoinSet},
};

use crate::{
    app::App,
    bus,
    databases::Databases,
    door::{self, HostDoor, HostGate},
    keys::{self, Settings},
    log_file, migrate, print, redis_probe,
    state::StateDir,
    watch,
};

/// A stop waits this long for deliveries under way, and then for requests: longer than the deadline of
/// either (10 s), and together shorter than the 30 s after which supervisors kill.
const GRACE: Duration = Duration::from_secs(12);
/// A component's first instance starts within milliseconds; more means it will not.
const READY_MAX: Duration = Duration::from_secs(10);
/// Between two rounds of asking.
const READY_AGAIN: Duration = Duration::from_millis(100);

/// Between two looks at whether the components are ready still. Each costs every service a query.
const READY_LOOK: Duration = Duration::from_secs(10);

/// From the module cache it takes a tenth of a second.
const LOADING_QUICK: Duration = Duration::from_millis(700);

/// What the command line and the environment say.
pub struct Options {
    pub listen: SocketAddr,
    pub management_listen: SocketAddr,
    pub profile: String,
    pub issuer: Option<String>,
    pub redis: RedisConfig,
    pub databases: Databases,
    pub log: Option<String>,
    /// Where the bridge answers when it runs in a process of its own.
    pub bridge_elsewhere: Option<String>,
    pub watch: bool,
}

/// The command: starts, serves until SIGINT or SIGTERM, stops.
pub async fn run(app: App, state: StateDir, options: Options) -> Result<()> {
    let started = Instant::now();
    // From the first moment: a stop while it starts is a stop.
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
    let lock = state.run()?;
    let running = tokio::select! {
        running = start(app, &state, &options) => running?,
        _ = interrupt.recv() => stop_before_ready(),
        _ = terminate.recv() => stop_before_ready(),
    };
    running.announce(started, &options);
    let signal = tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    };
    tracing::info!(signal, "stopping");
    print::line("stopping  finishing what was accepted (again to stop at once)");
    tokio::select! {
        () = running.stop() => {}
        // Nothing that was answered is lost even so: it is committed, and events and jobs wait in
        // the databases.
        _ = interrupt.recv() => { print::line("stopped at once"); }
        _ = terminate.recv() => { print::line("stopped at once"); }
    }
    drop(lock);
    print::line("stopped");
    Ok(())
}

/// Nothing was accepted yet and files are renamed into place, so the process just ends: a runtime
/// would wait for components that are being compiled, which takes seconds and cannot be broken off.
fn stop_before_ready() -> ! {
    print::line("stopped before it was ready");
    std::process::exit(0)
}

struct Running {
    host: Arc<Host>,
    bridge: Option<(Arc<Bridge>, JoinHandle<()>)>,
    /// They end with the platform.
    _announcers: JoinSet<()>,
    /// Whether the components are ready.
    looks: JoinHandle<()>,
    watch: Option<JoinHandle<()>>,
    dev: bool,
}

fn step(name: &str, text: impl std::fmt::Display) {
    print::line(format!("{name:<11} {text}"));
}

async fn start(app: App, state: &StateDir, options: &Options) -> Result<Running> {
    let (listen, management_listen) = (
        concrete(options.listen)?,
        concrete(options.management_listen)?,
    );
    for warning in &app.manifest.warnings {
        step("warning", warning);
    }
    step(
        "state",
        format!("{} (profile {})", state.root().display(), options.profile),
    );

    let settings = Settings {
        profile: options.profile.clone(),
        issuer: options.issuer.clone().unwrap_or_else(|| url(listen)),
        redis_url: options.redis.broker.clone(),
        bridge_url: options
            .bridge_elsewhere
            .clone()
            .unwrap_or_else(|| url(management_listen)),
        databases: options.databases.clone(),
    };
    // Making an RSA key takes up to seconds; nothing else runs yet.
    let keys = keys::write(&app, state, &settings)?;
    step(
        "keys",
        match (keys.added.services, keys.added.signing_keys) {
            (0, 0) => format!("{} services", keys.services),
            (services, signing) => format!(
                "{} services; added {services} secrets, {signing} signing keys",
                keys.services
            ),
        },
    );
    let missing = keys::missing_variables(&app, &keys.variables);
    if !missing.is_empty() {
        bail!(
            "spin.toml requires variables that nobody gives; set {}",
            missing.join(", ")
        );
    }

    let databases = keys.databases;
    step("databases", databases.shown());
    step(
        "migrations",
        migrate::summary(&migrate::all(&app, state, &databases).await?),
    );
    app.check_built()?;

    let redis = redis_probe::ping(&options.redis.broker).await;
    step(
        "redis",
        match &redis {
            Ok(()) => redis_probe::shown(&options.redis.broker),
            Err(error) => format!(
                "none at {} ({error}): jobs of Celery clients and of PUBLISH <service>-tasks are off until one answers; everything else runs",
                redis_probe::shown(&options.redis.broker)
            ),
        },
    );

    let target = options
        .log
        .clone()
        .unwrap_or_else(|| state.log().display().to_string());
    let log = log_file::open(&target)?;
    log_file::subscribe(&log);
    innover_failpoint::announce();
    step("log", &target);

    let loading = Instant::now();
    let mut config = HostConfig::new(
        app.manifest.clone(),
        app.base.clone(),
        state.root().to_owned(),
    );
    config.module_cache = state.modules();
    config.release_memory = crate::release_memory;
    config.sqlite = app
        .database_labels()
        .iter()
        .map(|label| (label.to_string(), state.database(label)))
        .collect();
    config.key_value = [("default".to_owned(), KeyValueStore::File(state.key_value()))].into();
    config.variables = keys.variables;
    config.listen = listen;
    config.management_listen = Some(management_listen);
    config.redis_url = Some(options.redis.broker.clone());
    config.log = log;
    let host = Arc::new(
        patiently(Host::start(config))
            .await
            .map_err(explain_address)?,
    );

    let doors = doors(&app);
    let readiness = Arc::new(Mutex::new(Err("they have not started yet".to_owned())));
    let components = Arc::clone(&readiness);
    host.add_readiness("components", move || {
        let known = components.lock().unwrap_or_else(PoisonError::into_inner);
        known.clone()
    });

    let specs = door::services(&app, |label| databases.place(state, label));
    let mut announcers = JoinSet::new();
    let bridge = match &options.bridge_elsewhere {
        None => {
            step("bus", bus::shown(keys.kafka.as_ref()));
            let mut config = BridgeConfig::new(state.bridge(), specs);
            config.shared = databases.shared();
            config.redis = Some(options.redis.clone());
            config.kafka = keys.kafka;
            Some(start_bridge(config, &host, keys.bridge).await?)
        }
        Some(url) => {
            step("bridge", format!("in a process of its own, at {url}"));
            let bells = Commits::new(&specs);
            announcers = announce(&specs, &bells);
            announcers.spawn(ring(host.commits(), bells));
            None
        }
    };

    eventually_ready(&host, &doors).await?;
    *readiness.lock().unwrap_or_else(PoisonError::into_inner) = Ok(());
    let looks = tokio::spawn(look_at(Arc::downgrade(&host), doors, readiness));
    step(
        "components",
        format!(
            "{} loaded and ready in {} ms",
            app.wasm_files().len(),
            loading.elapsed().as_millis()
        ),
    );
    let watch = options
        .watch
        .then(|| tokio::spawn(watch::run(app, Arc::downgrade(&host))));
    Ok(Running {
        host,
        bridge,
        _announcers: announcers,
        looks,
        watch,
        dev: options.profile == "dev",
    })
}

/// Starts the bridge in this process and shows it on the host's management listener.
async fn start_bridge(
    config: BridgeConfig,
    host: &Arc<Host>,
    keyring: Keyring,
) -> Result<(Arc<Bridge>, JoinHandle<()>)> {
    let bells = Commits::new(&config.services);
    let bridge = Bridge::start(
        config,
        Arc::new(HostDoor::new(host.caller(), keyring.clone())),
        Arc::new(HostGate(Arc::downgrade(host))),
        bells.clone(),
    )
    .await
    .context("the bridge does not start")?;
    let bridge = Arc::new(bridge);
    let commits = tokio::spawn(ring(host.commits(), bells));
    let numbers = Arc::downgrade(&bridge);
    host.add_metrics(move |text| {
        if let Some(bridge) = numbers.upgrade() {
            text.push_str(&bridge.metrics());
        }
    });
    let jobs = Arc::downgrade(&bridge);
    host.add_handler(
        innover_bridge::JOBS_PATH,
        Arc::new(move |request| {
            let (jobs, keyring) = (jobs.upgrade(), keyring.clone());
            Box::pin(async move {
                match jobs {
                    Some(bridge) => bridge.answer(&keyring, request).await,
                    None => unavailable(),
                }
            })
        }),
    );
    let state_of = Arc::downgrade(&bridge);
    host.add_readiness("bridge", move || {
        let bridge = state_of.upgrade().ok_or("stopping")?;
        let readiness = bridge.readiness();
        if readiness.ready {
            Ok(())
        } else {
            Err(readiness.problems.join("; "))
        }
    });
    Ok((bridge, commits))
}

/// For a request that comes while the bridge stops.
pub fn unavailable() -> http::Response<Bytes> {
    let mut stopping = http::Response::new(Bytes::from_static(b"stopping\n"));
    *stopping.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
    stopping
}

/// Says why it takes long when it does: only a changed component is compiled.
async fn patiently<T>(starting: impl Future<Output = T>) -> T {
    let mut starting = pin!(starting);
    tokio::select! {
        started = &mut starting => return started,
        () = tokio::time::sleep(LOADING_QUICK) => {}
    }
    step(
        "components",
        "compiling them for this machine, once per version: some 10 s on two cores",
    );
    starting.await
}

/// Passes the host's commits on to the relays.
async fn ring(mut commits: innover_host::Commits, bells: Commits) {
    while let Some(labels) = commits.changed().await {
        labels.iter().for_each(|label| bells.committed(label));
    }
}

/// A service may be busy with what a crash left behind; it is asked again for a while.
async fn eventually_ready(host: &Host, doors: &[String]) -> Result<()> {
    let until = Instant::now() + READY_MAX;
    loop {
        match services_ready(host, doors).await {
            Err(_) if Instant::now() < until => tokio::time::sleep(READY_AGAIN).await,
            done => return done,
        }
    }
}

/// Every HTTP component.
fn doors(app: &App) -> Vec<String> {
    let triggers = app.manifest.http_triggers.iter();
    triggers
        .filter_map(|trigger| trigger.component.clone())
        .collect()
}

/// Asks all of them at once, not the gateway's `/health`, which asks the services again. Also warms each:
/// its first request would otherwise pay for the instance.
async fn services_ready(host: &Host, doors: &[String]) -> Result<()> {
    let asked = doors.iter().map(|component| ready(host, component));
    join_all(asked).await.into_iter().collect()
}

/// Keeps readiness true: a database may go, and come back.
async fn look_at(host: Weak<Host>, doors: Vec<String>, readiness: Arc<Mutex<Result<(), String>>>) {
    loop {
        tokio::time::sleep(READY_LOOK).await;
        let Some(host) = host.upgrade() else { return };
        let done = services_ready(&host, &doors)
            .await
            .map_err(|error| format!("{error:#}"));
        *readiness.lock().unwrap_or_else(PoisonError::into_inner) = done;
    }
}

async fn ready(host: &Host, id: &str) -> Result<()> {
    let path = "/readiness";
    let request = Request::get(path)
        .body(Bytes::new())
        .context("no request")?;
    let answer = host
        .call(id, request, READY_MAX)
        .await
        .map_err(|error| anyhow!("component {id} does not answer {path}: {error}"))?;
    if !answer.status().is_success() {
        let body = String::from_utf8_lossy(answer.body()).into_owned();
        bail!(
            "component {id} is not ready: {path} is {} {body}",
            answer.status()
        );
    }
    Ok(())
}

impl Running {
    fn announce(&self, started: Instant, options: &Options) {
        let base = url(self.host.addr());
        let management = self.host.management_addr().map(url).unwrap_or_default();
        print::line(format!("ready {base}"));
        print::line(format!(
            "management  {management}/health, /readiness, /metrics"
        ));
        print::line(format!("started in  {} ms", started.elapsed().as_millis()));
        if self.dev {
            print::line(
                "dev users   admin, ops_user, finance, auditor, user, analyst, viewer (password = user name)",
            );
        }
        let at = if options.listen.port() == 3000 {
            String::new()
        } else {
            format!(" --url {base}")
        };
        // As it was typed: the folder of the build is on nobody's PATH.
        let innover = std::env::args()
            .next()
            .unwrap_or_else(|| "innover".to_owned());
        print::line(format!("try         {innover} demo{at}"));
        print::line(format!("            {innover} token --user finance{at}"));
        print::line(format!("            curl {base}/api/forex/v1/docs"));
    }

    /// Finishes what was accepted. The bridge goes first: while it finishes its deliveries the
    /// components must still be callable; what is committed meanwhile waits in the outboxes.
    async fn stop(self) {
        // Balancers send nothing new while what was accepted is finished.
        self.host
            .add_readiness("host", || Err("stopping".to_owned()));
        for task in [Some(self.looks), self.watch].into_iter().flatten() {
            task.abort();
            // Wait for it to be gone, so that it holds the host no longer; aborted is what we want.
            let _ = task.await;
        }
        if let Some((bridge, commits)) = self.bridge {
            let bridge = finish(bridge, "bridge").await;
            if let Some(bridge) = bridge
                && tokio::time::timeout(GRACE, bridge.shutdown())
                    .await
                    .is_err()
            {
                print::line(
                    "stopping  deliveries that did not end are delivered again at the next start",
                );
            }
            commits.abort();
        }
        if let Some(host) = finish(self.host, "host").await {
            host.shutdown(GRACE).await;
        }
    }
}

/// Takes the value out of its `Arc`: others hold it only for the moment of a scrape or a lock.
pub async fn finish<T>(mut shared: Arc<T>, what: &str) -> Option<T> {
    for _ in 0..100 {
        match Arc::try_unwrap(shared) {
            Ok(value) => return Some(value),
            Err(again) => shared = again,
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tracing::warn!(
        what,
        "still in use at shutdown; it is ended without finishing"
    );
    None
}

/// A port of 0 is replaced by a free one before the start, since the issuer's URL carries it.
fn concrete(address: SocketAddr) -> Result<SocketAddr> {
    if address.port() != 0 {
        return Ok(address);
    }
    let taken = std::net::TcpListener::bind(address).context("no free port")?;
    taken.local_addr().context("no free port")
}

/// `http://` and the address; one that listens everywhere is reached locally by loopback.
pub fn url(address: SocketAddr) -> String {
    let ip = if address.ip().is_unspecified() {
        "127.0.0.1".to_owned()
    } else {
        address.ip().to_string()
    };
    if address.is_ipv6() && !address.ip().is_unspecified() {
        return format!("http://[{ip}]:{}", address.port());
    }
    format!("http://{ip}:{}", address.port())
}

fn explain_address(error: anyhow::Error) -> anyhow::Error {
    let in_use = error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|io| io.kind() == std::io::ErrorKind::AddrInUse)
    });
    if in_use {
        return error.context(
            "the port is taken: stop what uses it, or choose another with INNOVER_LISTEN and INNOVER_MANAGEMENT_LISTEN",
        );
    }
    error
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
    use super::*;

    #[test]
    fn the_url_is_one_a_client_can_use() {
        for (address, expected) in [
            ("127.0.0.1:3000", "http://127.0.0.1:3000"),
            ("0.0.0.0:3000", "http://127.0.0.1:3000"),
            ("[::]:80", "http://127.0.0.1:80"),
            ("[::1]:80", "http://[::1]:80"),
        ] {
            assert_eq!(url(address.parse().unwrap()), expected);
        }
    }

    #[test]
    fn port_zero_becomes_a_real_one() {
        assert_ne!(concrete("127.0.0.1:0".parse().unwrap()).unwrap().port(), 0);
        assert_eq!(
            concrete("127.0.0.1:81".parse().unwrap()).unwrap().port(),
            81
        );
    }
}
