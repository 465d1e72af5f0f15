//! Top-ups, transfers and withdrawals: what they share.

use serde_json::{Value, json};

use crate::{
    books::{Fault, books},
    support::{add, balance, deliver, finance, get, one, platform, post, told, transfer, user},
};

#[tokio::test]
async fn money_goes_from_one_wallet_to_another_and_both_show_it() {
    let a = add("oa", "oda", "EUR", 10_000).await;
    let b = add("ob", "odb", "EUR", 0).await;
    let done = transfer(&user("oda"), &a, &b, "33.33", "k1").await;
    assert_eq!(done.status, 201, "{}", done.body);
    let id = done.body["id"].as_str().unwrap();
    assert!(id.starts_with("trf_"), "{id}");
    assert_eq!(
        done.body,
        json!({"id": id, "kind": "transfer", "wallet_id": a, "to_wallet": b, "entry_id": format!("ent_{id}"),
               "amount": "33.33", "currency": "EUR", "reference": "rent",
               "balance": {"posted": "66.67", "held": "0.00", "available": "66.67"}})
    );
    assert_eq!(balance(&a).await.0, "66.67");
    assert_eq!(balance(&b).await.0, "33.33");
    let updated = told("wallet.updated", &format!("ent_{id}"));
    assert_eq!(updated.len(), 1);
    assert_eq!(updated[0]["wallets"].as_array().unwrap().len(), 2);
    assert_eq!(updated[0]["transfer_id"], id);
}

#[tokio::test]
async fn a_withdrawal_goes_to_the_houses_cash() {
    let a = add("wa", "wda", "EUR", 10_000).await;
    let path = format!("/v1/wallets/{a}/withdrawals");
    let body = json!({"amount": "40.00", "currency": "EUR"});
    let done = post(&user("wda"), &path, "k1", body.clone()).await;
    assert_eq!((done.status, &done.body["to_wallet"]), (201, &Value::Null));
    let id = done.body["id"].as_str().unwrap();
    let asked = books().transfers[id].body.clone();
    assert_eq!(
        (
            &asked["debit_account"],
            &asked["credit_account"],
            &asked["kind"]
        ),
        (
            &json!("acc_wa"),
            &json!("acc_house_cash_EUR"),
            &json!("withdrawal")
        )
    );
    assert_eq!(balance(&a).await.0, "60.00");
    let again = post(&user("wda"), &path, "k1", body).await;
    assert_eq!((again.body, again.replayed), (done.body, true));
}

#[tokio::test]
async fn the_same_key_is_one_movement_and_another_body_is_refused() {
    let a = add("ka", "kda", "EUR", 10_000).await;
    let b = add("kb", "kdb", "EUR", 0).await;
    let first = transfer(&user("kda"), &a, &b, "10.00", "k1").await;
    let again = transfer(&user("kda"), &a, &b, "10.00", "k1").await;
    assert_eq!((&again.body, again.replayed), (&first.body, true));
    let other = transfer(&user("kda"), &a, &b, "11.00", "k1").await;
    assert_eq!(
        (other.status, other.code()),
        (422, "idempotency_key_reused")
    );
    assert_eq!(other.body["differing_fields"], json!(["/amount"]));
    assert_eq!(balance(&b).await.0, "10.00");
}

#[tokio::test]
async fn a_retry_after_a_lost_answer_finds_the_booking_and_writes_what_is_missing() {
    let a = add("ra", "rda", "EUR", 10_000).await;
    let b = add("rb", "rdb", "EUR", 0).await;
    books().fault("acc_ra", Fault::AnswerLost);
    let lost = transfer(&user("rda"), &a, &b, "10.00", "k1").await;
    assert_eq!((lost.status, lost.code()), (409, "conflict"));
    assert_eq!(books().accounts["acc_rb"].posted, 1_000, "it is booked");
    assert_eq!(balance(&b).await.0, "0.00", "and nobody here knows");
    // Another body under that key is not what was booked.
    let other = transfer(&user("rda"), &a, &b, "12.00", "k1").await;
    assert_eq!(
        (other.status, other.code()),
        (422, "idempotency_key_reused")
    );
    assert_eq!(other.body["differing_fields"], json!(["/amount"]));
    let done = transfer(&user("rda"), &a, &b, "10.00", "k1").await;
    assert_eq!((done.status, done.replayed), (201, false), "{}", done.body);
    assert_eq!(balance(&a).await.0, "90.00");
    assert_eq!(balance(&b).await.0, "10.00");
    assert_eq!(books().accounts["acc_rb"].posted, 1_000, "once");
}

#[tokio::test]
async fn an_event_that_comes_before_the_retry_has_settled_the_movement() {
    let a = add("ea", "eda", "EUR", 10_000).await;
    let b = add("eb", "edb", "EUR", 0).await;
    books().fault("acc_ea", Fault::AnswerLost);
    transfer(&user("eda"), &a, &b, "10.00", "k1").await;
    let id = one("SELECT id FROM movements WHERE wallet_id = 'wal_ea'");
    // The entry of a transfer that is booked at once has its id.
    let entry = id.clone();
    let accounts = json!([
        {"account_id": "acc_ea", "currency": "EUR", "posted_minor": 9000, "held_minor": 0, "version": 2},
        {"account_id": "acc_eb", "currency": "EUR", "posted_minor": 1000, "held_minor": 0, "version": 2},
    ]);
    let data = json!({"entry_id": entry, "kind": "transfer", "transfer_id": null, "payment_id": null, "accounts": accounts});
    deliver("ledger.posted", &id, data.clone()).await;
    deliver("ledger.posted", &id, data).await;
    assert_eq!(
        one("SELECT state FROM movements WHERE wallet_id = 'wal_ea'"),
        "posted"
    );
    assert_eq!(balance(&b).await.0, "10.00");
    assert_eq!(
        told("wallet.updated", &entry).len(),
        1,
        "the second was no news"
    );
    let done = transfer(&user("eda"), &a, &b, "10.00", "k1").await;
    assert_eq!((done.status, &done.body["entry_id"]), (201, &json!(entry)));
    assert_eq!(done.body["balance"]["posted"], "90.00");
}

#[tokio::test]
async fn a_refusal_of_the_ledger_is_final_for_its_key() {
    let a = add("fa", "fda", "EUR", 500).await;
    let b = add("fb", "fdb", "EUR", 0).await;
    let refused = transfer(&user("fda"), &a, &b, "10.00", "k1").await;
    assert_eq!(
        (refused.status, refused.code()),
        (422, "insufficient_funds")
    );
    books().account_gets("acc_fa", 10_000);
    let again = transfer(&user("fda"), &a, &b, "10.00", "k1").await;
    assert_eq!((again.status, again.replayed), (422, true));
    assert_eq!(again.body, refused.body);
    let anew = transfer(&user("fda"), &a, &b, "10.00", "k2").await;
    assert_eq!(anew.status, 201, "{}", anew.body);
}

#[tokio::test]
async fn what_does_not_fit_is_refused_before_the_ledger_is_asked() {
    let a = add("na", "nda", "EUR", 10_000).await;
    let b = add("nb", "ndb", "EUR", 0).await;
    let d = add("nd", "ndb", "USD", 0).await;
    let frozen = add("nf", "ndb", "EUR", 0).await;
    let ops = crate::support::ops();
    let path = format!("/v1/wallets/{frozen}/freeze");
    assert_eq!(
        post(&ops, &path, "k", json!({"reason": "test"}))
            .await
            .status,
        200
    );
    let body = |to: &str, amount: &str, currency: &str| json!({"to_wallet": to, "amount": amount, "currency": currency});
    for (who, body, status, code) in [
        (
            user("nda"),
            body(&d, "1.00", "EUR"),
            422,
            "currency_mismatch",
        ),
        (
            user("nda"),
            body(&b, "1.00", "USD"),
            422,
            "currency_mismatch",
        ),
        (user("nda"), body(&a, "1.00", "EUR"), 400, "invalid_request"),
        (
            user("nda"),
            body("wal_none", "1.00", "EUR"),
            404,
            "wallet_not_found",
        ),
        (
            user("nda"),
            body(&frozen, "1.00", "EUR"),
            422,
            "wallet_not_active",
        ),
        (user("nda"), body(&b, "0.00", "EUR"), 400, "invalid_amount"),
        (user("ndb"), body(&b, "1.00", "EUR"), 403, "not_owner"),
    ] {
        let path = format!("/v1/wallets/{a}/transfers");
        let refused = post(&who, &path, &innover_kit::ids::new_uuid(), body.clone()).await;
        assert_eq!(
            (refused.status, refused.code()),
            (status, code),
            "{body} {}",
            refused.body
        );
    }
    let conversion = body(&d, "1.00", "EUR");
    let said = post(
        &user("nda"),
        &format!("/v1/wallets/{a}/transfers"),
        "kx",
        conversion,
    )
    .await;
    let detail = said.body["detail"].as_str().unwrap();
    assert!(detail.contains("/api/payment/v1/process"), "{detail}");
    assert_eq!(balance(&a).await.0, "100.00");
    assert_eq!(
        one("SELECT COUNT(*) FROM movements WHERE wallet_id = 'wal_na'"),
        "0"
    );
    let keyless = platform()
        .call(
            &user("nda"),
            "POST",
            &format!("/v1/wallets/{a}/withdrawals"),
            Some(json!({"amount": "1.00", "currency": "EUR"})),
        )
        .await;
    assert_eq!(
        (keyless.status, keyless.code()),
        (400, "idempotency_key_required")
    );
}

#[tokio::test]
async fn a_top_up_is_asked_of_the_houses_cash_and_counts_toward_no_limit() {
    let a = add("ta", "tda", "EUR", 0).await;
    let path = format!("/v1/wallets/{a}/top-ups");
    let body = json!({"amount": "90000.00", "currency": "EUR"});
    let done = post(&finance(), &path, "k1", body).await;
    assert_eq!(
        (done.status, &done.body["balance"]["available"]),
        (201, &json!("90000.00")),
        "{}",
        done.body
    );
    let id = done.body["id"].as_str().unwrap();
    assert!(id.starts_with("top_"));
    assert_eq!(
        books().transfers[id].body["debit_account"],
        "acc_house_cash_EUR"
    );
    assert_eq!(crate::support::used(&a).await, "0.00");
    let denied = post(
        &user("tda"),
        &path,
        "k2",
        json!({"amount": "1.00", "currency": "EUR"}),
    )
    .await;
    assert_eq!((denied.status, denied.code()), (403, "insufficient_scope"));
}

#[tokio::test]
async fn twins_are_one_movement() {
    let a = add("ya", "yda", "EUR", 10_000).await;
    let b = add("yb", "ydb", "EUR", 0).await;
    let twins = std::thread::scope(|scope| {
        let twin = || {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .build()
                    .unwrap();
                runtime.block_on(transfer(&user("yda"), &a, &b, "10.00", "k1"))
            })
        };
        let twins: Vec<_> = (0..8).map(|_| twin()).collect();
        twins
            .into_iter()
            .map(|t| t.join().unwrap())
            .collect::<Vec<_>>()
    });
    for twin in &twins {
        assert_eq!((twin.status, &twin.body), (201, &twins[0].body));
    }
    assert_eq!(balance(&b).await.0, "10.00");
    assert_eq!(crate::support::used(&a).await, "10.00");
    let read = get(&user("yda"), &format!("/v1/wallets/{a}")).await;
    assert_eq!(read.body["balance"]["posted"], "90.00");
}
