//! `innover bench`: what the platform does on this machine, measured against what bounds it.
//!
//! It runs platforms of its own (free ports, temporary state), so that nothing of the user's is
//! touched and an earlier run does not weigh on the next. Every figure is the median of rounds;
//! the load generator shares the machine, as everybody's does on a laptop.

mod events;
mod ledger;
mod limits;
mod load;
mod machine;
mod process;
mod storage;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::{
    app::App,
    arguments::BenchPart,
    client::{Caller, Platform},
    print,
};
use load::{Load, Report};
use process::Running;
use storage::Storage;

/// Connections of the load generator, as in the figures this is compared with.
const CONNECTIONS: usize = 16;
/// One round of requests.
const ROUND: Duration = Duration::from_secs(4);
/// Rounds per figure.
const ROUNDS: usize = 3;
/// Payments of one round.
const PAYMENTS: usize = 4_000;
/// Wallets the payments run between.
const WALLETS: usize = 20;
/// A round of payments that has not ended by then never will.
const SETTLED_MAX: Duration = Duration::from_secs(120);

/// The command. `payments` is the number per round, `only` what to measure; all of it when empty.
pub async fn run(app: &App, payments: Option<usize>, only: &[BenchPart]) -> Result<()> {
    let wanted = |part| only.is_empty() || only.contains(&part);
    app.check_built()?;
    print::line(machine::describe());
    let fsync = machine::fsyncs_per_second().context("cannot measure fsync")?;
    print::line(format!(
        "fdatasync of 8 kB: {fsync:.0}/s on the disk that holds the state (bounds one-commit-at-a-time)"
    ));
    print::line("");

    let storage = Arc::new(Storage::from_environment()?);
    let mut rows: Vec<[String; 5]> = Vec::new();
    let done = measure(app, &storage, payments, wanted, &mut rows).await;
    // Whatever happened, nothing stays on the user's server.
    storage.clear().await?;
    done?;
    print::table(["what", "median", "p50", "p99", "goal"], &rows);
    Ok(())
}

async fn measure(
    app: &App,
    storage: &Arc<Storage>,
    payments: Option<usize>,
    wanted: impl Fn(BenchPart) -> bool,
    rows: &mut Vec<[String; 5]>,
) -> Result<()> {
    if let (Storage::Server(server), true) = (&**storage, wanted(BenchPart::Limits)) {
        limits::rounds(server, rows).await?;
    }
    if wanted(BenchPart::Starts) {
        starts(app, storage, rows).await?;
    }
    let running = Running::start(app, storage, None).await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    rows.push(row(
        "memory at rest",
        format!("{:.0} MB", running.resident_mb()?),
        "",
        "",
        "≤ 200 MB",
    ));
    if wanted(BenchPart::Requests) {
        requests(&running, rows).await?;
    }
    if wanted(BenchPart::Payments) {
        payment_rounds(&running, payments.unwrap_or(PAYMENTS), rows).await?;
    }
    if wanted(BenchPart::Ledger) {
        ledger::rounds(&running, rows).await?;
    }
    if wanted(BenchPart::Events) {
        events::rounds(&running, rows).await?;
    }
    rows.push(row(
        "memory after the load",
        format!("{:.0} MB", running.resident_mb()?),
        "",
        "",
        "",
    ));
    running.stop().await?;
    Ok(())
}

fn row(what: &str, median: impl Into<String>, p50: &str, p99: &str, goal: &str) -> [String; 5] {
    [
        what.into(),
        median.into(),
        p50.into(),
        p99.into(),
        goal.into(),
    ]
}

/// Cold: no compiled modules and no keys. Warm: the same state again.
async fn starts(app: &App, storage: &Arc<Storage>, rows: &mut Vec<[String; 5]>) -> Result<()> {
    let first = Running::start(app, storage, None).await?;
    let cold = first.started_in;
    let folder = first.stop().await?;
    let mut warm = Vec::new();
    let mut folder = Some(folder);
    for _ in 0..ROUNDS {
        let again = Running::start(app, storage, folder.take()).await?;
        warm.push(again.started_in.as_secs_f64() * 1e3);
        folder = Some(again.stop().await?);
    }
    rows.push(row(
        "cold start to ready (compiles, makes keys)",
        format!("{} ms", cold.as_millis()),
        "",
        "",
        "",
    ));
    rows.push(row(
        "warm start to ready",
        format!("{:.0} ms", median(&mut warm)),
        "",
        "",
        "≤ 1,000 ms",
    ));
    Ok(())
}

async fn requests(running: &Running, rows: &mut Vec<[String; 5]>) -> Result<()> {
    let token = Platform::new(&running.url)?
        .token(&Caller::dev("user"), None)
        .await?;
    for (what, path, token, goal) in [
        (
            "the host alone: GET /.well-known/spin/health",
            "/.well-known/spin/health",
            None,
            "",
        ),
        ("one component: GET /health", "/health", None, ""),
        (
            "gateway → forex: GET /api/forex/v1/health",
            "/api/forex/v1/health",
            Some(&token),
            "≥ 12,000/s, p99 < 5 ms",
        ),
    ] {
        let load = Load::get(&running.url, path, token.map(String::as_str))?;
        load.run(CONNECTIONS, Duration::from_secs(1)).await?;
        let mut reports = Vec::new();
        for _ in 0..ROUNDS {
            reports.push(load.run(CONNECTIONS, ROUND).await?);
        }
        rows.push(report_row(what, reports, "req/s", goal)?);
    }
    Ok(())
}

fn report_row(what: &str, reports: Vec<Report>, unit: &str, goal: &str) -> Result<[String; 5]> {
    let bad: usize = reports.iter().map(|r| r.not_2xx).sum();
    if bad > 0 {
        bail!("{what}: {bad} answers were not 2xx; a figure of failures means nothing");
    }
    let mut rates: Vec<f64> = reports.iter().map(Report::per_second).collect();
    let mut p50: Vec<f64> = reports.iter().map(|r| r.percentile_ms(50.0)).collect();
    let mut p99: Vec<f64> = reports.iter().map(|r| r.percentile_ms(99.0)).collect();
    Ok(row(
        what,
        format!("{:.0} {unit}", median(&mut rates)),
        &format!("{:.2} ms", median(&mut p50)),
        &format!("{:.2} ms", median(&mut p99)),
        goal,
    ))
}

/// Payments posted as fast as 16 connections can, half of them across currencies; the time to
/// completed is what the payments' own rows say.
async fn payment_rounds(
    running: &Running,
    count: usize,
    rows: &mut Vec<[String; 5]>,
) -> Result<()> {
    let platform = Platform::new(&running.url)?;
    let user = platform.login(&Caller::dev("user")).await?;
    let finance = platform.login(&Caller::dev("finance")).await?;
    let mut wallets = Vec::new();
    for n in 0..WALLETS {
        let currency = if n % 2 == 0 { "EUR" } else { "USD" };
        let opened = user
            .post(
                "/api/wallet/v1/wallets",
                &json!({"currency": currency}),
                Some(&key()),
            )
            .await?;
        let id = opened.body["id"]
            .as_str()
            .context("the wallet has no id")?
            .to_owned();
        let top_up = json!({"amount": "1000000.00", "currency": currency});
        finance
            .post(
                &format!("/api/wallet/v1/wallets/{id}/top-ups"),
                &top_up,
                Some(&key()),
            )
            .await?;
        wallets.push((id, currency));
    }
    let token = platform.token(&Caller::dev("user"), None).await?;
    let (mut accepted, mut completed, mut p50, mut p99) = (vec![], vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        let bodies = (0..count)
            .map(|n| {
                let (payer, currency) = &wallets[n % WALLETS];
                let (payee, _) = &wallets[(n + 1 + n % 7) % WALLETS];
                let body = json!({"payer_wallet": payer, "payee_wallet": payee, "amount": "1.00",
                                  "currency": currency, "reference": "bench"});
                (Some(key()), body.to_string())
            })
            .collect();
        let before = running.newest_payment().await?;
        let load = Load::post(&running.url, "/api/payment/v1/process", &token, bodies)?;
        let posted = load.run(CONNECTIONS, SETTLED_MAX).await?;
        if posted.not_2xx > 0 {
            bail!("{} of {count} payments were not accepted", posted.not_2xx);
        }
        accepted.push(posted.per_second());
        let settled = running
            .settled(&before, count, Instant::now() + SETTLED_MAX)
            .await?;
        completed.push(settled.per_second);
        p50.push(settled.p50_ms);
        p99.push(settled.p99_ms);
    }
    rows.push(row(
        "payments accepted (POST answered 202)",
        format!("{:.0}/s", median(&mut accepted)),
        "",
        "",
        "",
    ));
    rows.push(row(
        "payments completed, under that load",
        format!("{:.0}/s", median(&mut completed)),
        &format!("{:.0} ms", median(&mut p50)),
        &format!("{:.0} ms", median(&mut p99)),
        "≥ 1,000/s",
    ));
    idle_latency(&user, running, &wallets, rows).await
}

/// One payment after the other: what a caller sees on a platform that is not loaded.
async fn idle_latency(
    user: &Platform,
    running: &Running,
    wallets: &[(String, &str)],
    rows: &mut Vec<[String; 5]>,
) -> Result<()> {
    let before = running.newest_payment().await?;
    let rounds = 50;
    for n in 0..rounds {
        let (payer, currency) = &wallets[n % WALLETS];
        let body = json!({"payer_wallet": payer, "payee_wallet": &wallets[(n + 1) % WALLETS].0,
                          "amount": "1.00", "currency": currency, "reference": "bench"});
        user.post("/api/payment/v1/process", &body, Some(&key()))
            .await?;
        running
            .settled(&before, n + 1, Instant::now() + SETTLED_MAX)
            .await?;
    }
    let settled = running
        .settled(&before, rounds, Instant::now() + SETTLED_MAX)
        .await?;
    rows.push(row(
        "one payment at a time, to completed",
        "",
        &format!("{:.0} ms", settled.p50_ms),
        &format!("{:.0} ms", settled.p99_ms),
        "",
    ));
    Ok(())
}

fn key() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// The middle one; of an even number the lower middle.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values
        .get(values.len().saturating_sub(1) / 2)
        .copied()
        .unwrap_or(f64::NAN)
}
