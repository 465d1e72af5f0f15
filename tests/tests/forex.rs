//! Rates, quotes and margins on the running platform.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::process::Command;

use innover_tests::{Platform, innover, payment, reference_rates};
use reqwest::Method;
use serde_json::{Value, json};

const PROCESS: &str = "/api/payment/v1/process";
const QUOTES: &str = "/api/forex/v1/quotes";
const RATE_SETS: &str = "/api/forex/v1/rate-sets";
/// Payments that use one quote at the same moment.
const RIVALS: usize = 100;

/// All tests on one runtime: the platform's client keeps its connections there.
fn run<F: Future>(test: F) -> F::Output {
    static RUNTIME: std::sync::OnceLock<tokio::runtime::Runtime> = std::sync::OnceLock::new();
    RUNTIME
        .get_or_init(|| tokio::runtime::Runtime::new().unwrap())
        .block_on(test)
}

/// A quote of `user`'s from EUR to USD.
async fn quoted(p: &Platform, user: &str, amount: &str, side: &str) -> Value {
    let body = json!({"from": "EUR", "to": "USD", "amount": amount, "amount_side": side});
    let quote = p.post(user, QUOTES, body).await;
    assert_eq!(quote.status, 201, "{}", quote.text);
    quote.json
}

fn at_quote(payer: &str, payee: &str, amount: &str, quote: &Value) -> Value {
    let mut body = payment(payer, payee, amount, "EUR");
    body["quote_id"] = quote["id"].clone();
    body
}

#[test]
fn of_100_payments_that_use_a_quote_at_the_same_moment_one_completes() {
    run(async {
        let p = Platform::shared().await;
        let payer = p.funded("user", "1000.00", "EUR").await;
        let payee = p.wallet("finance", "USD").await;
        let quote = quoted(&p, "user", "1.00", "source").await;
        let mut rivals = tokio::task::JoinSet::new();
        for _ in 0..RIVALS {
            let (p, body) = (p.clone(), at_quote(&payer, &payee, "1.00", &quote));
            rivals.spawn(async move { p.post("user", PROCESS, body).await });
        }
        let answers = rivals.join_all().await;
        let (mut completed, mut refused) = (Vec::new(), 0);
        for answer in answers {
            assert_eq!(answer.status, 202, "{}", answer.text);
            let done = p.settled(&answer.id()).await;
            match done["state"].as_str() {
                Some("completed") => completed.push(done),
                _ => {
                    assert_eq!(
                        (&done["state"], &done["reason_codes"]),
                        (&json!("failed"), &json!(["quote_used"])),
                        "{done}"
                    );
                    assert_eq!(done["ledger_entry_id"], json!(null));
                    refused += 1;
                }
            }
        }
        assert_eq!((completed.len(), refused), (1, RIVALS - 1));
        assert_eq!(completed[0]["quote_id"], quote["id"]);
        assert_eq!(completed[0]["target"], quote["target"]);
        assert_eq!(p.balance(&payer).await, "999.00");
        assert_eq!(p.balance(&payee).await, "1.11");
        p.assert_balanced().await;
        let read = format!("{QUOTES}/{}", quote["id"].as_str().unwrap());
        assert_eq!(p.get("user", &read).await.json["state"], "used");
    });
}

#[test]
fn a_quote_with_the_target_fixed_delivers_that_amount_to_the_cent() {
    run(async {
        let p = Platform::shared().await;
        let payer = p.funded("user", "1000.00", "EUR").await;
        let payee = p.wallet("finance", "USD").await;
        let quote = quoted(&p, "user", "100.00", "target").await;
        // 100 / 1.1172 = 89.5094…, rounded up.
        assert_eq!(quote["source"]["amount"], "89.51");
        let body = at_quote(&payer, &payee, "89.51", &quote);
        let done = p.settled(&p.post("user", PROCESS, body).await.id()).await;
        assert_eq!(done["state"], "completed", "{done}");
        assert_eq!(p.balance(&payee).await, "100.00");
        assert_eq!(p.balance(&payer).await, "910.49");
        p.assert_balanced().await;
        // It can be refunded like any other.
        let form = format!("payment_id={}&amount=89.51", done["id"].as_str().unwrap());
        let request = p.request("finance", Method::POST, "/refund").await;
        let refund = request.form(&form).send().await;
        assert_eq!(
            (refund.status, &refund.json["target"]["amount"]),
            (202, &json!("100.00")),
            "{}",
            refund.text
        );
    });
}

#[test]
fn a_payment_is_converted_at_its_quote_or_not_at_all() {
    run(async {
        let p = Platform::shared().await;
        let payer = p.funded("user", "1000.00", "EUR").await;
        let (usd, eur) = (
            p.wallet("finance", "USD").await,
            p.wallet("finance", "EUR").await,
        );
        let quote = quoted(&p, "user", "10.00", "source").await;
        let others = quoted(&p, "finance", "10.00", "source").await;
        let none = json!({"id": "quo_00000000000000000000000000000000"});
        for (payee, amount, quote, code) in [
            (&usd, "10.01", &quote, "quote_mismatch"),
            (&eur, "10.00", &quote, "quote_mismatch"),
            (&usd, "10.00", &others, "quote_not_found"),
            (&usd, "10.00", &none, "quote_not_found"),
        ] {
            let body = at_quote(&payer, payee, amount, quote);
            let done = p.settled(&p.post("user", PROCESS, body).await.id()).await;
            assert_eq!(
                (&done["state"], &done["reason_codes"]),
                (&json!("failed"), &json!([code])),
                "{done}"
            );
        }
        let malformed = at_quote(&payer, &usd, "10.00", &json!({"id": "quo_/../x"}));
        let refused = p.post("user", PROCESS, malformed).await;
        assert_eq!((refused.status, refused.code()), (404, "quote_not_found"));
        assert_eq!(p.balance(&payer).await, "1000.00");
        // None of them used it up.
        let body = at_quote(&payer, &usd, "10.00", &quote);
        let done = p.settled(&p.post("user", PROCESS, body).await.id()).await;
        assert_eq!(done["state"], "completed", "{done}");
    });
}

#[test]
fn a_margin_is_a_posting_of_its_own_and_the_rate_shown_is_mid() {
    run(async {
        let p = Platform::start_with(&[("SPIN_VARIABLE_FX_MARGIN_BPS", "50")]).await;
        let payer = p.funded("user", "1000.00", "EUR").await;
        let payee = p.wallet("finance", "USD").await;
        let done = p
            .settled(&p.pay("user", &payer, &payee, "100.00", "EUR").await.id())
            .await;
        assert_eq!(done["state"], "completed", "{done}");
        assert_eq!(done["margin"], json!({"amount": "0.50", "currency": "EUR"}));
        // 99.50 × 1.1172 = 111.1614
        assert_eq!(done["target"]["amount"], "111.16");
        assert_eq!(done["rate"], "1.1172");
        let entry = done["ledger_entry_id"].as_str().unwrap();
        let entry = p
            .get("auditor", &format!("/api/ledger/v1/entries/{entry}"))
            .await;
        let postings = entry.json["postings"].as_array().unwrap();
        let of = |account: &str| {
            let mut found = postings
                .iter()
                .filter(|posting| posting["account"].as_str().unwrap().contains(account));
            let one = found
                .next()
                .unwrap_or_else(|| panic!("{account}: {}", entry.text));
            assert!(found.next().is_none(), "{}", entry.text);
            (
                one["direction"].as_str().unwrap().to_owned(),
                one["amount"].as_str().unwrap().to_owned(),
                one["currency"].as_str().unwrap().to_owned(),
            )
        };
        let posting = |direction: &str, amount: &str, currency: &str| {
            (direction.to_owned(), amount.to_owned(), currency.to_owned())
        };
        assert_eq!(postings.len(), 5, "{}", entry.text);
        assert_eq!(of("margin"), posting("credit", "0.50", "EUR"));
        assert_eq!(of("fx_EUR"), posting("credit", "99.50", "EUR"));
        assert_eq!(of("fx_USD"), posting("debit", "111.16", "USD"));
        assert_eq!(p.balance(&payer).await, "900.00");
        assert_eq!(p.balance(&payee).await, "111.16");
        p.assert_balanced().await;
    });
}

/// Today, UTC.
fn today() -> String {
    let output = Command::new("date").args(["-u", "+%Y-%m-%d"]).output();
    String::from_utf8(output.unwrap().stdout)
        .unwrap()
        .trim()
        .to_owned()
}

#[test]
fn stale_rates_refuse_quotes_and_conversions_until_the_days_file_is_loaded() {
    run(async {
        let p = Platform::start_with(&[("SPIN_VARIABLE_RATES_MAX_AGE_DAYS", "0")]).await;
        let payer = p.funded("user", "100.00", "EUR").await;
        let payee = p.wallet("finance", "USD").await;
        let body = json!({"from": "EUR", "to": "USD", "amount": "10"});
        let quote = p.post("user", QUOTES, body.clone()).await;
        assert_eq!((quote.status, quote.code()), (422, "rates_stale"));
        let done = p
            .settled(&p.pay("user", &payer, &payee, "10.00", "EUR").await.id())
            .await;
        assert_eq!(done["reason_codes"], json!(["rates_stale"]), "{done}");

        let load = async |user: &str, file: String| {
            let request = p.request(user, Method::POST, RATE_SETS).await;
            request.media("application/xml", file).send().await
        };
        let refused = load("user", reference_rates(&today(), "")).await;
        assert_eq!(
            (refused.status, refused.code()),
            (403, "insufficient_scope")
        );
        let refused = load("finance", reference_rates(&today(), "JPY")).await;
        assert_eq!(refused.status, 422, "{}", refused.text);
        assert!(refused.json["detail"].as_str().unwrap().contains("JPY"));
        let quote = p.post("user", QUOTES, body.clone()).await;
        assert_eq!(quote.code(), "rates_stale", "nothing of it was taken");

        // The same file through the command, which says what became of it.
        let file = p.state().join("eurofxref-daily.xml");
        std::fs::write(&file, reference_rates(&today(), "")).unwrap();
        let loaded = Command::new(innover())
            .args(["forex", "load"])
            .arg(&file)
            .args(["--url", &p.url])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&loaded.stdout).into_owned();
        assert!(
            loaded.status.success(),
            "{said}{}",
            String::from_utf8_lossy(&loaded.stderr)
        );
        assert!(said.contains("1 added"), "{said}");
        let again = load("finance", reference_rates(&today(), "")).await;
        assert_eq!(
            (again.status, &again.json["unchanged"]),
            (200, &json!(1)),
            "{}",
            again.text
        );
        let quote = p.post("user", QUOTES, body).await;
        assert_eq!(
            (quote.status, &quote.json["target"]["amount"]),
            (201, &json!("25.00")),
            "{}",
            quote.text
        );
        let done = p
            .settled(&p.pay("user", &payer, &payee, "10.00", "EUR").await.id())
            .await;
        assert_eq!(done["state"], "completed", "{done}");
        let old = p.get("user", "/api/fx/v1/rates?date=2026-10-30").await;
        assert_eq!(old.json["rates"]["USD"], "1.1172", "old sets are kept");
    });
}
