//! `/pay`, `/pay-dynamic` and `/refund` as one types them, and cancelling.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::time::{Duration, Instant};

use innover_tests::{Answer, PATIENCE, Platform, unique};
use reqwest::Method;
use serde_json::{Value, json};

const DEFAULTS: &str = "/api/payment/v1/defaults";

/// All tests on one runtime: the platform's client keeps its connections there.
fn run<F: Future>(test: F) -> F::Output {
    static RUNTIME: std::sync::OnceLock<tokio::runtime::Runtime> = std::sync::OnceLock::new();
    RUNTIME
        .get_or_init(|| tokio::runtime::Runtime::new().unwrap())
        .block_on(test)
}

/// `curl -X POST path -d form`.
async fn curl(p: &Platform, user: &str, path: &str, form: &str) -> Answer {
    p.request(user, Method::POST, path)
        .await
        .form(form)
        .send()
        .await
}

async fn put(p: &Platform, user: &str, body: Value) -> Answer {
    p.request(user, Method::PUT, DEFAULTS)
        .await
        .json(&body)
        .send()
        .await
}

async fn cancel(p: &Platform, user: &str, id: &str) -> Answer {
    let path = format!("/api/payment/v1/payments/{id}/cancel");
    p.request(user, Method::POST, &path)
        .await
        .key(&unique())
        .send()
        .await
}

#[test]
fn an_order_is_paid_in_one_line_from_the_callers_only_wallet_and_defaults() {
    run(async {
        let p = Platform::start().await;
        let payee = p.wallet("finance", "EUR").await;
        let form = "order_id=123&amount=100";
        let refused = curl(&p, "user", "/pay", form).await;
        assert_eq!(
            (refused.status, &refused.json["param"]),
            (400, &json!("/payee_wallet"))
        );
        let set = put(&p, "user", json!({"payee_wallet": payee})).await;
        assert_eq!(set.status, 200, "{}", set.text);
        let refused = curl(&p, "user", "/pay", form).await;
        assert_eq!(
            (refused.status, &refused.json["param"]),
            (400, &json!("/payer_wallet"))
        );
        assert!(
            refused.text.contains("POST /api/wallet/v1/wallets"),
            "{}",
            refused.text
        );

        let payer = p.funded("user", "1000.00", "EUR").await;
        let paid = curl(&p, "user", "/pay", form).await;
        assert_eq!(paid.status, 202, "{}", paid.text);
        let done = p.settled(&paid.id()).await;
        assert_eq!(
            (&done["state"], &done["reference"], &done["source"]),
            (
                &json!("completed"),
                &json!("123"),
                &json!({"amount": "100.00", "currency": "EUR"})
            ),
            "{done}"
        );
        // The order id is the key: again is the same payment, another amount is a mistake.
        let again = curl(&p, "user", "/pay", form).await;
        assert_eq!(again.id(), paid.id());
        assert_eq!(again.headers["idempotency-replayed"], "true");
        let other = curl(&p, "user", "/pay", "order_id=123&amount=101").await;
        assert_eq!(
            (other.status, other.code()),
            (422, "idempotency_key_reused")
        );
        assert_eq!(other.json["differing_fields"], json!(["/amount"]));
        assert_eq!(p.balance(&payer).await, "900.00");

        // JSON says the same; an integer is major units as well.
        let request = p.request("user", Method::POST, "/pay").await;
        let json = request
            .json(&json!({"order_id": "124", "amount": 50}))
            .send()
            .await;
        assert_eq!(p.settled(&json.id()).await["state"], "completed");

        // With two wallets someone has to say which.
        let usd = p.funded("user", "10.00", "USD").await;
        let unsure = curl(&p, "user", "/pay", "order_id=125&amount=1").await;
        assert_eq!(
            (unsure.status, &unsure.json["param"]),
            (400, &json!("/payer_wallet"))
        );
        assert!(unsure.text.contains("2 wallets"), "{}", unsure.text);
        let named = curl(&p, "user", "/pay", "order_id=125&amount=1&currency=EUR").await;
        assert_eq!(named.json["payer_wallet"], json!(payer), "{}", named.text);
        let defaults = json!({"payer_wallet": payer, "payee_wallet": payee, "currency": "EUR"});
        assert_eq!(put(&p, "user", defaults.clone()).await.json, defaults);
        let plain = curl(&p, "user", "/pay", "order_id=126&amount=1.50").await;
        assert_eq!(
            plain.json["source"],
            json!({"amount": "1.50", "currency": "EUR"})
        );
        // Another wallet pays in its own currency.
        let form = format!("order_id=127&amount=2&payer_wallet={usd}");
        let named = curl(&p, "user", "/pay", &form).await;
        assert_eq!(
            named.json["source"],
            json!({"amount": "2.00", "currency": "USD"})
        );

        // Scopes per route, owners per wallet.
        let refused = curl(&p, "viewer", "/pay", "order_id=1&amount=1").await;
        assert_eq!(
            (refused.status, &refused.json["scope"]),
            (403, &json!("payment:write"))
        );
        let refused = curl(&p, "", "/pay", "order_id=1&amount=1").await;
        assert_eq!(refused.status, 401);
        let foreign = json!({"payer_wallet": payee});
        assert_eq!(put(&p, "user", foreign).await.code(), "not_owner");
        let mixed = json!({"payer_wallet": payer, "currency": "USD"});
        assert_eq!(put(&p, "user", mixed).await.code(), "currency_mismatch");
        p.assert_balanced().await;
    });
}

#[test]
fn twenty_who_pay_one_order_at_the_same_moment_pay_it_once() {
    run(async {
        let p = Platform::shared().await;
        let payer = p.funded("user", "100.00", "EUR").await;
        let payee = p.wallet("finance", "EUR").await;
        let form = format!(
            "order_id={}&amount=10&payer_wallet={payer}&payee_wallet={payee}",
            unique()
        );
        let mut all = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let (p, form) = (p.clone(), form.clone());
            all.spawn(async move { curl(&p, "user", "/pay", &form).await.id() });
        }
        let mut ids = all.join_all().await;
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 1);
        p.settled(&ids[0]).await;
        assert_eq!(p.balance(&payer).await, "90.00");
    });
}

#[test]
fn a_completed_payment_is_refunded_in_one_line() {
    run(async {
        let p = Platform::shared().await;
        let payer = p.funded("user", "100.00", "EUR").await;
        let payee = p.wallet("finance", "EUR").await;
        let paid = p.pay("user", &payer, &payee, "100.00", "EUR").await.id();
        p.settled(&paid).await;
        let form = format!("payment_id={paid}&amount=100");
        let refused = curl(&p, "viewer", "/refund", &form).await;
        assert_eq!(
            (refused.status, &refused.json["scope"]),
            (403, &json!("refund:write"))
        );
        let refund = curl(&p, "finance", "/refund", &form).await;
        assert_eq!(refund.status, 202, "{}", refund.text);
        let again = curl(&p, "finance", "/refund", &form).await;
        assert_eq!(again.id(), refund.id());
        let path = format!("/api/refund/v1/refunds/{}", refund.id());
        let deadline = Instant::now() + PATIENCE;
        loop {
            let read = p.get("finance", &path).await;
            if read.json["state"] == "succeeded" {
                break;
            }
            assert!(Instant::now() < deadline, "{}", read.text);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        p.assert_balanced().await;
    });
}

#[test]
fn the_cheapest_route_to_the_payee_is_taken_and_says_why() {
    run(async {
        let p = Platform::start_with(&[("SPIN_VARIABLE_FX_MARGIN_BPS", "50")]).await;
        let payee = p.wallet("finance", "USD").await;
        let eur = p.funded("user", "1000.00", "EUR").await;
        let dynamic = async |order: &str, amount: &str| {
            let form = format!("order_id={order}&amount={amount}&payee_wallet={payee}");
            curl(&p, "user", "/pay-dynamic", &form).await
        };
        let settle = async |answer: &Answer| {
            let payments = answer.json["payments"].as_array().unwrap();
            for payment in payments {
                let done = p.settled(payment["id"].as_str().unwrap()).await;
                assert_eq!(done["state"], "completed", "{done}");
                assert_eq!(done["reference"], answer.json["order_id"]);
            }
            payments.len()
        };

        // Only euros: one conversion, and exactly what was ordered arrives.
        let converted = dynamic("d1", "100").await;
        assert_eq!(
            (
                converted.status,
                &converted.json["route"],
                &converted.json["state"]
            ),
            (202, &json!("conversion"), &json!("initiated")),
            "{}",
            converted.text
        );
        // 100 / 1.1172 = 89.5094… → 89.51; with 0.5 % on top 89.96, of which 0.45 is the margin.
        let leg = &converted.json["legs"][0];
        assert_eq!(leg["source"], json!({"amount": "89.96", "currency": "EUR"}));
        assert_eq!(leg["margin"], json!({"amount": "0.45", "currency": "EUR"}));
        assert_eq!(
            leg["target"],
            json!({"amount": "100.00", "currency": "USD"})
        );
        assert_eq!(
            converted.json["cost"],
            json!({"amount": "0.51", "currency": "USD"})
        );
        assert_eq!(converted.json["if_a_leg_fails"], json!(null));
        assert_eq!(settle(&converted).await, 1);
        assert_eq!(p.balance(&payee).await, "100.00");
        assert_eq!(p.balance(&eur).await, "910.04");
        let again = dynamic("d1", "100").await;
        assert_eq!(again.json, converted.json);

        // Some dollars: with a margin it is cheaper to convert only what they do not cover.
        let usd = p.funded("user", "60.00", "USD").await;
        let split = dynamic("d2", "100").await;
        assert_eq!(split.json["route"], "split", "{}", split.text);
        let legs = split.json["legs"].as_array().unwrap();
        assert_eq!(
            (&legs[0]["payer_wallet"], &legs[0]["target"]["amount"]),
            (&json!(usd), &json!("60.00"))
        );
        assert_eq!(
            (&legs[1]["payer_wallet"], &legs[1]["target"]["amount"]),
            (&json!(eur), &json!("40.00"))
        );
        let why = split.json["why"].as_str().unwrap();
        assert!(
            why.contains("a split over 2 wallets costs 0.21 USD"),
            "{why}"
        );
        assert!(
            why.contains("one conversion from EUR would cost 0.51 USD"),
            "{why}"
        );
        assert!(split.json["if_a_leg_fails"].is_string());
        assert_eq!(split.json["others"][0]["route"], "conversion");
        assert_eq!(settle(&split).await, 2);
        assert_eq!(p.balance(&payee).await, "200.00");
        assert_eq!(p.balance(&usd).await, "0.00");

        // Dollars enough: nothing is converted.
        p.top_up(&usd, "150.00", "USD").await;
        let same = dynamic("d3", "100").await;
        assert_eq!(
            (&same.json["route"], &same.json["cost"]["amount"]),
            (&json!("same_currency"), &json!("0.00")),
            "{}",
            same.text
        );
        assert_eq!(settle(&same).await, 1);

        // More than there is: refused as a whole, for good under this order, and nothing is made.
        let before = p.number("payment", "SELECT count(*) FROM payments");
        let refused = dynamic("d4", "5000").await;
        assert_eq!(
            (refused.status, refused.code()),
            (422, "insufficient_funds"),
            "{}",
            refused.text
        );
        assert!(refused.text.contains("of 5000.00 USD"), "{}", refused.text);
        let again = dynamic("d4", "5000").await;
        assert_eq!(again.headers["idempotency-replayed"], "true");
        // What the caller takes for the currency is not guessed.
        let form = format!("order_id=d5&amount=1&currency=EUR&payee_wallet={payee}");
        let unsure = curl(&p, "user", "/pay-dynamic", &form).await;
        assert_eq!((unsure.status, unsure.code()), (422, "currency_mismatch"));
        let form = format!("order_id=d6&amount=90&payee_wallet={payee}&payer_wallet={usd}");
        let only = curl(&p, "user", "/pay-dynamic", &form).await;
        assert_eq!(only.code(), "insufficient_funds", "{}", only.text);
        assert_eq!(p.number("payment", "SELECT count(*) FROM payments"), before);
        let refused = curl(&p, "viewer", "/pay-dynamic", &form).await;
        assert_eq!(refused.json["scope"], "payment:write");
        p.assert_balanced().await;
    });
}

#[test]
fn the_rules_judge_a_split_as_a_whole_and_all_of_it_waits() {
    run(async {
        let p = Platform::start().await;
        let payee = p.wallet("finance", "EUR").await;
        for _ in 0..2 {
            p.funded("user", "8000.00", "EUR").await;
        }
        let form = format!("order_id=whole&amount=12000&payee_wallet={payee}");
        let split = curl(&p, "user", "/pay-dynamic", &form).await;
        // Neither part is above the 10,000 that the shipped rules let pass.
        assert_eq!(
            (&split.json["route"], &split.json["state"]),
            (&json!("split"), &json!("review")),
            "{}",
            split.text
        );
        let payments = split.json["payments"].as_array().unwrap();
        assert_eq!(payments.len(), 2);
        for payment in payments {
            let id = payment["id"].as_str().unwrap();
            let cancelled = cancel(&p, "user", id).await;
            assert_eq!(
                (cancelled.status, &cancelled.json["state"]),
                (200, &json!("cancelled")),
                "{}",
                cancelled.text
            );
        }
    });
}

/// A cancellation meets a payment anywhere on its way: it ends cancelled and unbooked, or completed
/// and booked once.
#[test]
fn a_payment_is_cancelled_or_booked_and_never_both() {
    run(async {
        let p = Platform::shared().await;
        let payer = p.funded("user", "1000.00", "EUR").await;
        let payee = p.wallet("finance", "USD").await;
        let mut all = tokio::task::JoinSet::new();
        for n in 0..60u64 {
            let (p, payer, payee) = (p.clone(), payer.clone(), payee.clone());
            all.spawn(async move {
                let id = p.pay("user", &payer, &payee, "1.00", "EUR").await.id();
                tokio::time::sleep(Duration::from_millis(n % 6)).await;
                (cancel(&p, "user", &id).await, id)
            });
        }
        let (mut cancelled, mut completed) = (0, 0);
        for (answer, id) in all.join_all().await {
            let done = p.settled(&id).await;
            let booked = done["ledger_entry_id"].is_string();
            match done["state"].as_str() {
                Some("cancelled") => {
                    assert_eq!((answer.status, booked), (200, false), "{}", answer.text);
                    cancelled += 1;
                }
                Some("completed") => {
                    assert_eq!(
                        (answer.code(), booked),
                        ("invalid_state", true),
                        "{}",
                        answer.text
                    );
                    completed += 1;
                }
                _ => panic!("{done}"),
            }
        }
        println!("{cancelled} cancelled, {completed} completed");
        assert_eq!(cancelled + completed, 60);
        // Whatever was booked left the wallet: nothing of those that were cancelled did.
        assert_eq!(p.balance(&payer).await, format!("{}.00", 1000 - completed));
        p.assert_balanced().await;
    });
}
