//! `innover bridge`: relay, delivery and queue beside stock Spin, over the same state folder.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use innover_bridge::{Bridge, BridgeConfig, Commits, HttpDoor, NoGate, RedisConfig};
use tokio::signal::unix::{SignalKind, signal};

use crate::{app::App, door, keys, log_file, migrate, print, secrets, state::StateDir};

const GRACE: Duration = Duration::from_secs(20);

/// Runs until SIGINT or SIGTERM.
pub async fn run(
    app: App,
    state: StateDir,
    gateway: &str,
    log: &str,
    redis: RedisConfig,
) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
    let log = log_file::open(log)?;
    log_file::subscribe(&log);
    let secrets = secrets::read(&state.secrets())?;
    let pending = migrate::pending(&app, &state)?;
    if pending.iter().any(|report| !report.applied.is_empty()) {
        anyhow::bail!("the databases are not up to date: run `innover migrate` first");
    }
    let keyring = keys::bridge_keyring(&app, &secrets);
    let door = HttpDoor::new(gateway, keyring).context("cannot set up the HTTP client")?;
    // Spin's guests cannot tell when they commit: outboxes are polled.
    let mut config = BridgeConfig::new(
        state.bridge(),
        door::services(&app, |label| state.database(label)),
    );
    config.redis = Some(redis);
    let bridge = Bridge::start(config, Arc::new(door), Arc::new(NoGate), Commits::default())
        .await
        .context("the bridge does not start")?;
    print::line(format!(
        "bridge ready: {} to {gateway}",
        state.root().display()
    ));
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    if tokio::time::timeout(GRACE, bridge.shutdown())
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
