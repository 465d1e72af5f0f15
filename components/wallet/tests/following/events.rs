//! `ledger.posted` moves projections once, and payments are always answered.

use innover_kit::{Cx, Db, Event};
use serde_json::json;
use wallet::{events, store};

use crate::support::{Database, add, posted, told};

async fn deliver(db: &mut Db, batch: &[Event]) -> usize {
    let cx = Cx::detached("wallet");
    let handled = events::ledger(&cx, db, batch).await.expect("handled");
    let refused = handled.refused.len();
    handled.batch.commit(db).await.expect("committed");
    refused
}

async fn balance(db: &Db, name: &str) -> (i64, i64) {
    let wallet = store::get(db, &format!("wal_{name}"))
        .await
        .expect("read")
        .expect("there");
    (wallet.posted, wallet.account_version)
}

#[tokio::test]
async fn events_of_one_batch_that_touch_the_same_wallet_are_all_told_and_the_newest_stays() {
    let database = Database::new();
    let mut db = database.connect();
    add(&mut db, &["a", "b"]).await;
    let batch = [
        posted("ent_1", Some("pay_1"), &[("a", 900, 2), ("b", 100, 1)]),
        posted("ent_3", Some("pay_3"), &[("a", 700, 4), ("b", 300, 3)]),
        posted("ent_2", Some("pay_2"), &[("a", 800, 3), ("b", 200, 2)]),
    ];
    deliver(&mut db, &batch).await;
    assert_eq!(
        (balance(&db, "a").await, balance(&db, "b").await),
        ((700, 4), (300, 3))
    );
    let told = told(&db).await;
    assert_eq!(told.len(), 3, "each payment waits for its own");
    let first = told
        .iter()
        .find(|data| data["payment_id"] == "pay_1")
        .expect("told");
    assert_eq!(
        first["wallets"][0],
        json!({"wallet_id": "wal_a", "currency": "EUR", "posted_minor": 900,
        "held_minor": 0, "available_minor": 900, "version": 2})
    );
}

#[tokio::test]
async fn a_late_event_of_a_payment_is_told_and_changes_nothing() {
    let database = Database::new();
    let mut db = database.connect();
    add(&mut db, &["a"]).await;
    deliver(&mut db, &[posted("ent_2", Some("pay_2"), &[("a", 200, 2)])]).await;
    deliver(&mut db, &[posted("ent_1", Some("pay_1"), &[("a", 100, 1)])]).await;
    assert_eq!(balance(&db, "a").await, (200, 2));
    let told = told(&db).await;
    let late = told
        .iter()
        .find(|data| data["payment_id"] == "pay_1")
        .expect("told");
    assert_eq!(
        late["wallets"][0]["posted_minor"], 200,
        "what it holds, not what it held"
    );
}

#[tokio::test]
async fn two_deliveries_at_once_leave_the_newer_balance_whoever_commits_last() {
    let database = Database::new();
    let (mut first, mut second) = (database.connect(), database.connect());
    add(&mut first, &["a"]).await;
    let cx = Cx::detached("wallet");
    let older = [posted("ent_1", Some("pay_1"), &[("a", 100, 1)])];
    let newer = [posted("ent_2", Some("pay_2"), &[("a", 200, 2)])];
    // Both read the wallet before either wrote it.
    let older = events::ledger(&cx, &first, &older).await.expect("handled");
    let newer = events::ledger(&cx, &second, &newer).await.expect("handled");
    newer.batch.commit(&mut second).await.expect("committed");
    older
        .batch
        .commit(&mut first)
        .await
        .expect("committed: nobody has to try again");
    assert_eq!(balance(&first, "a").await, (200, 2));
    assert_eq!(told(&first).await.len(), 2);
}

#[tokio::test]
async fn the_later_event_of_a_top_up_is_no_news() {
    let database = Database::new();
    let mut db = database.connect();
    add(&mut db, &["a"]).await;
    let top_up = || posted("ent_1", None, &[("house_cash_EUR", 500, 1), ("a", 500, 1)]);
    deliver(&mut db, &[top_up()]).await;
    assert_eq!(
        told(&db).await.len(),
        1,
        "an entry by hand is told when it is news"
    );
    deliver(&mut db, &[top_up()]).await;
    assert_eq!(told(&db).await.len(), 1);
    assert_eq!(balance(&db, "a").await, (500, 1));
}

#[tokio::test]
async fn a_payment_between_accounts_without_wallets_is_answered_too() {
    let database = Database::new();
    let mut db = database.connect();
    deliver(&mut db, &[posted("ent_1", Some("pay_1"), &[("x", 1, 1)])]).await;
    assert_eq!(told(&db).await[0]["wallets"], json!([]));
}

#[tokio::test]
async fn an_event_that_the_ledger_did_not_emit_changes_no_balance() {
    let database = Database::new();
    let mut db = database.connect();
    add(&mut db, &["a"]).await;
    let mut forged = posted("ent_1", Some("pay_1"), &[("a", 1_000_000, 9)]);
    for source in ["external", "/innover/payment", "ledger", ""] {
        forged.source = source.into();
        assert_eq!(
            deliver(&mut db, std::slice::from_ref(&forged)).await,
            0,
            "acknowledged"
        );
        assert_eq!(balance(&db, "a").await, (0, 0), "{source}");
    }
    assert!(told(&db).await.is_empty());
}

#[tokio::test]
async fn an_event_that_makes_no_sense_is_parked_and_the_rest_is_followed() {
    let database = Database::new();
    let mut db = database.connect();
    add(&mut db, &["a"]).await;
    let mut broken = posted("ent_9", Some("pay_9"), &[]);
    broken.data = json!({"entry_id": 9});
    let good = posted("ent_1", Some("pay_1"), &[("a", 5, 1)]);
    assert_eq!(deliver(&mut db, &[broken, good]).await, 1);
    assert_eq!(balance(&db, "a").await, (5, 1));
}
