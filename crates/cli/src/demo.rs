//! `innover demo`: the main job against a running platform, checked step by step.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::{
    client::{Caller, Platform},
    print,
};

/// It takes some ten milliseconds; more than this means that something does not move.
const COMPLETED_MAX: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);

const AMOUNT: &str = "33.33";
/// What the rates of 2026-10-30 make of it: 33.33 × 1.1172 = 37.236276, rounded to the house down.
const KNOWN: (&str, &str, &str, &str) = ("2026-10-30", "1.1172", "37.236276", "37.23");

pub async fn run(url: &str) -> Result<()> {
    let platform = Platform::new(url)?;
    let user = platform.login(&Caller::dev("user")).await?;
    let finance = platform.login(&Caller::dev("finance")).await?;
    step(
        "tokens",
        "user and finance, by the password grant (dev profile)",
    );

    let payer = wallet(&user, "EUR").await?;
    let payee = wallet(&user, "USD").await?;
    step("wallets", &format!("{payer} (EUR) pays {payee} (USD)"));

    let top_up = json!({ "amount": "1000.00", "currency": "EUR" });
    finance
        .post(
            &format!("/api/wallet/v1/wallets/{payer}/top-ups"),
            &top_up,
            Some(&key()),
        )
        .await?;
    let funded = balance(&user, &payer).await?;
    ensure!(
        funded == "1000.00",
        "after a top-up of 1000.00 the wallet holds {funded}"
    );
    step("top-up", "EUR 1000.00 by finance");

    let payment = json!({
        "payer_wallet": payer, "payee_wallet": payee,
        "amount": AMOUNT, "currency": "EUR", "reference": "demo",
    });
    let key = key();
    let started = Instant::now();
    let accepted = user
        .post("/api/payment/v1/process", &payment, Some(&key))
        .await?;
    let answered = started.elapsed();
    let id = text(&accepted.body, "/id")?.to_owned();
    ensure!(
        accepted.status.as_u16() == 202 && accepted.body["state"] == "initiated",
        "the payment was answered {} with state {}",
        accepted.status,
        accepted.body["state"]
    );
    step(
        "payment",
        &format!(
            "{id}: EUR {AMOUNT}, accepted in {} ms",
            answered.as_millis()
        ),
    );

    let done = completed(&user, &id, started).await?;
    step(
        "completed",
        &format!("{} ms after the request", started.elapsed().as_millis()),
    );
    check_conversion(&done)?;

    let again = user
        .post("/api/payment/v1/process", &payment, Some(&key))
        .await?;
    ensure!(
        again.body["id"] == id.as_str(),
        "the same Idempotency-Key made another payment: {}",
        again.body["id"]
    );
    step(
        "repeated",
        "the same Idempotency-Key answers the same payment",
    );

    let target = text(&done, "/target/amount")?;
    balances(&user, &payer, &payee, target).await?;
    trial_balance(&finance).await?;
    timeline(&user, &id).await
}

fn key() -> String {
    uuid::Uuid::now_v7().to_string()
}

fn step(name: &str, text: &str) {
    print::line(format!("{name:<13} {text}"));
}

fn text<'a>(value: &'a Value, pointer: &str) -> Result<&'a str> {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .with_context(|| format!("the answer has no {pointer}: {value}"))
}

async fn wallet(user: &Platform, currency: &str) -> Result<String> {
    let body = json!({ "currency": currency });
    let answer = user
        .post("/api/wallet/v1/wallets", &body, Some(&key()))
        .await?;
    Ok(text(&answer.body, "/id")?.to_owned())
}

async fn balance(user: &Platform, wallet: &str) -> Result<String> {
    let wallet = user
        .get(&format!("/api/wallet/v1/wallets/{wallet}"))
        .await?;
    Ok(text(&wallet, "/balance/posted")?.to_owned())
}

/// Asks until the payment has ended.
async fn completed(user: &Platform, id: &str, started: Instant) -> Result<Value> {
    loop {
        let payment = user.get(&format!("/api/payment/v1/payments/{id}")).await?;
        match text(&payment, "/state")? {
            "completed" => return Ok(payment),
            ended @ ("failed" | "declined" | "cancelled" | "review") => bail!(
                "the payment is {ended}: {} {}",
                payment["reason_codes"],
                payment["reason_detail"].as_str().unwrap_or_default()
            ),
            state if started.elapsed() > COMPLETED_MAX => bail!(
                "the payment is still {state} after {} s; `innover events list` and `innover jobs list` show where it waits",
                COMPLETED_MAX.as_secs()
            ),
            _ => tokio::time::sleep(POLL).await,
        }
    }
}

fn check_conversion(payment: &Value) -> Result<()> {
    let rate = text(payment, "/rate")?;
    let date = text(payment, "/rate_date")?;
    let exact = text(payment, "/exact_product")?;
    let target = text(payment, "/target/amount")?;
    step(
        "conversion",
        &format!("EUR {AMOUNT} × {rate} ({date}) = {exact}, the payee gets USD {target}"),
    );
    step("entry", text(payment, "/ledger_entry_id")?);
    let (known_date, known_rate, known_exact, known_target) = KNOWN;
    if date == known_date {
        ensure!(
            (rate, exact, target) == (known_rate, known_exact, known_target),
            "on the rates of {known_date} it must be × {known_rate} = {known_exact}, USD {known_target}"
        );
    }
    Ok(())
}

async fn balances(user: &Platform, payer: &str, payee: &str, target: &str) -> Result<()> {
    let (paid, received) = (balance(user, payer).await?, balance(user, payee).await?);
    step(
        "balances",
        &format!("payer EUR {paid}, payee USD {received}"),
    );
    ensure!(paid == "966.67", "the payer should hold EUR 966.67");
    ensure!(received == target, "the payee should hold USD {target}");
    Ok(())
}

async fn trial_balance(finance: &Platform) -> Result<()> {
    let answer = finance.get("/api/ledger/v1/trial-balance").await?;
    let rows = answer["data"].as_array();
    let rows = rows.with_context(|| format!("the trial balance lists no currencies: {answer}"))?;
    let mut shown = Vec::new();
    for row in rows {
        let currency = text(row, "/currency")?;
        let difference = text(row, "/difference")?;
        ensure!(
            difference.bytes().all(|b| matches!(b, b'0' | b'.')),
            "the ledger is out of balance in {currency} by {difference}"
        );
        shown.push(format!(
            "{currency} {} = {}",
            text(row, "/debits")?,
            text(row, "/credits")?
        ));
    }
    step("ledger", &format!("debits = credits: {}", shown.join(", ")));
    Ok(())
}

async fn timeline(user: &Platform, id: &str) -> Result<()> {
    let answer = user
        .get(&format!("/api/payment/v1/payments/{id}/timeline"))
        .await?;
    let steps = answer["data"]
        .as_array()
        .context("the timeline has no data")?;
    let trace = steps
        .first()
        .map(|step| text(step, "/trace_id"))
        .transpose()?
        .unwrap_or_default();
    print::line(format!("\ntimeline, trace {trace}"));
    let rows: Vec<_> = steps
        .iter()
        .map(|step| {
            let cell = |name: &str| step[name].as_str().unwrap_or_default().to_owned();
            [
                cell("time"),
                cell("kind"),
                cell("name"),
                print::cut(&cell("detail"), 60),
            ]
        })
        .collect();
    print::table(["time", "kind", "name", "detail"], &rows);
    ensure!(trace.len() == 32, "the first step has no trace id");
    ensure!(
        steps.iter().all(|step| step["trace_id"] == trace),
        "the timeline's steps are not all of one trace"
    );
    ensure!(
        steps.iter().any(|step| step["name"]
            .as_str()
            .is_some_and(|name| name.contains("completed"))),
        "the timeline does not show the completion"
    );
    Ok(())
}
