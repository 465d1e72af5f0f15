//! The sweep settles what requests left open, as the ledger has it.

use serde_json::json;

use crate::{
    books::{Fault, books},
    support::{
        add, alone, balance, deliver, finance, hold, one, post, run, tamper, told, transfer, used,
        user,
    },
};

/// Makes a wallet's movements as old as the sweep wants them.
fn age(wallet: &str) {
    tamper(&format!(
        "UPDATE movements SET updated_at = 1 WHERE wallet_id = '{wallet}'"
    ));
}

fn state(wallet: &str) -> String {
    one(&format!(
        "SELECT state FROM movements WHERE wallet_id = '{wallet}'"
    ))
}

#[tokio::test]
async fn a_movement_the_ledger_has_is_posted_and_one_it_never_got_is_given_up() {
    let _alone = alone().await;
    let a = add("swa", "swda", "EUR", 10_000).await;
    let b = add("swb", "swdb", "EUR", 10_000).await;
    books().fault("acc_swa", Fault::AnswerLost);
    books().fault("acc_swb", Fault::CallLost);
    assert_eq!(
        transfer(&user("swda"), &a, &b, "10.00", "k1").await.status,
        409
    );
    assert_eq!(
        transfer(&user("swdb"), &b, &a, "20.00", "k1").await.status,
        409
    );
    run("wallet.sweep", vec![]).await;
    assert_eq!(
        (state(&a), state(&b)),
        ("requested".into(), "requested".into()),
        "too young"
    );
    age(&a);
    age(&b);
    run("wallet.sweep", vec![]).await;
    assert_eq!((state(&a), state(&b)), ("posted".into(), "refused".into()));
    assert_eq!(
        (used(&a).await, used(&b).await),
        ("10.00".into(), "0.00".into())
    );
    let found = transfer(&user("swda"), &a, &b, "10.00", "k1").await;
    assert_eq!(found.status, 201, "{}", found.body);
    let given_up = transfer(&user("swdb"), &b, &a, "20.00", "k1").await;
    assert_eq!((given_up.status, given_up.code()), (409, "invalid_state"));
    assert!(
        given_up.body["detail"]
            .as_str()
            .unwrap()
            .contains("new key")
    );
    assert_eq!(
        books().accounts["acc_swa"].posted,
        9_000,
        "nothing was booked late"
    );
}

/// The request that was given up may wake up: the client has been told that nothing moved.
#[tokio::test]
async fn a_movement_given_up_is_refused_by_the_ledger_whenever_it_comes() {
    let _alone = alone().await;
    let a = add("sga", "sgda", "EUR", 10_000).await;
    let b = add("sgb", "sgdb", "EUR", 0).await;
    books().fault("acc_sga", Fault::CallLost);
    transfer(&user("sgda"), &a, &b, "10.00", "k1").await;
    age(&a);
    run("wallet.sweep", vec![]).await;
    let id = one("SELECT id FROM movements WHERE wallet_id = 'wal_sga'");
    let late = books().transfer(
        &json!({"id": id, "debit_account": "acc_sga", "credit_account": "acc_sgb",
        "amount": "10.00", "currency": "EUR", "kind": "transfer", "reference": ""}),
    );
    assert_eq!(late.0, 409);
    assert_eq!(books().accounts["acc_sga"].posted, 10_000);
}

/// The sweep may die between the ledger's answer and its own commit.
#[tokio::test]
async fn a_movement_the_ledger_gave_up_is_refused_for_who_asks_again() {
    let _alone = alone().await;
    let a = add("sua", "suda", "EUR", 10_000).await;
    let b = add("sub", "sudb", "EUR", 0).await;
    books().fault("acc_sua", Fault::CallLost);
    transfer(&user("suda"), &a, &b, "10.00", "k1").await;
    assert_eq!(used(&a).await, "10.00");
    books().give_up(&one("SELECT id FROM movements WHERE wallet_id = 'wal_sua'"));
    let told = transfer(&user("suda"), &a, &b, "10.00", "k1").await;
    assert_eq!((told.status, told.code()), (409, "invalid_state"));
    let detail = told.body["detail"].as_str().unwrap();
    assert!(detail.contains("new key"), "{detail}");
    assert_eq!(
        (state(&a), used(&a).await),
        ("refused".into(), "0.00".into())
    );
}

#[tokio::test]
async fn a_movement_given_up_that_was_booked_after_all_is_booked() {
    let _alone = alone().await;
    let a = add("sla", "slda", "EUR", 10_000).await;
    let b = add("slb", "sldb", "EUR", 0).await;
    books().fault("acc_sla", Fault::CallLost);
    transfer(&user("slda"), &a, &b, "10.00", "k1").await;
    age(&a);
    run("wallet.sweep", vec![]).await;
    assert_eq!(
        (state(&a), used(&a).await),
        ("refused".into(), "0.00".into())
    );
    let id = one("SELECT id FROM movements WHERE wallet_id = 'wal_sla'");
    let account = json!({"account_id": "acc_sla", "currency": "EUR", "posted_minor": 9000, "held_minor": 0, "version": 2});
    let data = json!({"entry_id": "ent_late", "transfer_id": id, "payment_id": null, "accounts": [account]});
    deliver("ledger.posted", &id, data).await;
    assert_eq!(state(&a), "posted", "the ledger is the judge");
    assert_eq!(balance(&a).await.0, "90.00");
}

#[tokio::test]
async fn a_retry_starts_the_time_anew() {
    let _alone = alone().await;
    let a = add("sra", "srda", "EUR", 10_000).await;
    let b = add("srb", "srdb", "EUR", 0).await;
    for _ in 0..2 {
        books().fault("acc_sra", Fault::CallLost);
        transfer(&user("srda"), &a, &b, "10.00", "k1").await;
        if one("SELECT version FROM movements WHERE wallet_id = 'wal_sra'") == "1" {
            age(&a);
        }
    }
    run("wallet.sweep", vec![]).await;
    assert_eq!(state(&a), "requested");
    assert_eq!(
        transfer(&user("srda"), &a, &b, "10.00", "k1").await.status,
        201
    );
}

#[tokio::test]
async fn a_capture_nobody_finished_is_finished() {
    let _alone = alone().await;
    let a = add("sca", "scda", "EUR", 10_000).await;
    let id = hold(&user("scda"), &a, None, "60.00").await;
    books().fault("acc_sca", Fault::CallLost);
    let path = format!("/v1/holds/{id}/capture");
    let lost = post(&finance(), &path, "k1", json!({"amount": "15.00"})).await;
    assert_eq!(lost.status, 409);
    run("wallet.sweep", vec![]).await;
    assert_eq!(state(&a), "held", "too young");
    age(&a);
    run("wallet.sweep", vec![]).await;
    assert_eq!(state(&a), "captured");
    assert_eq!(used(&a).await, "15.00");
    assert_eq!(books().accounts["acc_sca"].posted, 8_500);
    let found = post(&finance(), &path, "k1", json!({"amount": "15.00"})).await;
    assert_eq!(
        (found.status, &found.body["captured"]),
        (200, &json!("15.00"))
    );
}

#[tokio::test]
async fn an_expiry_nobody_told_is_found() {
    let _alone = alone().await;
    let a = add("sxa", "sxda", "EUR", 10_000).await;
    let id = hold(&user("sxda"), &a, None, "60.00").await;
    books().expire(&id);
    tamper("UPDATE movements SET expires_at = 1 WHERE wallet_id = 'wal_sxa'");
    run("wallet.sweep", vec![]).await;
    assert_eq!(
        (state(&a), used(&a).await),
        ("expired".into(), "0.00".into())
    );
    assert_eq!(told("wallet.hold_changed", &id).len(), 2);
}
