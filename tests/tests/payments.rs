//! The main job: a payment from a token to completed.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use innover_tests::{Platform, payment};
use reqwest::Method;
use serde_json::json;

/// All tests on one runtime: the platform's client keeps its connections there.
fn run<F: Future>(test: F) -> F::Output {
    static RUNTIME: std::sync::OnceLock<tokio::runtime::Runtime> = std::sync::OnceLock::new();
    RUNTIME
        .get_or_init(|| tokio::runtime::Runtime::new().unwrap())
        .block_on(test)
}

/// Each step wakes the next; were one of them found by looking now and then, none would be that quick.
#[test]
fn a_payment_completes_within_a_second() {
    run(async {
        let p = Platform::shared().await;
        let payer = p.funded("user", "1000.00", "EUR").await;
        let payee = p.wallet("finance", "USD").await;
        let mut took = Vec::new();
        // More than one, since the machine may be busy, and the first also fills caches.
        while took
            .last()
            .is_none_or(|took| *took > Duration::from_secs(1))
        {
            assert!(took.len() < 20, "{took:?}");
            let started = Instant::now();
            let paid = p.pay("user", &payer, &payee, "1.00", "EUR").await;
            assert_eq!(p.settled(&paid.id()).await["state"], "completed");
            took.push(started.elapsed());
        }
    });
}

#[test]
fn a_payment_across_currencies_completes_at_the_ecb_rate() {
    run(async {
        let p = Platform::shared().await;
        let payer = p.funded("user", "1000.00", "EUR").await;
        let payee = p.wallet("finance", "USD").await;
        let before: f64 = p.balance(&payee).await.parse().unwrap();
        let answer = p.pay("user", &payer, &payee, "33.33", "EUR").await;
        assert_eq!(
            (answer.status, answer.json["state"].as_str()),
            (202, Some("initiated")),
            "{}",
            answer.text
        );
        let done = p.settled(&answer.id()).await;
        assert_eq!(done["state"], "completed", "{done}");
        assert_eq!(
            done["source"],
            json!({"amount": "33.33", "currency": "EUR"})
        );
        assert_eq!(
            done["target"],
            json!({"amount": "37.23", "currency": "USD"})
        );
        assert_eq!(done["rate"], "1.1172");
        assert_eq!(done["rate_date"], "2026-10-30");
        assert_eq!(done["exact_product"], "37.236276");
        assert!(done["ledger_entry_id"].is_string());
        let after: f64 = p.balance(&payee).await.parse().unwrap();
        assert!((after - before - 37.23).abs() < 0.001, "{before} → {after}");
        assert_eq!(p.balance(&payer).await, "966.67");
        p.assert_balanced().await;

        let timeline = p
            .get(
                "user",
                &format!("/api/payment/v1/payments/{}/timeline", answer.id()),
            )
            .await;
        let steps = timeline.json["data"].as_array().unwrap();
        let traces: BTreeSet<&str> = steps
            .iter()
            .map(|s| s["trace_id"].as_str().unwrap())
            .collect();
        assert_eq!(traces.len(), 1, "{}", timeline.text);
        let names: Vec<&str> = steps.iter().map(|s| s["name"].as_str().unwrap()).collect();
        for step in [
            "rules.approve",
            "initiated",
            "converting",
            "forex.converted",
            "posting",
            "ledger.posted",
            "processing",
            "wallet.updated",
            "payment.confirm",
            "completed",
        ] {
            assert!(names.contains(&step), "{step} is missing in {names:?}");
        }
        let times: Vec<&str> = steps.iter().map(|s| s["time"].as_str().unwrap()).collect();
        assert!(times.is_sorted(), "{times:?}");
    });
}

#[test]
fn payments_within_a_currency_keep_its_digits() {
    run(async {
        let p = Platform::shared().await;
        for (currency, funds, amount, left) in [
            ("EUR", "100.00", "33.33", "66.67"),
            ("JPY", "1000", "333", "667"),
            ("KWD", "10.000", "3.333", "6.667"),
        ] {
            let payer = p.funded("user", funds, currency).await;
            let payee = p.wallet("finance", currency).await;
            let done = p
                .settled(&p.pay("user", &payer, &payee, amount, currency).await.id())
                .await;
            assert_eq!(done["state"], "completed", "{done}");
            assert_eq!(done["target"]["amount"], amount);
            assert_eq!(p.balance(&payer).await, left);
            assert_eq!(p.balance(&payee).await, amount);
        }
        p.assert_balanced().await;
    });
}

#[test]
fn a_currency_the_ecb_does_not_quote_cannot_be_converted() {
    run(async {
        let p = Platform::shared().await;
        let payer = p.funded("user", "10.000", "KWD").await;
        let payee = p.wallet("finance", "EUR").await;
        let done = p
            .settled(&p.pay("user", &payer, &payee, "1.000", "KWD").await.id())
            .await;
        assert_eq!(
            (done["state"].as_str(), &done["reason_codes"]),
            (Some("failed"), &json!(["no_rate"])),
            "{done}"
        );
        assert_eq!(p.balance(&payer).await, "10.000");
    });
}

#[test]
fn a_payment_beyond_the_balance_fails_and_books_nothing() {
    run(async {
        let p = Platform::shared().await;
        let payer = p.funded("user", "10.00", "EUR").await;
        let payee = p.wallet("finance", "EUR").await;
        let done = p
            .settled(&p.pay("user", &payer, &payee, "10.01", "EUR").await.id())
            .await;
        assert_eq!(done["state"], "failed");
        assert_eq!(done["reason_codes"], json!(["insufficient_funds"]));
        assert_eq!(done["ledger_entry_id"], json!(null));
        assert_eq!(p.balance(&payer).await, "10.00");
        assert_eq!(p.balance(&payee).await, "0.00");
    });
}

#[test]
fn the_shipped_rules_decline_above_50000_and_put_above_10000_under_review() {
    run(async {
        let p = Platform::shared().await;
        let payer = p.funded("user", "200000.00", "EUR").await;
        let payee = p.wallet("finance", "EUR").await;
        for (amount, state) in [
            ("10000.00", "initiated"),
            ("10000.01", "review"),
            ("50000.00", "review"),
            ("50000.01", "declined"),
        ] {
            let answer = p.pay("user", &payer, &payee, amount, "EUR").await;
            assert_eq!(
                (answer.status, answer.json["state"].as_str()),
                (202, Some(state)),
                "{}",
                answer.text
            );
            let reasons = answer.json["reason_codes"].as_array().unwrap();
            assert_eq!(reasons.is_empty(), state == "initiated", "{}", answer.text);
        }
        // The equivalent counts, not the face value: 11,000 USD are under EUR 10,000.
        let payer = p.funded("user", "20000.00", "USD").await;
        let payee = p.wallet("finance", "USD").await;
        let answer = p.pay("user", &payer, &payee, "11000.00", "USD").await;
        assert_eq!(answer.json["state"], "initiated", "{}", answer.text);
        let answer = p.pay("user", &payer, &payee, "11500.00", "USD").await;
        assert_eq!(answer.json["state"], "review", "{}", answer.text);
    });
}

#[test]
fn a_reviewed_payment_waits_for_finance_and_is_decided_once() {
    run(async {
        let p = Platform::shared().await;
        let payer = p.funded("user", "60000.00", "EUR").await;
        let payee = p.wallet("finance", "EUR").await;
        let approved = p.pay("user", &payer, &payee, "20000.00", "EUR").await.id();
        let declined = p.pay("user", &payer, &payee, "20000.00", "EUR").await.id();
        let decide = |id: &str, verdict: &str| {
            (
                format!("/api/payment/v1/payments/{id}/decision"),
                json!({"decision": verdict, "reason": "test"}),
            )
        };
        let (path, body) = decide(&approved, "approve");
        assert_eq!(p.post("user", &path, body.clone()).await.status, 403);
        // Nobody's approval lets money leave a wallet that was frozen meanwhile.
        let wallet = format!("/api/wallet/v1/wallets/{payer}");
        let why = json!({"reason": "under suspicion"});
        let (freeze, unfreeze) = (format!("{wallet}/freeze"), format!("{wallet}/unfreeze"));
        let frozen = p.post("finance", &freeze, why.clone()).await;
        assert_eq!(frozen.status, 200);
        let refused = p.post("finance", &path, body.clone()).await;
        assert_eq!(
            (refused.status, refused.code()),
            (422, "wallet_not_active"),
            "{}",
            refused.text
        );
        assert_eq!(p.post("finance", &unfreeze, why).await.status, 200);
        assert_eq!(p.post("finance", &path, body.clone()).await.status, 200);
        assert_eq!(p.settled(&approved).await["state"], "completed");
        let again = p.post("finance", &path, body).await;
        assert_eq!((again.status, again.code()), (409, "invalid_state"));
        let (path, body) = decide(&declined, "decline");
        assert_eq!(
            p.post("finance", &path, body).await.json["state"],
            "declined"
        );
        assert_eq!(p.balance(&payer).await, "40000.00");
    });
}

#[test]
fn unknown_wallets_are_404_and_someone_elses_403() {
    run(async {
        let p = Platform::shared().await;
        let own = p.funded("user", "10.00", "EUR").await;
        let other = p.funded("finance", "10.00", "EUR").await;
        let missing = "wal_00000000000000000000000000000000";
        let unknown = p.pay("user", missing, &own, "1.00", "EUR").await;
        assert_eq!((unknown.status, unknown.code()), (404, "wallet_not_found"));
        let unknown = p.pay("user", &own, missing, "1.00", "EUR").await;
        assert_eq!((unknown.status, unknown.code()), (404, "wallet_not_found"));
        let foreign = p.pay("user", &other, &own, "1.00", "EUR").await;
        assert_eq!((foreign.status, foreign.code()), (403, "not_owner"));
        let read = p
            .get("user", &format!("/api/wallet/v1/wallets/{other}"))
            .await;
        assert_eq!((read.status, read.code()), (403, "not_owner"));
        let read = p
            .get("user", &format!("/api/wallet/v1/wallets/{missing}"))
            .await;
        assert_eq!((read.status, read.code()), (404, "wallet_not_found"));
        let viewer = p.pay("viewer", &own, &other, "1.00", "EUR").await;
        assert_eq!((viewer.status, viewer.code()), (403, "insufficient_scope"));
    });
}

#[test]
fn bad_bodies_are_refused_with_their_field_and_store_nothing() {
    run(async {
        let p = Platform::start().await;
        let payer = p.funded("user", "10.00", "EUR").await;
        let payee = p.wallet("finance", "EUR").await;
        let count = || {
            p.number(
                "payment",
                "SELECT (SELECT count(*) FROM payments) + (SELECT count(*) FROM idempotency)",
            )
        };
        let before = count();
        let with = |field: &str, value: serde_json::Value| {
            let mut body = payment(&payer, &payee, "1.00", "EUR");
            body[field] = value;
            body.to_string()
        };
        let deep = format!("{}1{}", r#"{"a":"#.repeat(70), "}".repeat(70));
        let duplicate = format!(
            r#"{{"payer_wallet":"{payer}","payee_wallet":"{payee}","amount":"1.00","amount":"2.00","currency":"EUR"}}"#
        );
        let float = format!(
            r#"{{"payer_wallet":"{payer}","payee_wallet":"{payee}","amount":1.5,"currency":"EUR"}}"#
        );
        let cases: Vec<(String, u16, &str, Option<&str>)> = vec![
            ("{".into(), 400, "malformed_json", None),
            ("[]".into(), 400, "invalid_request", None),
            (deep, 400, "malformed_json", None),
            (duplicate, 400, "duplicate_key", None),
            (float, 400, "invalid_amount", Some("/amount")),
            (
                with("amount", json!("1.234")),
                400,
                "invalid_amount",
                Some("/amount"),
            ),
            (
                with("amount", json!("-1.00")),
                400,
                "invalid_amount",
                Some("/amount"),
            ),
            (
                with("amount", json!("0.00")),
                400,
                "invalid_amount",
                Some("/amount"),
            ),
            (
                with("amount", json!("1000000000000000000000000000000")),
                400,
                "invalid_amount",
                Some("/amount"),
            ),
            (
                with("amount", json!("1e30")),
                400,
                "invalid_amount",
                Some("/amount"),
            ),
            (
                with("amount", json!(null)),
                400,
                "invalid_request",
                Some("/amount"),
            ),
            (
                with("currency", json!("XAU")),
                400,
                "unsupported_currency",
                Some("/currency"),
            ),
            (
                with("currency", json!("USD")),
                422,
                "currency_mismatch",
                Some("/currency"),
            ),
            (
                with("surprise", json!(1)),
                400,
                "invalid_request",
                Some("/surprise"),
            ),
            (
                with("payee_wallet", json!(payer)),
                400,
                "invalid_request",
                Some("/payee_wallet"),
            ),
            (
                with("reference", json!("x".repeat(141))),
                400,
                "invalid_request",
                Some("/reference"),
            ),
        ];
        for (body, status, code, param) in cases {
            let request = p
                .request("user", Method::POST, "/api/payment/v1/process")
                .await;
            let answer = request
                .key(&innover_tests::unique())
                .text(body.clone())
                .send()
                .await;
            assert_eq!(
                (answer.status, answer.code()),
                (status, code),
                "{body} → {}",
                answer.text
            );
            if let Some(param) = param {
                assert_eq!(answer.json["param"], param, "{body} → {}", answer.text);
            }
            assert_eq!(answer.headers["content-type"], "application/problem+json");
            assert!(answer.json["request_id"].is_string() && answer.json["instance"].is_string());
        }
        let large = format!(r#"{{"reference":"{}"}}"#, "x".repeat(2 << 20));
        let request = p
            .request("user", Method::POST, "/api/payment/v1/process")
            .await;
        let answer = request.key("large").text(large).send().await;
        assert_eq!(
            (answer.status, answer.code()),
            (413, "body_too_large"),
            "{}",
            answer.text
        );
        let body = payment(&payer, &payee, "1.00", "EUR");
        let request = p
            .request("user", Method::POST, "/api/payment/v1/process")
            .await;
        let answer = request.json(&body).send().await;
        assert_eq!(
            (answer.status, answer.code()),
            (400, "idempotency_key_required")
        );
        let request = p
            .request("user", Method::POST, "/api/payment/v1/process")
            .await;
        let answer = request
            .header("content-type", "text/plain")
            .key("k")
            .text(body.to_string())
            .send()
            .await;
        assert!([400, 415].contains(&answer.status), "{}", answer.text);
        assert_eq!(count(), before);
    });
}

#[test]
fn two_hundred_requests_with_twenty_keys_make_twenty_payments() {
    run(async {
        let p = Platform::start().await;
        let payer = p.funded("user", "1000.00", "EUR").await;
        let payee = p.wallet("finance", "EUR").await;
        let p = std::sync::Arc::new(p);
        let posts: Vec<_> = (0..200)
            .map(|n| {
                let (p, body) = (
                    p.clone(),
                    payment(&payer, &payee, &format!("{}.00", n % 20 + 1), "EUR"),
                );
                tokio::spawn(async move {
                    let request = p
                        .request("user", Method::POST, "/api/payment/v1/process")
                        .await;
                    (
                        n % 20,
                        request
                            .key(&format!("twin-{}", n % 20))
                            .json(&body)
                            .send()
                            .await,
                    )
                })
            })
            .collect();
        let mut answers = BTreeSet::new();
        let mut replayed = 0;
        for post in posts {
            let (key, answer) = post.await.unwrap();
            assert_eq!(answer.status, 202, "{}", answer.text);
            replayed += u32::from(answer.headers.contains_key("idempotency-replayed"));
            answers.insert((key, answer.text));
        }
        assert_eq!((answers.len(), replayed), (20, 180));
        assert_eq!(p.number("payment", "SELECT count(*) FROM payments"), 20);
        for (_, text) in &answers {
            let id = serde_json::from_str::<serde_json::Value>(text).unwrap()["id"]
                .as_str()
                .unwrap()
                .to_owned();
            assert_eq!(p.settled(&id).await["state"], "completed");
        }
        // 1 + 2 + … + 20
        assert_eq!(p.balance(&payer).await, "790.00");
        assert_eq!(p.balance(&payee).await, "210.00");
        let other = payment(&payer, &payee, "2.00", "EUR");
        let request = p
            .request("user", Method::POST, "/api/payment/v1/process")
            .await;
        let answer = request.key("twin-0").json(&other).send().await;
        assert_eq!(
            (answer.status, answer.code()),
            (422, "idempotency_key_reused")
        );
        assert_eq!(answer.json["differing_fields"], json!(["/amount"]));
    });
}
