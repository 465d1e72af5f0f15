//! `innover bridge`: relay, delivery and queue beside stock Spin, over the same state folder.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use innover_bridge::{Bridge, BridgeConfig, Commits, HttpDoor, JOBS_PATH, NoGate, RedisConfig};
use innover_contract::Keyring;
use innover_host::{Handler, Listener};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    app::App, bus, databases::Databases, door, keys, log_file, migrate, print, secrets,
    state::StateDir, up,
};

const GRACE: Duration = Duration::from_secs(20);

/// What the command line and the environment say.
pub struct Options {
    /// Where the gateway is.
    pub gateway: String,
    /// This bridge's file; the state folder's when absent.
    pub store: Option<PathBuf>,
    pub databases: Databases,
    pub redis: RedisConfig,
    pub log: String,
    pub listen: SocketAddr,
}

/// Runs until SIGINT or SIGTERM.
pub async fn run(app: App, state: StateDir, options: Options) -> Result<()> {
    let Options {
        gateway,
        store,
        mut databases,
        redis,
        log,
        listen,
    } = options;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
    let log = log_file::open(&log)?;
    log_file::subscribe(&log);
    innover_failpoint::announce();
    let secrets = secrets::read(&state.secrets())?;
    let labels = migrate::labels(&app)?;
    databases.unlock(labels.iter().map(String::as_str), &secrets);
    let pending = migrate::pending(&app, &state, &databases).await?;
    if pending.iter().any(|report| !report.applied.is_empty()) {
        anyhow::bail!("the databases are not up to date: run `innover migrate` first");
    }
    let keyring = keys::bridge_keyring(&app, &secrets);
    let door = HttpDoor::new(&gateway, keyring.clone()).context("cannot set up the HTTP client")?;
    // Spin's guests cannot tell when they commit: outboxes are polled.
    let mut config = BridgeConfig::new(
        store.unwrap_or_else(|| state.bridge()),
        door::services(&app, |label| databases.place(&state, label)),
    );
    config.shared = databases.shared();
    config.redis = Some(redis);
    config.kafka = bus::kafka(&secrets)?;
    print::line(format!("bus  {}", bus::shown(config.kafka.as_ref())));
    let bridge = Bridge::start(config, Arc::new(door), Arc::new(NoGate), Commits::default())
        .await
        .context("the bridge does not start")?;
    let bridge = Arc::new(bridge);
    let listener = Listener::start(listen, management(&bridge, keyring))
        .await
        .with_context(|| {
            format!("cannot listen on {listen}; INNOVER_MANAGEMENT_LISTEN names another address")
        })?;
    print::line(format!(
        "management  {}/health, /readiness, /metrics",
        up::url(listener.address())
    ));
    print::line(format!(
        "bridge ready: {} to {gateway}",
        state.root().display()
    ));
    let signal = tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    };
    tracing::info!(signal, "stopping");
    listener.stop(Duration::from_millis(200)).await;
    if let Some(bridge) = up::finish(bridge, "bridge").await
        && tokio::time::timeout(GRACE, bridge.shutdown())
            .await
            .is_err()
    {
        print::line("deliveries that did not end are delivered again at the next start");
    }
    // Blocks until what was logged is on disk; nothing else runs any more.
    tokio::task::spawn_blocking(move || log.flush())
        .await
        .context("the log's thread failed")?;
    Ok(())
}

/// `/health`, `/readiness`, `/metrics`, and jobs for the gateway.
fn management(bridge: &Arc<Bridge>, keyring: Keyring) -> Handler {
    let bridge = Arc::downgrade(bridge);
    Arc::new(move |request: Request<Bytes>| {
        let (bridge, keyring) = (bridge.upgrade(), keyring.clone());
        Box::pin(async move {
            let Some(bridge) = bridge else {
                return up::unavailable();
            };
            let path = request.uri().path();
            if path.starts_with(JOBS_PATH) {
                return bridge.answer(&keyring, request).await;
            }
            let (status, kind, body) = match path {
                "/health" => (
                    StatusCode::OK,
                    "application/json",
                    r#"{"status":"ok"}"#.to_owned(),
                ),
                "/readiness" => {
                    let readiness = bridge.readiness();
                    let (status, word) = match readiness.ready {
                        true => (StatusCode::OK, "ready"),
                        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready"),
                    };
                    let missing = match readiness.ready {
                        true => json!({}),
                        false => json!({"bridge": readiness.problems.join("; ")}),
                    };
                    let body = json!({"status": word, "missing": missing});
                    (status, "application/json", body.to_string())
                }
                "/metrics" => (
                    StatusCode::OK,
                    "text/plain; version=0.0.4; charset=utf-8",
                    bridge.metrics(),
                ),
                _ => (
                    StatusCode::NOT_FOUND,
                    "application/json",
                    r#"{"paths":["/health","/readiness","/metrics"]}"#.to_owned(),
                ),
            };
            let mut response = Response::new(Bytes::from(body));
            *response.status_mut() = status;
            response
                .headers_mut()
                .insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            response
        })
    })
}
