//! Events alone: how fast an outbox is emptied, and how long one takes from the change it tells of to
//! its effect in another service.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::{ROUNDS, key, ledger, load::Load, median, process::Running, row};
use crate::client::{Caller, Platform};

/// Events that wait in the outbox at the start of a round.
const WAITING: usize = 50_000;
/// A round that has not ended by then never will.
const ROUND_MAX: Duration = Duration::from_secs(120);
/// Events per second while latency is measured.
const RATE: f64 = 500.0;
/// How many of them in a round.
const PACED: usize = 5_000;
/// Connections they are asked for over.
const CONNECTIONS: usize = 16;

pub async fn rounds(running: &Running, rows: &mut Vec<[String; 5]>) -> Result<()> {
    relay(running, rows).await?;
    latency(running, rows).await
}

/// Rows that are there all at once, of a type nobody has subscribed to: what the relay and the bus
/// do, from the commit until the last row is deleted because it is published.
async fn relay(running: &Running, rows: &mut Vec<[String; 5]>) -> Result<()> {
    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        let outbox = running.database("profile").await?;
        let payload = r#"{"reference":"bench","amount":"1.00","currency":"EUR"}"#;
        let run = key();
        let sql = format!(
            "INSERT INTO outbox (id, topic, key, key_version, type, payload, headers, created_at)
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {WAITING})
             SELECT '{run}-' || CAST(1000000 + i AS TEXT), 'bench.relayed', 'k' || CAST(i % 1000 AS TEXT), i,
                    'bench.relayed', '{payload}', '', 1793372400000000 FROM n"
        );
        outbox.execute(&sql).await?;
        let started = Instant::now();
        while outbox.number("SELECT COUNT(*) FROM outbox", &[]).await? > 0 {
            if started.elapsed() > ROUND_MAX {
                bail!("the outbox was not emptied in time");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        rates.push(WAITING as f64 / started.elapsed().as_secs_f64());
    }
    rows.push(row(
        "outbox emptied by the relay, 50,000 events waiting",
        format!("{:.0} events/s", median(&mut rates)),
        "",
        "",
        "≥ 10,000/s",
    ));
    Ok(())
}

/// Entries of the ledger at a steady rate; each is an event that the audit trail records. Counted from
/// the event's own time, taken before the entry is committed, to the time of the record.
async fn latency(running: &Running, rows: &mut Vec<[String; 5]>) -> Result<()> {
    ledger::open_accounts(running).await?;
    let token = Platform::new(&running.url)?
        .token(&Caller::dev("finance"), None)
        .await?;
    let audit = running.database("audit").await?;
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let before = audit
            .number("SELECT COALESCE(MAX(seq), 0) FROM records", &[])
            .await?;
        let load = Load::post(
            &running.url,
            "/api/ledger/v1/entries",
            &token,
            ledger::entries(PACED),
        )?
        .paced(RATE);
        let report = load.run(CONNECTIONS, ROUND_MAX).await?;
        if report.not_2xx > 0 {
            bail!("{} entries were refused", report.not_2xx);
        }
        let recorded = format!(
            "SELECT recorded_at - occurred_at FROM records
             WHERE action = 'ledger.posted' AND seq > {before} ORDER BY 1"
        );
        let until = Instant::now() + ROUND_MAX;
        let took = loop {
            let took = audit.numbers(&recorded, &[]).await?;
            if took.len() >= PACED {
                break took;
            }
            if Instant::now() > until {
                bail!("{} of {PACED} events were recorded in time", took.len());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        let at = |percent: usize| {
            let row = took
                .get((took.len() - 1) * percent / 100)
                .context("no events")?;
            anyhow::Ok(row[0] as f64 / 1e3)
        };
        p50.push(at(50)?);
        p99.push(at(99)?);
    }
    rows.push(row(
        "ledger.posted at 500/s, from the change to the audit trail's record",
        "",
        &format!("{:.0} ms", median(&mut p50)),
        &format!("{:.0} ms", median(&mut p99)),
        "p99 < 100 ms",
    ));
    Ok(())
}
