//! Refunds turn the legs of their payment round: once each, whatever brings them again.

use innover_kit::{Cx, Db, Event};
use ledger::{
    events,
    store::{
        entries::{self, Known},
        reports,
    },
};
use serde_json::json;

use crate::support::{Database, converted, open, outbox, posted, refunded};

async fn pay(db: &mut Db, batch: &[Event]) {
    let cx = Cx::detached("ledger");
    let handled = events::converted(&cx, db, batch).await.expect("handled");
    handled.batch.commit(db).await.expect("committed");
}

async fn refund(db: &mut Db, batch: &[Event]) -> Vec<String> {
    let cx = Cx::detached("ledger");
    let handled = events::refund_initiated(&cx, db, batch).await;
    let handled = handled.expect("handled");
    handled.batch.commit(db).await.expect("committed");
    handled.refused.into_keys().collect()
}

/// `acc_a` paid 33.33 EUR of its 100.00, 0.09 of it the house's margin; `acc_u` got 37.13 USD.
async fn paid(database: &Database) -> Db {
    let mut db = database.connect();
    open(
        &mut db,
        &[("acc_a", "EUR"), ("acc_b", "EUR"), ("acc_u", "USD")],
    )
    .await;
    let fund = ("acc_house_cash_EUR", 10_000, "EUR");
    let top_up = converted("pay_0", fund, ("acc_a", 10_000, "EUR"), 0);
    let payment = converted("pay_1", ("acc_a", 3_333, "EUR"), ("acc_u", 3_713, "USD"), 9);
    pay(&mut db, &[top_up, payment]).await;
    db
}

async fn told(db: &Db, kind: &str) -> Vec<(String, serde_json::Value)> {
    let all = outbox(db).await.into_iter();
    all.filter(|(k, ..)| k == kind)
        .map(|(_, key, data, _)| (key, data))
        .collect()
}

const ACCOUNTS: [&str; 5] = [
    "acc_a",
    "acc_u",
    "acc_house_fx_EUR",
    "acc_house_fx_USD",
    "acc_house_margin_EUR",
];

#[tokio::test]
async fn parts_undo_a_converted_payment_leg_by_leg() {
    let database = Database::new();
    let mut db = paid(&database).await;
    let parts = [
        refunded("ref_1", ("acc_a", 1_111, "EUR"), ("acc_u", 1_239, "USD"), 3),
        refunded("ref_2", ("acc_a", 2_222, "EUR"), ("acc_u", 2_474, "USD"), 6),
    ];
    refund(&mut db, &parts[..1]).await;
    let mut after = Vec::new();
    for account in ACCOUNTS {
        after.push(posted(&db, account).await);
    }
    assert_eq!(after, [7_778, 2_474, 2_216, -2_474, 6]);
    refund(&mut db, &parts[1..]).await;
    let mut after = Vec::new();
    for account in ACCOUNTS {
        after.push(posted(&db, account).await);
    }
    assert_eq!(after, [10_000, 0, 0, 0, 0]);
    for currency in reports::trial_balance(&db).await.expect("read") {
        assert_eq!(
            (currency.debits - currency.credits, currency.differing),
            (0, 0)
        );
    }
    let told = told(&db, "ledger.posted").await;
    let (key, data) = told
        .iter()
        .find(|(key, _)| key == "ref_1")
        .expect("told by its own key");
    assert_eq!(
        (&data["refund_id"], &data["payment_id"], &data["kind"]),
        (&json!(key), &json!(null), &json!("refund"))
    );
    assert_eq!(data["accounts"].as_array().map(Vec::len), Some(5));
    let entry = data["entry_id"].as_str().expect("an entry");
    let Some(Known::Booked(entry, _)) = entries::find(&db, entry).await.expect("read") else {
        panic!("it was booked");
    };
    assert_eq!(
        (entry.reverses.as_deref(), entry.reference.as_str()),
        (Some("pay_1"), "pay_1")
    );
}

#[tokio::test]
async fn a_part_that_takes_nothing_of_the_payee_moves_the_houses_position_alone() {
    let database = Database::new();
    let mut db = paid(&database).await;
    let part = refunded("ref_1", ("acc_a", 1, "EUR"), ("acc_u", 0, "USD"), 0);
    refund(&mut db, &[part]).await;
    assert_eq!(
        (posted(&db, "acc_a").await, posted(&db, "acc_u").await),
        (6_668, 3_713)
    );
    assert_eq!(posted(&db, "acc_house_fx_EUR").await, 3_323);
}

#[tokio::test]
async fn a_refund_is_booked_or_refused_once_whatever_brings_it_again() {
    let database = Database::new();
    let mut db = paid(&database).await;
    let good = || refunded("ref_1", ("acc_a", 1_000, "EUR"), ("acc_u", 1_117, "USD"), 0);
    let poor = || refunded("ref_2", ("acc_a", 9_000, "EUR"), ("acc_u", 9_000, "USD"), 0);
    refund(&mut db, &[good(), poor()]).await;
    refund(&mut db, &[good(), poor(), good()]).await;
    assert_eq!(
        (posted(&db, "acc_a").await, posted(&db, "acc_u").await),
        (7_667, 2_596)
    );
    let rejected = told(&db, "ledger.rejected").await;
    let (key, data) = &rejected[0];
    assert_eq!((rejected.len(), key.as_str()), (1, "ref_2"));
    assert_eq!(
        (&data["refund_id"], &data["code"]),
        (&json!("ref_2"), &json!("insufficient_funds"))
    );
    assert!(data["payment_id"].is_null());
}

#[tokio::test]
async fn refunds_that_do_not_add_up_or_come_from_elsewhere_move_nothing() {
    let database = Database::new();
    let mut db = paid(&database).await;
    let batch = [
        refunded("ref_1", ("acc_a", 2, "EUR"), ("acc_b", 1, "EUR"), 0),
        refunded("ref_2", ("acc_a", 0, "EUR"), ("acc_u", 1, "USD"), 0),
        refunded("ref_3", ("acc_a", 5, "EUR"), ("acc_u", 1, "USD"), 6),
        refunded("ref_4", ("acc_a", 5, "EUR"), ("acc_u", -1, "USD"), 0),
    ];
    assert!(refund(&mut db, &batch).await.is_empty());
    let rejected = told(&db, "ledger.rejected").await;
    let mut codes: Vec<String> = rejected
        .iter()
        .map(|(key, data)| format!("{key} {}", data["code"].as_str().unwrap_or_default()))
        .collect();
    codes.sort();
    assert_eq!(
        codes,
        [
            "ref_1 unbalanced",
            "ref_2 invalid_amount",
            "ref_3 invalid_amount",
            "ref_4 invalid_amount",
        ]
    );
    let mut forged = refunded("ref_5", ("acc_a", 5, "EUR"), ("acc_u", 5, "USD"), 0);
    for source in ["external", "/innover/payment", "/innover/forex", ""] {
        forged.source = source.into();
        let parked = refund(&mut db, std::slice::from_ref(&forged)).await;
        assert!(parked.is_empty(), "acknowledged");
    }
    assert_eq!(posted(&db, "acc_a").await, 6_667);
}
