//! The ledger alone: entries one per request, transfers in batches, spread over many accounts and all
//! on one, and the bytes a transfer takes on disk.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::{ROUNDS, load::Load, load::Report, median, process::Running, row, storage::Database};
use crate::client::{Caller, Platform};

/// As in the figures this is compared with.
const CONNECTIONS: usize = 32;
/// Accounts the transfers run between.
const ACCOUNTS: usize = 1_000;
/// Entries of one round, one per request.
const ENTRIES: usize = 12_000;
/// Transfers of a batch: the most it takes.
const BATCH: usize = 8_190;
/// Batches of one round.
const BATCHES: usize = 12;
/// Batches on their way at once: one commits, one is decided, and one is there when that is done.
const BATCH_CONNECTIONS: usize = 3;
/// A round that has not ended by then never will.
const ROUND_MAX: Duration = Duration::from_secs(120);

/// Where a transfer goes.
#[derive(Clone, Copy)]
enum Spread {
    /// From any account to any other.
    Uniform,
    /// From one account to any other.
    Hot,
}

impl Spread {
    fn pair(self, n: usize) -> (String, String) {
        // A step that shares no factor with the number of accounts visits all of them.
        let (from, to) = (n * 7 % ACCOUNTS, (n * 13 + 1) % ACCOUNTS);
        let from = match self {
            Spread::Uniform => from,
            Spread::Hot => ACCOUNTS,
        };
        let to = if to == from { (to + 1) % ACCOUNTS } else { to };
        (account(from), account(to))
    }
}

fn account(n: usize) -> String {
    format!("acc_bench_{n:04}")
}

pub async fn rounds(running: &Running, rows: &mut Vec<[String; 5]>) -> Result<()> {
    open_accounts(running).await?;
    let token = Platform::new(&running.url)?
        .token(&Caller::dev("finance"), None)
        .await?;
    for (spread, what, goal) in [
        (
            Spread::Uniform,
            "ledger: POST /entries, one per request, 32 connections",
            "≥ 5,000/s",
        ),
        (Spread::Hot, "the same, all on one account", "≥ 90 % of it"),
    ] {
        let before = stored(running).await?;
        let mut reports = Vec::new();
        for _ in 0..ROUNDS {
            let bodies = (0..ENTRIES).map(|n| (None, entry(spread, n))).collect();
            let load = Load::post(&running.url, "/api/ledger/v1/entries", &token, bodies)?;
            reports.push(load.run(CONNECTIONS, ROUND_MAX).await?);
        }
        let done = made(running, &before, ROUNDS * ENTRIES).await?;
        rows.push(figure(what, "entries/s", &reports, 1, goal));
        if let Spread::Uniform = spread {
            rows.push(row(
                "bytes stored per entry of two postings",
                format!("{done:.0} B"),
                "",
                "",
                "< 500 B",
            ));
        }
    }
    for (spread, what, goal) in [
        (
            Spread::Uniform,
            "ledger: POST /transfers/batch of 8,190",
            "≥ 100,000/s",
        ),
        (Spread::Hot, "the same, all on one account", ""),
    ] {
        let before = stored(running).await?;
        let mut reports = Vec::new();
        for _ in 0..ROUNDS {
            let bodies = (0..BATCHES).map(|_| (None, batch(spread))).collect();
            let load = Load::post(
                &running.url,
                "/api/ledger/v1/transfers/batch",
                &token,
                bodies,
            )?;
            reports.push(load.run(BATCH_CONNECTIONS, ROUND_MAX).await?);
        }
        let done = made(running, &before, ROUNDS * BATCHES * BATCH).await?;
        rows.push(figure(what, "transfers/s", &reports, BATCH, goal));
        if let Spread::Uniform = spread {
            let bytes = format!("{done:.0} B");
            rows.push(row(
                "bytes stored per transfer of a batch",
                bytes,
                "",
                "",
                "< 500 B",
            ));
        }
    }
    Ok(())
}

/// Opens the accounts that entries run between; those that are open stay as they are.
pub async fn open_accounts(running: &Running) -> Result<()> {
    let finance = Platform::new(&running.url)?
        .login(&Caller::dev("finance"))
        .await?;
    for n in 0..=ACCOUNTS {
        let opening =
            json!({"id": account(n), "code": "bench", "currency": "EUR", "normal_side": "credit"});
        finance
            .post(
                "/api/ledger/v1/accounts",
                &opening,
                Some(&format!("open-{n}")),
            )
            .await?;
    }
    Ok(())
}

/// Requests of one entry each, between all accounts.
pub fn entries(count: usize) -> Vec<(Option<String>, String)> {
    (0..count)
        .map(|n| (None, entry(Spread::Uniform, n)))
        .collect()
}

/// An id as a caller would make it: 26 characters, time-ordered.
fn id() -> String {
    let uuid = uuid::Uuid::now_v7().simple().to_string();
    format!("b-{}", &uuid[..24])
}

fn entry(spread: Spread, n: usize) -> String {
    let (from, to) = spread.pair(n);
    json!({"id": id(), "postings": [
        {"account": from, "direction": "debit", "amount": "1.00", "currency": "EUR"},
        {"account": to, "direction": "credit", "amount": "1.00", "currency": "EUR"},
    ]})
    .to_string()
}

fn batch(spread: Spread) -> String {
    let transfers = (0..BATCH).map(|n| {
        let (from, to) = spread.pair(n);
        json!({"id": id(), "debit_account": from, "credit_account": to, "amount": "1.00", "currency": "EUR"})
    });
    json!({"transfers": transfers.collect::<Vec<_>>()}).to_string()
}

fn figure(
    what: &str,
    unit: &str,
    reports: &[Report],
    per_request: usize,
    goal: &str,
) -> [String; 5] {
    let mut rates: Vec<f64> = reports
        .iter()
        .map(|r| r.per_second() * per_request as f64)
        .collect();
    let mut p50: Vec<f64> = reports.iter().map(|r| r.percentile_ms(50.0)).collect();
    let mut p99: Vec<f64> = reports.iter().map(|r| r.percentile_ms(99.0)).collect();
    row(
        what,
        format!("{:.0} {unit}", median(&mut rates)),
        &format!("{:.1} ms", median(&mut p50)),
        &format!("{:.1} ms", median(&mut p99)),
        goal,
    )
}

/// Entries, and the bytes of what the database has in use.
struct Stored {
    entries: i64,
    bytes: i64,
}

async fn stored(running: &Running) -> Result<Stored> {
    let database = running.database("ledger").await?;
    let number = async |sql: &str| database.number(sql, &[]).await;
    let bytes = match &database {
        Database::File(_) => {
            let pages =
                number("PRAGMA page_count").await? - number("PRAGMA freelist_count").await?;
            pages * number("PRAGMA page_size").await?
        }
        // Rows that were replaced count until the server has cleaned up, so only these, which are not.
        Database::Server(_) => {
            number("SELECT pg_total_relation_size('entries') + pg_total_relation_size('postings')")
                .await?
        }
    };
    let entries = number("SELECT COUNT(*) FROM entries WHERE postings <> '[]'").await?;
    Ok(Stored { entries, bytes })
}

/// The bytes each of `count` entries took, all of which must be there.
async fn made(running: &Running, before: &Stored, count: usize) -> Result<f64> {
    let after = stored(running).await?;
    let booked = after.entries - before.entries;
    if booked != i64::try_from(count)? {
        bail!("{booked} of {count} were booked; a figure of refusals means nothing");
    }
    let bytes = i32::try_from(after.bytes - before.bytes).context("more than 2 GB")?;
    Ok(f64::from(bytes) / count as f64)
}
