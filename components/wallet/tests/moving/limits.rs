//! Limits by KYC tier: exact, given back when nothing left, in euros whatever the currency.

use serde_json::{Value, json};

use crate::{
    books::{Fault, books},
    support::{
        add, balance, deliver_from, finance, get, hold, platform, post, transfer, used, user,
    },
};

async fn tier(owner: &str, tier: i64, version: i64) {
    let data = json!({"profile_id": format!("usr_{owner}"), "version": version, "kyc_tier": tier, "state": "active"});
    deliver_from("profile", "profile.updated", owner, data).await;
}

#[tokio::test]
async fn fifty_transfers_at_once_take_exactly_what_the_day_allows() {
    let a = add("qa", "qda", "EUR", 1_000_000).await;
    let b = add("qb", "qdb", "EUR", 0).await;
    // 500.00 a day: twelve of 40.00, and 20.00 are left.
    let replies: Vec<(u16, String)> = std::thread::scope(|scope| {
        let one = |n: usize| {
            let (a, b) = (a.clone(), b.clone());
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .build()
                    .unwrap();
                let reply =
                    runtime.block_on(transfer(&user("qda"), &a, &b, "40.00", &format!("k{n}")));
                (reply.status, reply.code().to_owned())
            })
        };
        let all: Vec<_> = (0..50).map(one).collect();
        all.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let booked = replies.iter().filter(|r| r.0 == 201).count();
    assert_eq!(booked, 12, "{replies:?}");
    for (status, code) in replies.iter().filter(|r| r.0 != 201) {
        assert_eq!((*status, code.as_str()), (422, "limit_exceeded"));
    }
    assert_eq!(used(&a).await, "480.00");
    assert_eq!(books().accounts["acc_qb"].posted, 48_000);
    let rest = transfer(&user("qda"), &a, &b, "20.00", "rest").await;
    assert_eq!(rest.status, 201);
    let cent = transfer(&user("qda"), &a, &b, "0.01", "cent").await;
    assert_eq!((cent.status, cent.code()), (422, "limit_exceeded"));
    let again = transfer(&user("qda"), &a, &b, "0.01", "cent").await;
    assert!(again.replayed, "a decision is kept");
}

#[tokio::test]
async fn twins_that_the_limit_allows_once_are_told_the_same() {
    for round in 0..20 {
        let (from, to) = (format!("q{round}a"), format!("q{round}b"));
        let a = add(&from, &from, "EUR", 1_000_000).await;
        let b = add(&to, &to, "EUR", 0).await;
        for key in ["1", "2"] {
            let first = transfer(&user(&from), &a, &b, "150.00", key).await;
            assert_eq!(first.status, 201, "{}", first.body);
        }
        // 200.00 of the day are left: once 150.00, which twins must not be refused for.
        let twins: Vec<_> = std::thread::scope(|scope| {
            let twin = || {
                scope.spawn(|| {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .build()
                        .unwrap();
                    runtime.block_on(transfer(&user(&from), &a, &b, "150.00", "twin"))
                })
            };
            let all: Vec<_> = (0..8).map(|_| twin()).collect();
            all.into_iter().map(|t| t.join().unwrap()).collect()
        });
        for twin in &twins {
            assert_eq!((twin.status, &twin.body), (201, &twins[0].body));
        }
        assert_eq!(balance(&b).await.0, "450.00");
        let late = transfer(&user(&from), &a, &b, "150.00", "late").await;
        assert_eq!((late.status, late.code()), (422, "limit_exceeded"));
        let refused = platform().rows(&format!(
            "SELECT state, code, allowance FROM movements WHERE wallet_id = '{a}' AND state <> 'posted'"
        ));
        assert_eq!(refused, [["refused", "limit_exceeded", "0"]]);
    }
}

#[tokio::test]
async fn a_tier_follows_the_profile_and_shows_in_the_limits() {
    let a = add("pa", "pda", "EUR", 1_000_000).await;
    let b = add("pb", "pdb", "EUR", 0).await;
    let path = format!("/v1/wallets/{a}/limits");
    let first = get(&user("pda"), &path).await.body;
    assert_eq!(
        (&first["tier"], &first["per_transaction"]["limit"]),
        (&json!(0), &json!("250.00"))
    );
    let refused = transfer(&user("pda"), &a, &b, "250.01", "k1").await;
    assert_eq!(
        (refused.status, refused.code(), &refused.body["param"]),
        (422, "limit_exceeded", &json!("/amount"))
    );
    tier("pda", 1, 5).await;
    tier("pda", 0, 4).await;
    assert_eq!(
        transfer(&user("pda"), &a, &b, "250.01", "k2").await.status,
        201
    );
    let now = get(&user("pda"), &path).await.body;
    assert_eq!(
        (
            &now["tier"],
            &now["per_day"]["limit"],
            &now["per_day"]["used"],
            &now["per_day"]["remaining"]
        ),
        (
            &json!(1),
            &json!("5000.00"),
            &json!("250.01"),
            &json!("4749.99")
        )
    );
    tier("pda", 3, 6).await;
    assert_eq!(
        transfer(&user("pda"), &a, &b, "9000.00", "k3").await.status,
        201
    );
    let none = get(&user("pda"), &path).await.body;
    assert_eq!(
        (
            &none["per_transaction"]["limit"],
            &none["per_day"]["remaining"],
            &none["per_day"]["used"]
        ),
        (&Value::Null, &Value::Null, &json!("9250.01"))
    );
    // Lowered again: nothing is left, and no less than nothing.
    tier("pda", 0, 7).await;
    let lowered = get(&user("pda"), &path).await.body;
    assert_eq!(lowered["per_day"]["remaining"], "0.00");
    assert_eq!(get(&user("pdb"), &path).await.status, 403);
}

#[tokio::test]
async fn an_event_of_another_source_changes_no_tier() {
    let a = add("ua", "uda", "EUR", 0).await;
    let data = json!({"profile_id": "usr_uda", "version": 9, "kyc_tier": 3, "state": "active"});
    deliver_from("forex", "profile.updated", "usr_uda", data).await;
    let limits = get(&user("uda"), &format!("/v1/wallets/{a}/limits")).await;
    assert_eq!(limits.body["tier"], 0);
}

#[tokio::test]
async fn what_the_ledger_refuses_gives_its_allowance_back() {
    let a = add("ba", "bda", "EUR", 1_000).await;
    let b = add("bb", "bdb", "EUR", 0).await;
    for key in ["k1", "k1", "k2", "k3"] {
        let refused = transfer(&user("bda"), &a, &b, "200.00", key).await;
        assert_eq!(
            (refused.status, refused.code()),
            (422, "insufficient_funds")
        );
        assert_eq!(used(&a).await, "0.00");
    }
}

#[tokio::test]
async fn an_open_movement_keeps_its_allowance_and_a_retry_takes_no_second_one() {
    let a = add("da", "dda", "EUR", 100_000).await;
    let b = add("db", "ddb", "EUR", 0).await;
    books().fault("acc_da", Fault::CallLost);
    assert_eq!(
        transfer(&user("dda"), &a, &b, "200.00", "k1").await.status,
        409
    );
    assert_eq!(used(&a).await, "200.00", "it may still be booked");
    assert_eq!(
        transfer(&user("dda"), &a, &b, "200.00", "k1").await.status,
        201
    );
    assert_eq!(used(&a).await, "200.00");
}

#[tokio::test]
async fn wallets_of_one_owner_share_a_day_and_a_hold_counts() {
    let a = add("j1", "jda", "EUR", 100_000).await;
    let b = add("j2", "jda", "EUR", 100_000).await;
    hold(&user("jda"), &a, None, "250.00").await;
    let path = format!("/v1/wallets/{b}/withdrawals");
    let body = |amount: &str| json!({"amount": amount, "currency": "EUR"});
    assert_eq!(
        post(&user("jda"), &path, "k1", body("250.00")).await.status,
        201
    );
    let over = post(&user("jda"), &path, "k2", body("0.01")).await;
    assert_eq!((over.status, over.code()), (422, "limit_exceeded"));
    // The house is not limited in what it moves for others.
    assert_eq!(
        post(&finance(), &path, "k3", body("700.00")).await.status,
        201
    );
    assert_eq!(used(&b).await, "500.00");
}

#[tokio::test]
async fn another_currency_counts_at_its_equivalent_and_none_without_a_rate() {
    let a = add("cu", "cud", "USD", 100_000).await;
    let k = add("ck", "cud", "KWD", 100_000).await;
    books().rates.insert("USD".into(), 900);
    let withdraw = async |wallet: &str, currency: &str, amount: &str, key: &str| {
        let body = json!({"amount": amount, "currency": currency});
        post(
            &user("cud"),
            &format!("/v1/wallets/{wallet}/withdrawals"),
            key,
            body,
        )
        .await
    };
    assert_eq!(withdraw(&a, "USD", "100.00", "k1").await.status, 201);
    assert_eq!(used(&a).await, "90.00");
    let over = withdraw(&a, "USD", "277.79", "k2").await;
    assert_eq!(
        (over.status, over.code()),
        (422, "limit_exceeded"),
        "250.02 EUR"
    );
    let none = withdraw(&k, "KWD", "1.000", "k3").await;
    assert_eq!(
        (none.status, none.code()),
        (422, "no_rate"),
        "{}",
        none.body
    );
    assert_eq!(books().accounts["acc_ck"].posted, 100_000);
    // It was no decision: with a rate the same key goes through.
    books().rates.insert("KWD".into(), 300);
    assert_eq!(withdraw(&k, "KWD", "1.000", "k3").await.status, 201);
}
