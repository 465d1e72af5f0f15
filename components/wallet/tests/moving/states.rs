//! Wallets are frozen, unfrozen and closed.

use serde_json::json;

use crate::{
    books::books,
    support::{add, alone, balance, finance, get, hold, ops, post, tamper, told, transfer, user},
};

#[tokio::test]
async fn nothing_leaves_or_enters_a_frozen_wallet() {
    let a = add("fra", "frda", "EUR", 10_000).await;
    let b = add("frb", "frdb", "EUR", 10_000).await;
    let path = format!("/v1/wallets/{a}/freeze");
    let own = post(&user("frda"), &path, "k", json!({"reason": "mine"})).await;
    assert_eq!((own.status, own.code()), (403, "insufficient_scope"));
    let silent = post(&ops(), &path, "k", json!({"reason": " "})).await;
    assert_eq!((silent.status, silent.code()), (400, "invalid_request"));
    let frozen = post(&ops(), &path, "k", json!({"reason": "reported stolen"})).await;
    assert_eq!(
        (frozen.status, &frozen.body["state"]),
        (200, &json!("frozen")),
        "{}",
        frozen.body
    );
    let again = post(&ops(), &path, "k2", json!({"reason": "reported stolen"})).await;
    assert_eq!((again.status, again.code()), (409, "invalid_state"));

    let out = transfer(&user("frda"), &a, &b, "1.00", "t1").await;
    let house = transfer(&finance(), &a, &b, "1.00", "t2").await;
    let incoming = transfer(&user("frdb"), &b, &a, "1.00", "t3").await;
    let money = json!({"amount": "1.00", "currency": "EUR"});
    let cash = post(
        &user("frda"),
        &format!("/v1/wallets/{a}/withdrawals"),
        "t4",
        money.clone(),
    )
    .await;
    let held = post(
        &user("frda"),
        &format!("/v1/wallets/{a}/holds"),
        "t5",
        money.clone(),
    )
    .await;
    let top_up = post(&finance(), &format!("/v1/wallets/{a}/top-ups"), "t6", money).await;
    for refused in [out, house, incoming, cash, held, top_up] {
        assert_eq!((refused.status, refused.code()), (422, "wallet_not_active"));
    }
    assert_eq!(balance(&a).await.0, "100.00");

    let path = format!("/v1/wallets/{a}/unfreeze");
    let active = post(&finance(), &path, "k", json!({"reason": "found again"})).await;
    assert_eq!(
        (active.status, &active.body["state"]),
        (200, &json!("active"))
    );
    // What was refused for the wallet's state was no decision on the transfer.
    assert_eq!(
        transfer(&user("frda"), &a, &b, "1.00", "t1").await.status,
        201
    );

    let log = get(&ops(), &format!("/v1/wallets/{a}/decisions"))
        .await
        .body;
    let log: Vec<_> = log["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| {
            (
                d["action"].clone(),
                d["reason"].clone(),
                d["decided_by"].clone(),
            )
        })
        .collect();
    assert_eq!(
        log,
        [
            (json!("freeze"), json!("reported stolen"), json!("usr_ops")),
            (
                json!("unfreeze"),
                json!("found again"),
                json!("usr_finance")
            ),
        ]
    );
    assert_eq!(
        get(&user("frda"), &format!("/v1/wallets/{a}/decisions"))
            .await
            .status,
        403
    );
    assert_eq!(told("wallet.frozen", &a)[0]["decided_by"], "usr_ops");
    assert_eq!(told("wallet.unfrozen", &a)[0]["version"], 3);
}

#[tokio::test]
async fn a_wallet_is_closed_when_nothing_is_left_and_then_for_good() {
    let _alone = alone().await;
    let a = add("cla", "clda", "EUR", 1_000).await;
    let b = add("clb", "cldb", "EUR", 1_000).await;
    let path = format!("/v1/wallets/{a}/close");
    let full = post(&user("clda"), &path, "k1", json!({})).await;
    assert_eq!((full.status, full.code()), (409, "invalid_state"));
    assert_eq!(
        transfer(&user("clda"), &a, &b, "10.00", "t").await.status,
        201
    );
    // A hold for it is a promise.
    let promised = hold(&user("cldb"), &b, Some(&a), "5.00").await;
    let refused = post(&user("clda"), &path, "k1", json!({})).await;
    assert_eq!(
        (refused.status, refused.code()),
        (409, "invalid_state"),
        "{}",
        refused.body
    );
    let release = format!("/v1/holds/{promised}/release");
    assert_eq!(
        post(&user("clda"), &release, "r", json!({})).await.status,
        200
    );
    let other = post(&user("cldb"), &path, "k1", json!({})).await;
    assert_eq!((other.status, other.code()), (403, "not_owner"));
    let closed = post(&user("clda"), &path, "k1", json!({"reason": "moving on"})).await;
    assert_eq!(
        (closed.status, &closed.body["state"]),
        (200, &json!("closed")),
        "{}",
        closed.body
    );
    assert!(books().accounts["acc_cla"].closed);
    let again = post(&user("clda"), &path, "k1", json!({"reason": "moving on"})).await;
    assert!(again.replayed);
    for verb in ["close", "freeze", "unfreeze"] {
        let path = format!("/v1/wallets/{a}/{verb}");
        let refused = post(&finance(), &path, "k9", json!({"reason": "late"})).await;
        assert_eq!(
            (refused.status, refused.code()),
            (409, "invalid_state"),
            "{verb}"
        );
    }
    let late = transfer(&user("cldb"), &b, &a, "1.00", "t2").await;
    assert_eq!((late.status, late.code()), (422, "wallet_not_active"));
    assert_eq!(told("wallet.closed", &a)[0]["reason"], "moving on");
}

#[tokio::test]
async fn a_frozen_wallet_is_closed_by_the_house_only() {
    let _alone = alone().await;
    let a = add("cfa", "cfda", "EUR", 0).await;
    let freeze = format!("/v1/wallets/{a}/freeze");
    assert_eq!(
        post(&ops(), &freeze, "k", json!({"reason": "court order"}))
            .await
            .status,
        200
    );
    let path = format!("/v1/wallets/{a}/close");
    let own = post(&user("cfda"), &path, "k1", json!({})).await;
    assert_eq!((own.status, own.code()), (409, "invalid_state"));
    assert_eq!(post(&finance(), &path, "k1", json!({})).await.status, 200);
}

#[tokio::test]
async fn a_close_that_died_after_the_ledgers_part_is_finished_by_its_retry() {
    let _alone = alone().await;
    let a = add("cra", "crda", "EUR", 0).await;
    let path = format!("/v1/wallets/{a}/close");
    assert_eq!(
        post(&user("crda"), &path, "k1", json!({})).await.status,
        200
    );
    // As the first process would have left it.
    tamper("UPDATE wallets SET state = 'active' WHERE id = 'wal_cra'");
    assert_eq!(
        post(&user("crda"), &path, "k2", json!({})).await.status,
        200
    );
}
