//! Refunds: completed payments taken back, whole or in parts, never more than was captured.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use innover_tests::{Answer, PATIENCE, Platform, unique};
use reqwest::Method;
use serde_json::{Value, json};

const REFUNDS: &str = "/api/refund/v1/refunds";

/// All tests on one runtime: the platform's client keeps its connections there.
fn run<F: Future>(test: F) -> F::Output {
    static RUNTIME: std::sync::OnceLock<tokio::runtime::Runtime> = std::sync::OnceLock::new();
    RUNTIME
        .get_or_init(|| tokio::runtime::Runtime::new().unwrap())
        .block_on(test)
}

fn refund(payment: &str, amount: &str, currency: &str) -> Value {
    json!({"payment_id": payment, "amount": amount, "currency": currency, "reason": "test"})
}

/// A completed payment of `user` to a wallet of `finance`.
async fn paid(p: &Platform, payer: &str, payee: &str, amount: &str, currency: &str) -> Value {
    let answer = p.pay("user", payer, payee, amount, currency).await;
    let done = p.settled(&answer.id()).await;
    assert_eq!(done["state"], "completed", "{done}");
    done
}

/// Waits until a refund is not pending any more; returns it.
async fn settled(p: &Platform, id: &str) -> Value {
    let path = format!("{REFUNDS}/{id}");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = p.get("finance", &path).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        if answer.json["state"] != "pending" {
            return answer.json;
        }
        assert!(Instant::now() < deadline, "not settled: {}", answer.text);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Refunds as `user` and waits for its success; returns it.
async fn refunded(p: &Platform, user: &str, payment: &str, amount: &str, currency: &str) -> Value {
    let answer = p
        .post(user, REFUNDS, refund(payment, amount, currency))
        .await;
    assert_eq!(
        (answer.status, answer.json["state"].as_str()),
        (202, Some("pending")),
        "{}",
        answer.text
    );
    let done = settled(p, &answer.id()).await;
    assert_eq!(done["state"], "succeeded", "{done}");
    done
}

/// Waits until a wallet shows a balance: it follows the ledger.
async fn shows(p: &Platform, wallet: &str, balance: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let shown = p.balance(wallet).await;
        if shown == balance {
            return;
        }
        assert!(Instant::now() < deadline, "{shown} is not {balance}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn a_payment_within_a_currency_is_given_back_whole() {
    run(async {
        let p = Platform::shared().await;
        let payer = p.funded("user", "100.00", "EUR").await;
        let payee = p.wallet("finance", "EUR").await;
        let payment = paid(&p, &payer, &payee, "33.33", "EUR").await;
        let id = payment["id"].as_str().unwrap();
        let done = refunded(&p, "finance", id, "33.33", "EUR").await;
        assert_eq!(
            done["target"],
            json!({"amount": "33.33", "currency": "EUR"})
        );
        shows(&p, &payer, "100.00").await;
        shows(&p, &payee, "0.00").await;
        p.assert_balanced().await;

        let entry = done["ledger_entry_id"].as_str().unwrap();
        let path = format!("/api/ledger/v1/entries/{entry}");
        let entry = p.get("auditor", &path).await;
        assert_eq!(entry.json["kind"], "refund", "{}", entry.text);
        assert_eq!(entry.json["reverses"], payment["ledger_entry_id"]);
        let again = p.post("finance", REFUNDS, refund(id, "0.01", "EUR")).await;
        assert_eq!(
            (again.status, again.code()),
            (422, "refund_exceeds_captured")
        );
        let read = p
            .get("user", &format!("/api/payment/v1/payments/{id}"))
            .await;
        assert_eq!(
            read.json["state"], "completed",
            "a payment stays what it was"
        );
    });
}

#[test]
fn parts_of_a_converted_payment_sum_to_it_exactly() {
    run(async {
        let p = Platform::shared().await;
        let payer = p.funded("user", "1000.00", "EUR").await;
        let payee = p.wallet("finance", "USD").await;
        let payment = paid(&p, &payer, &payee, "33.33", "EUR").await;
        assert_eq!(payment["target"]["amount"], "37.23");
        let id = payment["id"].as_str().unwrap();
        let mut given = Vec::new();
        for amount in ["11.11", "11.11", "10.00", "1.11"] {
            let done = refunded(&p, "finance", id, amount, "EUR").await;
            assert_eq!(done["source"], json!({"amount": amount, "currency": "EUR"}));
            given.push(done["target"]["amount"].as_str().unwrap().to_owned());
        }
        // The running totals 12.412092, 24.824184 and 35.996184 at 1.1172, rounded up; then the rest.
        assert_eq!(given, ["12.42", "12.41", "11.17", "1.23"]);
        shows(&p, &payer, "1000.00").await;
        shows(&p, &payee, "0.00").await;
        p.assert_balanced().await;

        let list = p
            .get("user", &format!("{REFUNDS}?payment_id={id}&limit=3"))
            .await;
        assert_eq!(list.json["data"].as_array().unwrap().len(), 3);
        assert!(list.json["next_cursor"].is_string(), "{}", list.text);
    });
}

#[test]
fn what_cannot_be_refunded_says_why() {
    run(async {
        let p = Platform::shared().await;
        let payer = p.funded("user", "50000.00", "EUR").await;
        let payee = p.wallet("finance", "EUR").await;
        let payment = paid(&p, &payer, &payee, "10.00", "EUR").await;
        let id = payment["id"].as_str().unwrap();
        let review = p.pay("user", &payer, &payee, "20000.00", "EUR").await.id();
        let missing = "pay_00000000000000000000000000000000";
        for (body, status, code) in [
            (refund(id, "10.01", "EUR"), 422, "refund_exceeds_captured"),
            (refund(id, "10.00", "USD"), 422, "currency_mismatch"),
            (refund(id, "0.00", "EUR"), 400, "invalid_amount"),
            (refund(missing, "1.00", "EUR"), 404, "payment_not_found"),
            (refund(&review, "1.00", "EUR"), 409, "payment_not_completed"),
        ] {
            let answer = p.post("finance", REFUNDS, body.clone()).await;
            assert_eq!(
                (answer.status, answer.code()),
                (status, code),
                "{body} → {}",
                answer.text
            );
        }
        let request = p.request("finance", Method::POST, REFUNDS).await;
        let keyless = request.json(&refund(id, "1.00", "EUR")).send().await;
        assert_eq!(
            (keyless.status, keyless.code()),
            (400, "idempotency_key_required")
        );
    });
}

#[test]
fn the_payees_owner_refunds_and_the_payer_does_not() {
    run(async {
        let p = Platform::shared().await;
        let shop = p.wallet("user", "EUR").await;
        let customer = p.funded("finance", "100.00", "EUR").await;
        let other = p.wallet("finance", "EUR").await;
        // To the user, who may give it back.
        let got = p.pay("finance", &customer, &shop, "5.00", "EUR").await.id();
        assert_eq!(p.settled(&got).await["state"], "completed");
        let before = refunded(&p, "user", &got, "2.00", "EUR").await;
        // From the user, who may not.
        let gave = p.pay("user", &shop, &other, "3.00", "EUR").await.id();
        assert_eq!(p.settled(&gave).await["state"], "completed");
        let own = p.post("user", REFUNDS, refund(&gave, "1.00", "EUR")).await;
        assert_eq!((own.status, own.code()), (403, "not_owner"));
        let viewer = p.post("viewer", REFUNDS, refund(&got, "1.00", "EUR")).await;
        assert_eq!((viewer.status, viewer.code()), (403, "insufficient_scope"));
        let id = before["id"].as_str().unwrap();
        let read = p.get("auditor", &format!("{REFUNDS}/{id}")).await;
        assert_eq!(read.json, before);
        // What the payment service tells of both sides is for the refund service alone.
        let capture = format!("/api/payment/v1/payments/{got}/capture");
        assert_eq!(p.get("admin", &capture).await.status, 403);
    });
}

#[test]
fn a_repeated_request_is_one_refund() {
    run(async {
        let p = Platform::shared().await;
        let payer = p.funded("user", "10.00", "EUR").await;
        let payee = p.wallet("finance", "EUR").await;
        let payment = paid(&p, &payer, &payee, "10.00", "EUR").await;
        let id = payment["id"].as_str().unwrap();
        let key = unique();
        let ask = async |amount: &str| {
            let request = p.request("finance", Method::POST, REFUNDS).await;
            request
                .key(&key)
                .json(&refund(id, amount, "EUR"))
                .send()
                .await
        };
        let first = ask("4.00").await;
        let again = ask("4.00").await;
        assert_eq!((first.status, again.status), (202, 202), "{}", again.text);
        assert_eq!(first.text, again.text);
        assert_eq!(again.headers["idempotency-replayed"], "true");
        let other = ask("5.00").await;
        assert_eq!(
            (other.status, other.code()),
            (422, "idempotency_key_reused")
        );
        settled(&p, &first.id()).await;
        shows(&p, &payer, "4.00").await;
        shows(&p, &payee, "6.00").await;
    });
}

#[test]
fn a_refund_the_payee_cannot_cover_fails_and_frees_its_amount() {
    run(async {
        let p = Platform::shared().await;
        let payer = p.funded("user", "10.00", "EUR").await;
        let payee = p.wallet("finance", "EUR").await;
        let elsewhere = p.wallet("finance", "EUR").await;
        let payment = paid(&p, &payer, &payee, "10.00", "EUR").await;
        let id = payment["id"].as_str().unwrap();
        let spent = p.pay("finance", &payee, &elsewhere, "8.00", "EUR").await;
        assert_eq!(p.settled(&spent.id()).await["state"], "completed");

        let answer = p.post("finance", REFUNDS, refund(id, "10.00", "EUR")).await;
        let failed = settled(&p, &answer.id()).await;
        assert_eq!(
            (&failed["state"], &failed["failure_code"]),
            (&json!("failed"), &json!("insufficient_funds")),
            "{failed}"
        );
        assert_eq!(failed["ledger_entry_id"], Value::Null);
        shows(&p, &payer, "0.00").await;

        // All of it is free again, and the payee has it now.
        p.top_up(&payee, "8.00", "EUR").await;
        refunded(&p, "finance", id, "10.00", "EUR").await;
        shows(&p, &payer, "10.00").await;
        shows(&p, &payee, "0.00").await;
        p.assert_balanced().await;
    });
}

#[test]
fn a_stuck_refund_ends_as_the_ledger_says() {
    run(async {
        let p = Platform::start().await;
        let payer = p.funded("user", "10.00", "EUR").await;
        let payee = p.wallet("finance", "EUR").await;
        let payment = paid(&p, &payer, &payee, "10.00", "EUR").await;
        let id = payment["id"].as_str().unwrap();
        let booked = refunded(&p, "finance", id, "1.00", "EUR").await;
        let booked_id = booked["id"].as_str().unwrap();

        // One whose answer was lost, and one the ledger never heard of: both from long ago.
        let lost = format!(
            "UPDATE refunds SET state = 'pending', entry_id = NULL, updated_at = 1
             WHERE id = '{booked_id}'"
        );
        let unheard = format!(
            "INSERT INTO refunds SELECT 'ref_unheard', payment_id, 'pending', 1, 200, 0, 200, NULL,
                 '', '', '', '', '', created_by, 1, 1 FROM refunds WHERE id = '{booked_id}'"
        );
        let taken = "UPDATE captures SET version = version + 1, refunded = refunded + 200,
                         refunded_target = refunded_target + 200";
        p.change("refund", &[&lost, &unheard, taken]);

        let failed = settled(&p, "ref_unheard").await;
        assert_eq!(
            (&failed["state"], &failed["failure_code"]),
            (&json!("failed"), &json!("timed_out"))
        );
        let found = settled(&p, booked_id).await;
        assert_eq!(found["state"], "succeeded");
        assert_eq!(found["ledger_entry_id"], booked["ledger_entry_id"]);
        // What was not booked is free again.
        refunded(&p, "finance", id, "9.00", "EUR").await;
        shows(&p, &payer, "10.00").await;
        p.assert_balanced().await;
    });
}

/// Posts until the answer is one: under a burst the platform may say that it is busy, and then the
/// same key asks again.
async fn answered(p: &Platform, body: &Value) -> Answer {
    let key = unique();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let request = p.request("finance", Method::POST, REFUNDS).await;
        let answer = request.key(&key).json(body).send().await;
        let busy = answer.status >= 500 || answer.code() == "conflict";
        if !busy {
            return answer;
        }
        assert!(Instant::now() < deadline, "{}", answer.text);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn a_thousand_refunds_at_once_take_exactly_what_was_captured() {
    const PAYMENTS: usize = 100;
    run(async {
        let p = Arc::new(Platform::start().await);
        let payer = p.funded("user", "500.00", "EUR").await;
        let payee = p.wallet("finance", "EUR").await;
        let payments: Vec<_> = (0..PAYMENTS)
            .map(|_| {
                let (p, payer, payee) = (p.clone(), payer.clone(), payee.clone());
                tokio::spawn(async move {
                    let payment = paid(&p, &payer, &payee, "5.00", "EUR").await;
                    payment["id"].as_str().unwrap().to_owned()
                })
            })
            .collect();
        let mut ids = Vec::new();
        for payment in payments {
            ids.push(payment.await.unwrap());
        }
        shows(&p, &payee, "500.00").await;

        let started = Instant::now();
        let posts: Vec<_> = (0..10 * PAYMENTS)
            .map(|n| {
                let (p, id) = (p.clone(), ids[n % PAYMENTS].clone());
                tokio::spawn(async move {
                    let answer = answered(&p, &refund(&id, "1.00", "EUR")).await;
                    (id, answer)
                })
            })
            .collect();
        let mut taken: BTreeMap<String, usize> = BTreeMap::new();
        let mut refunds = Vec::new();
        for post in posts {
            let (id, answer) = post.await.unwrap();
            match (answer.status, answer.code()) {
                (202, _) => {
                    *taken.entry(id).or_default() += 1;
                    refunds.push(answer.id());
                }
                (422, "refund_exceeds_captured") => {}
                _ => panic!("{} {}", answer.status, answer.text),
            }
        }
        println!("1,000 answered in {:?}", started.elapsed());
        assert_eq!(taken.len(), PAYMENTS);
        assert!(taken.values().all(|n| *n == 5), "{taken:?}");
        for id in &refunds {
            assert_eq!(settled(&p, id).await["state"], "succeeded");
        }
        shows(&p, &payer, "500.00").await;
        shows(&p, &payee, "0.00").await;
        p.assert_balanced().await;
        let count = |database: &str, sql: &str| p.number(database, sql);
        assert_eq!(count("refund", "SELECT count(*) FROM refunds"), 500);
        assert_eq!(
            count(
                "refund",
                "SELECT count(*) FROM captures WHERE refunded = captured"
            ),
            100
        );
        assert_eq!(
            count(
                "ledger",
                "SELECT count(*) FROM entries WHERE kind = 'refund'"
            ),
            500
        );
    });
}
