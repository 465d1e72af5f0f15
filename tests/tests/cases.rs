//! Cases on the running platform: payments under review, their decisions, and what is tried again.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::time::{Duration, Instant};

use innover_tests::{Answer, PATIENCE, Platform, unique};
use reqwest::Method;
use serde_json::{Value, json};

/// All tests on one runtime: the platform's client keeps its connections there.
fn run<F: Future>(test: F) -> F::Output {
    static RUNTIME: std::sync::OnceLock<tokio::runtime::Runtime> = std::sync::OnceLock::new();
    RUNTIME
        .get_or_init(|| tokio::runtime::Runtime::new().unwrap())
        .block_on(test)
}

async fn until(p: &Platform, path: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = p.get("analyst", path).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        if holds(&answer.json) {
            return answer.json;
        }
        assert!(Instant::now() < deadline, "{what}: {}", answer.text);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A payment that waits for a decision, and its case.
async fn reviewed(p: &Platform) -> (String, String) {
    let payer = p.funded("user", "30000.00", "EUR").await;
    let payee = p.wallet("finance", "EUR").await;
    let answer = p.pay("user", &payer, &payee, "20000.00", "EUR").await;
    assert_eq!(answer.json["state"], "review", "{}", answer.text);
    let payment = answer.id();
    let path = format!("/v1/cases?payment_id={payment}");
    let found = until(p, &path, "no case", |page| page["data"][0].is_object()).await;
    let case = found["data"][0]["id"].as_str().unwrap().to_owned();
    (payment, case)
}

async fn decide(p: &Platform, user: &str, case: &str, decision: &str) -> Answer {
    let body = json!({"decision": decision, "reason": "called the customer"});
    p.post(user, &format!("/v1/cases/{case}/decision"), body)
        .await
}

async fn settled(p: &Platform, case: &str) -> Value {
    let path = format!("/v1/cases/{case}");
    until(p, &path, "the payment did not follow", |case| {
        ["followed", "overruled"].contains(&case["payment_follows"].as_str().unwrap())
    })
    .await
}

#[test]
fn a_payment_under_review_has_a_case_and_goes_on_when_that_is_approved() {
    run(async {
        let p = Platform::shared().await;
        let (payment, case) = reviewed(&p).await;
        let decided = decide(&p, "admin", &case, "approve").await;
        assert_eq!(
            (decided.status, &decided.json["state"]),
            (200, &json!("approved")),
            "{}",
            decided.text
        );
        assert_eq!(p.settled(&payment).await["state"], "completed");
        let case = settled(&p, &case).await;
        assert_eq!(
            (&case["payment_follows"], &case["decided_by"]),
            (&json!("followed"), &json!("usr_admin"))
        );
        let path = format!("/v1/cases?payment_id={payment}");
        let cases = p.get("viewer", &path).await;
        assert_eq!(cases.json["data"].as_array().unwrap().len(), 1);
    });
}

#[test]
fn an_analyst_who_may_not_pay_decides_on_a_payment_by_its_case() {
    run(async {
        let p = Platform::shared().await;
        let (payment, case) = reviewed(&p).await;
        let path = format!("/api/payment/v1/payments/{payment}/decision");
        let directly = json!({"decision": "decline", "reason": "not by the case"});
        assert_eq!(p.post("analyst", &path, directly).await.status, 403);
        let decided = decide(&p, "analyst", &case, "reject").await;
        assert_eq!(decided.status, 200, "{}", decided.text);
        assert_eq!(p.settled(&payment).await["state"], "declined");
        assert_eq!(settled(&p, &case).await["payment_follows"], "followed");
    });
}

#[test]
fn a_payment_decided_by_finance_closes_its_case() {
    run(async {
        let p = Platform::shared().await;
        for (word, state) in [("approve", "approved"), ("decline", "rejected")] {
            let (payment, case) = reviewed(&p).await;
            let path = format!("/api/payment/v1/payments/{payment}/decision");
            let body = json!({"decision": word, "reason": "by hand"});
            assert_eq!(p.post("finance", &path, body).await.status, 200);
            let case = settled(&p, &case).await;
            assert_eq!(
                (&case["state"], &case["decided_by"]),
                (&json!(state), &json!(null))
            );
            let late = decide(&p, "admin", case["id"].as_str().unwrap(), "approve").await;
            assert_eq!((late.status, late.code()), (409, "invalid_state"));
        }
    });
}

#[test]
fn an_approved_payment_to_a_wallet_that_was_closed_is_declined_and_its_case_follows() {
    run(async {
        let p = Platform::shared().await;
        for by_case in [true, false] {
            let (payment, case) = reviewed(&p).await;
            let path = format!("/api/payment/v1/payments/{payment}");
            let payee = p.get("user", &path).await.json["payee_wallet"].clone();
            let close = format!("/api/wallet/v1/wallets/{}/close", payee.as_str().unwrap());
            let closed = p
                .post("finance", &close, json!({"reason": "moved away"}))
                .await;
            assert_eq!(closed.status, 200, "{}", closed.text);
            if by_case {
                assert_eq!(decide(&p, "admin", &case, "approve").await.status, 200);
            } else {
                let body = json!({"decision": "approve", "reason": "by hand"});
                let decided = p.post("finance", &format!("{path}/decision"), body).await;
                assert_eq!((decided.status, decided.code()), (409, "invalid_state"));
                assert!(decided.text.contains("closed"), "{}", decided.text);
            }
            let after = p.settled(&payment).await;
            assert_eq!(after["state"], "declined", "{after}");
            let reasons = after["reason_codes"].as_array().unwrap();
            assert!(reasons.contains(&json!("wallet_not_active")), "{after}");
            assert_eq!(settled(&p, &case).await["state"], "rejected");
            // Who approved is known, and why it was of no use.
            let timeline = p.get("user", &format!("{path}/timeline")).await.text;
            let said =
                timeline.contains("closed") && (by_case || timeline.contains("finance: by hand; "));
            assert!(said, "{timeline}");
        }
    });
}

#[test]
fn case_and_payment_decided_against_each_other_at_the_same_moment_end_alike() {
    run(async {
        let p = Platform::shared().await;
        for _ in 0..4 {
            let (payment, case) = reviewed(&p).await;
            let path = format!("/api/payment/v1/payments/{payment}/decision");
            let body = json!({"decision": "decline", "reason": "race"});
            let (by_case, by_hand) = tokio::join!(
                decide(&p, "admin", &case, "approve"),
                p.post("finance", &path, body)
            );
            assert!(matches!(by_case.status, 200 | 409), "{}", by_case.text);
            assert!(matches!(by_hand.status, 200 | 409), "{}", by_hand.text);
            let payment = p.settled(&payment).await;
            let case = settled(&p, &case).await;
            let want = match payment["state"].as_str().unwrap() {
                "completed" => "approved",
                "declined" => "rejected",
                other => panic!("{other}"),
            };
            assert_eq!(case["state"], want, "{case}");
        }
    });
}

#[test]
fn decisions_survive_kill_9_at_any_moment() {
    run(async {
        let mut p = Platform::start().await;
        let mut waiting = Vec::new();
        for _ in 0..3 {
            waiting.push(reviewed(&p).await);
        }
        for (payment, case) in waiting {
            let key = unique();
            let path = format!("/v1/cases/{case}/decision");
            let body = json!({"decision": "approve", "reason": "before the power goes"});
            let asked = p.request("admin", Method::POST, &path).await;
            let asked = asked.key(&key).json(&body);
            let answered = tokio::spawn(asked.try_send());
            tokio::time::sleep(Duration::from_millis(5)).await;
            p.kill();
            let _ = answered.await;
            p.run();
            // Whatever came of it, the same key says so or does it.
            let again = p.request("admin", Method::POST, &path).await;
            let again = again.key(&key).json(&body).send().await;
            assert_eq!(again.status, 200, "{}", again.text);
            assert_eq!(p.settled(&payment).await["state"], "completed");
            assert_eq!(settled(&p, &case).await["payment_follows"], "followed");
        }
        p.assert_balanced().await;
    });
}

#[test]
fn a_case_is_scored_or_waits_for_its_score_and_says_which() {
    run(async {
        let p = Platform::shared().await;
        let body = json!({"title": "Three cards, one address", "priority": "high"});
        let made = p.post("analyst", "/v2/cases", body.clone()).await;
        assert_eq!(
            (made.status, &made.json["priority"]),
            (201, &json!("high")),
            "{}",
            made.text
        );
        let id = made.id();
        let path = format!("/api/cases/v2/cases/{id}");
        let asked = until(&p, &path, "neither scored nor waiting", |case| {
            case["score_state"] != "none"
        })
        .await;
        match asked["score_state"].as_str().unwrap() {
            "scored" => assert!(asked["score"].is_i64()),
            "PENDING_SCORE" => {
                // It is tried again by itself.
                let version = asked["version"].as_i64();
                until(&p, &path, "it was not tried again", |case| {
                    case["version"].as_i64() > version
                })
                .await;
                let sql = format!("SELECT COUNT(*) FROM cases WHERE id = '{id}' AND score_at > 0");
                assert_eq!(p.number("cases", &sql), 1);
            }
            other => panic!("{other}"),
        }
        assert_eq!(p.post("viewer", "/v1/cases", body).await.status, 403);
        let of_user = p.get("user", "/v1/cases").await;
        assert_eq!(
            (of_user.status, of_user.code()),
            (403, "insufficient_scope")
        );
    });
}
