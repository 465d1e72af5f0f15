//! Conversions become entries: once each, many in one commit.

use innover_kit::{Cx, Db, Event};
use ledger::{
    events,
    store::{entries, reports},
};
use serde_json::json;

use crate::support::{Database, converted, event, open, outbox, posted};

async fn deliver(db: &mut Db, batch: &[Event]) -> Vec<String> {
    let cx = Cx::detached("ledger");
    let handled = events::converted(&cx, db, batch).await.expect("handled");
    handled.batch.commit(db).await.expect("committed");
    handled.refused.into_keys().collect()
}

async fn funded(database: &Database) -> Db {
    let mut db = database.connect();
    open(
        &mut db,
        &[("acc_a", "EUR"), ("acc_b", "EUR"), ("acc_u", "USD")],
    )
    .await;
    let top_up = converted(
        "pay_0",
        ("acc_house_cash_EUR", 10_000, "EUR"),
        ("acc_a", 10_000, "EUR"),
        0,
    );
    deliver(&mut db, &[top_up]).await;
    db
}

#[tokio::test]
async fn a_conversion_is_booked_in_both_currencies_and_told_with_its_cause() {
    let database = Database::new();
    let mut db = funded(&database).await;
    deliver(
        &mut db,
        &[converted(
            "pay_1",
            ("acc_a", 3_333, "EUR"),
            ("acc_u", 3_723, "USD"),
            0,
        )],
    )
    .await;
    assert_eq!(
        (posted(&db, "acc_a").await, posted(&db, "acc_u").await),
        (6_667, 3_723)
    );
    assert_eq!(posted(&db, "acc_house_fx_EUR").await, 3_333);
    assert_eq!(posted(&db, "acc_house_fx_USD").await, -3_723);
    for currency in reports::trial_balance(&db).await.expect("read") {
        assert_eq!(
            (currency.debits - currency.credits, currency.differing),
            (0, 0)
        );
    }
    let told = outbox(&db).await;
    let (kind, key, data, headers) = told.last().expect("an event");
    assert_eq!((kind.as_str(), key.as_str()), ("ledger.posted", "pay_1"));
    assert_eq!(
        (&data["payment_id"], &data["kind"]),
        (&json!("pay_1"), &json!("payment"))
    );
    assert_eq!(
        data["accounts"][0],
        json!({
            "account_id": "acc_a", "currency": "EUR", "posted_minor": 6_667, "held_minor": 0, "version": 2,
        })
    );
    assert_eq!(headers["correlationid"], "req-1");
}

#[tokio::test]
async fn payments_of_one_batch_see_each_other() {
    let database = Database::new();
    let mut db = funded(&database).await;
    // 100.00 are there: the second takes what the first left, the third finds too little, and the
    // fourth spends what the second brought.
    let batch = [
        converted("pay_1", ("acc_a", 6_000, "EUR"), ("acc_b", 6_000, "EUR"), 0),
        converted("pay_2", ("acc_a", 4_000, "EUR"), ("acc_b", 4_000, "EUR"), 0),
        converted("pay_3", ("acc_a", 1, "EUR"), ("acc_b", 1, "EUR"), 0),
        converted("pay_4", ("acc_b", 9_999, "EUR"), ("acc_a", 9_999, "EUR"), 0),
    ];
    deliver(&mut db, &batch).await;
    assert_eq!(
        (posted(&db, "acc_a").await, posted(&db, "acc_b").await),
        (9_999, 1)
    );
    let told: Vec<_> = outbox(&db)
        .await
        .into_iter()
        .map(|(kind, key, ..)| format!("{kind} {key}"))
        .collect();
    let mut told: Vec<&str> = told.iter().map(String::as_str).collect();
    told.sort_unstable();
    assert_eq!(
        told,
        [
            "ledger.posted pay_0",
            "ledger.posted pay_1",
            "ledger.posted pay_2",
            "ledger.posted pay_4",
            "ledger.rejected pay_3",
        ]
    );
    let lines = entries::statement(&db, "acc_a", 0, 10).await.expect("read");
    let after: Vec<i64> = lines.iter().map(|l| l.line.balance_after).collect();
    assert_eq!(after, [10_000, 4_000, 0, 9_999]);
}

#[tokio::test]
async fn a_payment_is_booked_or_refused_once_whatever_brings_it_again() {
    let database = Database::new();
    let mut db = funded(&database).await;
    let paid = || converted("pay_1", ("acc_a", 100, "EUR"), ("acc_b", 100, "EUR"), 0);
    let refused = || converted("pay_2", ("acc_b", 5_000, "EUR"), ("acc_a", 5_000, "EUR"), 0);
    deliver(&mut db, &[paid(), refused()]).await;
    // Other events, other ids, same payments; even when the money has come by then.
    deliver(
        &mut db,
        &[converted(
            "pay_3",
            ("acc_a", 9_000, "EUR"),
            ("acc_b", 9_000, "EUR"),
            0,
        )],
    )
    .await;
    deliver(&mut db, &[paid(), refused(), paid()]).await;
    assert_eq!(
        (posted(&db, "acc_a").await, posted(&db, "acc_b").await),
        (900, 9_100)
    );
    assert_eq!(outbox(&db).await.len(), 4, "nothing is told twice");
}

#[tokio::test]
async fn every_refusal_is_told_with_its_code() {
    let database = Database::new();
    let mut db = funded(&database).await;
    database
        .execute("UPDATE accounts SET state = 'closed' WHERE id = 'acc_b'")
        .expect("closed");
    let batch = [
        converted("pay_1", ("acc_a", 10_001, "EUR"), ("acc_u", 100, "USD"), 0),
        converted("pay_2", ("acc_a", 1, "EUR"), ("acc_b", 1, "EUR"), 0),
        converted("pay_3", ("acc_a", 1, "EUR"), ("acc_nobody", 1, "EUR"), 0),
        converted("pay_4", ("acc_a", 1, "EUR"), ("acc_u", 1, "EUR"), 0),
        converted("pay_5", ("acc_a", 1, "EUR"), ("acc_u", 0, "USD"), 0),
        converted("pay_6", ("acc_a", 1, "EUR"), ("acc_u", 2, "EUR"), 0),
    ];
    assert!(
        deliver(&mut db, &batch).await.is_empty(),
        "a rejection is an effect, not a failure"
    );
    let mut codes: Vec<_> = outbox(&db)
        .await
        .into_iter()
        .filter(|(kind, ..)| kind == "ledger.rejected")
        .map(|(_, key, data, _)| format!("{key} {}", data["code"].as_str().unwrap_or_default()))
        .collect();
    codes.sort();
    assert_eq!(
        codes,
        [
            "pay_1 insufficient_funds",
            "pay_2 account_closed",
            "pay_3 account_not_found",
            "pay_4 currency_mismatch",
            "pay_5 invalid_amount",
            "pay_6 unbalanced",
        ]
    );
    assert_eq!(posted(&db, "acc_a").await, 10_000);
}

#[tokio::test]
async fn an_event_that_forex_did_not_emit_moves_nothing() {
    let database = Database::new();
    let mut db = funded(&database).await;
    let mut forged = converted("pay_1", ("acc_a", 100, "EUR"), ("acc_b", 100, "EUR"), 0);
    for source in [
        "external",
        "/innover/payment",
        "/innover/forex/",
        "forex",
        "",
    ] {
        forged.source = source.into();
        assert!(
            deliver(&mut db, std::slice::from_ref(&forged))
                .await
                .is_empty(),
            "acknowledged"
        );
        assert_eq!(posted(&db, "acc_a").await, 10_000, "{source}");
    }
}

#[tokio::test]
async fn an_event_that_makes_no_sense_is_parked_and_the_rest_is_booked() {
    let database = Database::new();
    let mut db = funded(&database).await;
    let broken = event(
        "/innover/forex",
        "pay_9",
        json!({"payment_id": "pay_9", "source_minor": "many"}),
    );
    let good = converted("pay_1", ("acc_a", 100, "EUR"), ("acc_b", 100, "EUR"), 0);
    assert_eq!(deliver(&mut db, &[broken.clone(), good]).await, [broken.id]);
    assert_eq!(posted(&db, "acc_b").await, 100);
}

#[tokio::test]
async fn a_hundred_random_payments_in_one_commit_keep_the_books() {
    let database = Database::new();
    let mut db = database.connect();
    let names: Vec<String> = (0..20).map(|n| format!("acc_w{n}")).collect();
    let code = |n: usize| ["EUR", "USD", "JPY"][n % 3];
    let wallets: Vec<(&str, &str)> = names
        .iter()
        .enumerate()
        .map(|(n, name)| (name.as_str(), code(n)))
        .collect();
    open(&mut db, &wallets).await;
    let fund: Vec<Event> = wallets
        .iter()
        .map(|(id, code)| {
            let cash = format!("acc_house_cash_{code}");
            converted(
                &format!("pay_fund_{id}"),
                (&cash, 5_000, code),
                (id, 5_000, code),
                0,
            )
        })
        .collect();
    deliver(&mut db, &fund).await;
    // A fixed sequence that looks random: the failing case can be run again.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move |bound: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % bound
    };
    for round in 0..10 {
        let batch: Vec<Event> = (0..100)
            .map(|n| {
                let (from, to) = (next(20) as usize, next(20) as usize);
                let amount = 1 + next(2_000) as i64;
                let target = if code(from) == code(to) {
                    amount
                } else {
                    1 + next(3_000) as i64
                };
                converted(
                    &format!("pay_{round}_{n}"),
                    (&names[from], amount, code(from)),
                    (&names[to], target, code(to)),
                    0,
                )
            })
            .collect();
        deliver(&mut db, &batch).await;
        deliver(&mut db, &batch).await;
    }
    for currency in reports::trial_balance(&db).await.expect("read") {
        assert_eq!(
            (currency.debits, currency.differing),
            (currency.credits, 0),
            "{}",
            currency.currency
        );
    }
    for name in &names {
        assert!(posted(&db, name).await >= 0, "{name}");
    }
    assert_eq!(
        outbox(&db).await.len(),
        1_020,
        "each payment is told of once"
    );
}
