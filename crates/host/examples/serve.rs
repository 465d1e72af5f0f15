//! Serves a `spin.toml`: `serve <spin.toml> <state folder> <address>`.
//!
//! The platform's own command is `innover up`; this one is for measuring the host by itself.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use innover_host::log::Log;
use innover_host::{Host, HostConfig};
use innover_manifest::Manifest;

fn main() -> anyhow::Result<()> {
    let cores = std::thread::available_parallelism()?.get();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(
            std::env::var("WORKERS")
                .ok()
                .and_then(|n| n.parse().ok())
                .unwrap_or(cores * 2),
        )
        .enable_all()
        .build()?
        .block_on(serve())
}

async fn serve() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let mut next = |what: &str| args.next().with_context(|| format!("missing: {what}"));
    let file = PathBuf::from(next("spin.toml")?);
    let state = PathBuf::from(next("state folder")?);
    let manifest = Manifest::parse(&std::fs::read_to_string(&file)?)?;
    let base = file.parent().map(PathBuf::from).unwrap_or_default();
    let mut config = HostConfig::new(manifest, base, state);
    config.listen = next("address")?.parse()?;
    config.management_listen = Some(([127, 0, 0, 1], 0).into());
    let log = Log::stderr();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .json()
        .with_max_level(tracing::Level::INFO)
        .with_writer(move || writer.writer())
        .init();
    config.log = log.requests(std::env::var("QUIET").is_err());
    let host = Host::start(config).await?;
    println!("http://{} http://{:?}", host.addr(), host.management_addr());
    tokio::signal::ctrl_c().await?;
    host.shutdown(Duration::from_secs(10)).await;
    Ok(())
}
