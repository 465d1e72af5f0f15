//! Holds are captured, released or expire: one of them, once.

use innover_kit::contract::Identity;
use serde_json::{Value, json};

use crate::{
    books::{Fault, books},
    support::{
        add, alone, balance, deliver, finance, get, hold, one, ops, post, run, tamper, told, used,
        user,
    },
};

async fn capture(
    who: &Identity,
    hold: &str,
    key: &str,
    body: Value,
) -> innover_kit::testing::Reply {
    post(who, &format!("/v1/holds/{hold}/capture"), key, body).await
}

async fn release(who: &Identity, hold: &str, key: &str) -> innover_kit::testing::Reply {
    post(who, &format!("/v1/holds/{hold}/release"), key, json!({})).await
}

#[tokio::test]
async fn a_part_is_captured_and_the_rest_is_free_again() {
    let a = add("ha", "hda", "EUR", 10_000).await;
    let b = add("hb", "hdb", "EUR", 0).await;
    let id = hold(&user("hda"), &a, Some(&b), "60.00").await;
    assert!(id.starts_with("hol_"));
    assert_eq!(balance(&a).await, ("100.00".into(), "60.00".into()));
    assert_eq!(used(&a).await, "60.00");
    // Not the payer's to settle.
    let own = capture(&user("hda"), &id, "k0", json!({})).await;
    assert_eq!((own.status, own.code()), (403, "not_owner"));
    let done = capture(&user("hdb"), &id, "k1", json!({"amount": "25.00"})).await;
    assert_eq!(done.status, 200, "{}", done.body);
    assert_eq!(
        (
            &done.body["state"],
            &done.body["captured"],
            &done.body["entry_id"]
        ),
        (
            &json!("captured"),
            &json!("25.00"),
            &json!(format!("ent_{id}"))
        )
    );
    assert_eq!(balance(&a).await, ("75.00".into(), "0.00".into()));
    assert_eq!(balance(&b).await.0, "25.00");
    assert_eq!(used(&a).await, "25.00", "the rest of the allowance is back");
    let again = capture(&user("hdb"), &id, "k1", json!({"amount": "25.00"})).await;
    assert_eq!((again.body, again.replayed), (done.body, true));
    for (key, body) in [("k2", json!({})), ("k3", json!({"amount": "25.00"}))] {
        let late = capture(&user("hdb"), &id, key, body).await;
        assert_eq!(
            (late.status, late.code()),
            (409, "invalid_state"),
            "{}",
            late.body
        );
    }
    let late = release(&user("hdb"), &id, "k4").await;
    assert_eq!((late.status, late.code()), (409, "invalid_state"));
    let states: Vec<Value> = told("wallet.hold_changed", &id)
        .into_iter()
        .map(|data| data["state"].clone())
        .collect();
    assert_eq!(states, [json!("held"), json!("captured")]);
}

#[tokio::test]
async fn a_release_gives_everything_back() {
    let a = add("la", "lda", "EUR", 10_000).await;
    let id = hold(&user("lda"), &a, None, "60.00").await;
    // For the house, so it is the house's to settle.
    assert_eq!(release(&user("lda"), &id, "k0").await.status, 403);
    let done = release(&finance(), &id, "k1").await;
    assert_eq!(
        (done.status, &done.body["state"]),
        (200, &json!("released")),
        "{}",
        done.body
    );
    assert_eq!(balance(&a).await, ("100.00".into(), "0.00".into()));
    assert_eq!(used(&a).await, "0.00");
    let late = capture(&finance(), &id, "k2", json!({})).await;
    assert_eq!((late.status, late.code()), (409, "invalid_state"));
}

#[tokio::test]
async fn more_than_is_held_is_not_captured() {
    let a = add("ma", "mda", "EUR", 10_000).await;
    let id = hold(&user("mda"), &a, None, "60.00").await;
    for amount in [json!("60.01"), json!("0.00"), json!("1.001"), json!(1.5)] {
        let refused = capture(&finance(), &id, "k1", json!({ "amount": amount })).await;
        assert_eq!((refused.status, refused.code()), (400, "invalid_amount"));
    }
    let all = capture(&finance(), &id, "k1", json!({})).await;
    assert_eq!((all.status, &all.body["captured"]), (200, &json!("60.00")));
    assert_eq!(books().accounts["acc_ma"].posted, 4_000);
}

#[tokio::test]
async fn an_expired_hold_is_told_by_the_ledger_and_cannot_be_captured() {
    let a = add("xa", "xda", "EUR", 10_000).await;
    let id = hold(&user("xda"), &a, None, "60.00").await;
    books().expire(&id);
    // The event is on its way; the ledger says no before it is here.
    let late = capture(&finance(), &id, "k1", json!({})).await;
    assert_eq!(
        (late.status, late.code()),
        (409, "invalid_state"),
        "{}",
        late.body
    );
    let account = json!({"account_id": "acc_xa", "currency": "EUR", "posted_minor": 10000, "held_minor": 0, "version": 3});
    let data = json!({"transfer_id": id, "reason": "expired", "accounts": [account]});
    deliver("ledger.released", &id, data).await;
    let read = get(&user("xda"), &format!("/v1/holds/{id}")).await;
    assert_eq!(read.body["state"], "expired");
    assert_eq!(balance(&a).await, ("100.00".into(), "0.00".into()));
    assert_eq!(used(&a).await, "0.00", "given back once");
    assert_eq!(told("wallet.hold_changed", &id).len(), 2);
}

#[tokio::test]
async fn a_hold_whose_time_is_over_expires_when_it_is_captured() {
    let a = add("xo", "xdo", "EUR", 10_000).await;
    let id = hold(&user("xdo"), &a, None, "60.00").await;
    books().overdue.insert(id.clone());
    for _ in 0..2 {
        let late = capture(&finance(), &id, "k1", json!({})).await;
        assert_eq!((late.status, late.code()), (409, "invalid_state"));
        let detail = late.body["detail"].as_str().unwrap();
        assert!(detail.contains("expired"), "{detail}");
    }
    assert_eq!(used(&a).await, "0.00");
}

#[tokio::test]
async fn a_hold_that_was_captured_in_the_ledger_itself_is_asked_for() {
    let _alone = alone().await;
    let a = add("xi", "xdi", "EUR", 10_000).await;
    let id = hold(&user("xdi"), &a, None, "60.00").await;
    books().capture(&id, "12.00");
    let account = json!({"account_id": "acc_xi", "currency": "EUR", "posted_minor": 8800, "held_minor": 0, "version": 4});
    let data =
        json!({"entry_id": "ent_x", "transfer_id": id, "payment_id": null, "accounts": [account]});
    deliver("ledger.posted", &id, data).await;
    let expires = one(&format!(
        "SELECT expires_at FROM movements WHERE id = '{id}'"
    ));
    assert!(expires.parse::<i64>().unwrap() <= innover_kit::ids::now_us());
    tamper(&format!(
        "UPDATE movements SET expires_at = 1 WHERE id = '{id}'"
    ));
    run("wallet.sweep", vec![]).await;
    let read = get(&finance(), &format!("/v1/holds/{id}")).await.body;
    assert_eq!(
        (&read["state"], &read["captured"]),
        (&json!("captured"), &json!("12.00"))
    );
    assert_eq!(used(&a).await, "12.00");
}

#[tokio::test]
async fn expiry_by_event_alone_gives_the_allowance_back() {
    let a = add("xe", "xde", "EUR", 10_000).await;
    let id = hold(&user("xde"), &a, None, "60.00").await;
    books().expire(&id);
    let account = json!({"account_id": "acc_xe", "currency": "EUR", "posted_minor": 10000, "held_minor": 0, "version": 3});
    let data = json!({"transfer_id": id, "reason": "expired", "accounts": [account]});
    deliver("ledger.released", &id, data.clone()).await;
    deliver("ledger.released", &id, data).await;
    assert_eq!(
        one(&format!("SELECT state FROM movements WHERE id = '{id}'")),
        "expired"
    );
    assert_eq!(used(&a).await, "0.00");
    assert_eq!(balance(&a).await, ("100.00".into(), "0.00".into()));
}

#[tokio::test]
async fn a_capture_whose_answer_was_lost_is_found_by_its_retry_and_by_nobody_else() {
    let a = add("ca", "cda", "EUR", 10_000).await;
    let id = hold(&user("cda"), &a, None, "60.00").await;
    books().fault("acc_ca", Fault::AnswerLost);
    let lost = capture(&finance(), &id, "k1", json!({"amount": "10.00"})).await;
    assert_eq!((lost.status, lost.code()), (409, "conflict"));
    let other = capture(&finance(), &id, "k2", json!({})).await;
    assert_eq!(
        (other.status, other.code()),
        (409, "conflict"),
        "the first is still at it"
    );
    let reused = capture(&finance(), &id, "k1", json!({"amount": "11.00"})).await;
    assert_eq!(
        (reused.status, reused.code()),
        (422, "idempotency_key_reused")
    );
    let done = capture(&finance(), &id, "k1", json!({"amount": "10.00"})).await;
    assert_eq!(
        (done.status, &done.body["captured"]),
        (200, &json!("10.00")),
        "{}",
        done.body
    );
    assert_eq!(books().accounts["acc_ca"].posted, 9_000, "once");
    let other = capture(&finance(), &id, "k2", json!({})).await;
    assert_eq!((other.status, other.code()), (409, "invalid_state"));
}

#[tokio::test]
async fn an_event_that_comes_before_the_retry_has_captured_the_hold_for_that_request() {
    let a = add("va", "vda", "EUR", 10_000).await;
    let id = hold(&user("vda"), &a, None, "60.00").await;
    books().fault("acc_va", Fault::AnswerLost);
    capture(&finance(), &id, "k1", json!({"amount": "10.00"})).await;
    let account = json!({"account_id": "acc_va", "currency": "EUR", "posted_minor": 9000, "held_minor": 0, "version": 4});
    let data = json!({"entry_id": format!("ent_{id}"), "kind": "hold", "transfer_id": id, "transfer_minor": 1000, "payment_id": null, "accounts": [account]});
    deliver("ledger.posted", &id, data).await;
    let read = get(&finance(), &format!("/v1/holds/{id}")).await;
    assert_eq!(
        (&read.body["state"], &read.body["captured"]),
        (&json!("captured"), &json!("10.00"))
    );
    let done = capture(&finance(), &id, "k1", json!({"amount": "10.00"})).await;
    assert_eq!((done.status, done.replayed), (200, false), "{}", done.body);
    let other = capture(&finance(), &id, "k2", json!({"amount": "10.00"})).await;
    assert_eq!((other.status, other.code()), (409, "invalid_state"));
}

/// Whoever may post in the ledger may be quicker than a capture here, with another amount.
#[tokio::test]
async fn a_capture_is_not_done_when_another_amount_was_booked() {
    let a = add("wa2", "wda2", "EUR", 10_000).await;
    let id = hold(&user("wda2"), &a, None, "60.00").await;
    books().fault("acc_wa2", Fault::CallLost);
    let lost = capture(&finance(), &id, "k1", json!({"amount": "10.00"})).await;
    assert_eq!((lost.status, lost.code()), (409, "conflict"));
    books().capture(&id, "12.00");
    let account = json!({"account_id": "acc_wa2", "currency": "EUR", "posted_minor": 8800, "held_minor": 0, "version": 4});
    let data = json!({"entry_id": format!("ent_{id}"), "kind": "hold", "transfer_id": id, "transfer_minor": 1200, "payment_id": null, "accounts": [account]});
    deliver("ledger.posted", &id, data).await;
    let read = get(&finance(), &format!("/v1/holds/{id}")).await;
    assert_eq!(
        (&read.body["state"], &read.body["captured"]),
        (&json!("captured"), &json!("12.00"))
    );
    let late = capture(&finance(), &id, "k1", json!({"amount": "10.00"})).await;
    assert_eq!((late.status, late.code()), (409, "invalid_state"));
    assert_eq!(used(&a).await, "12.00");
}

#[tokio::test]
async fn captures_and_releases_at_the_same_moment_are_one() {
    let a = add("za", "zda", "EUR", 10_000).await;
    let id = hold(&user("zda"), &a, None, "60.00").await;
    let replies: Vec<(bool, u16, String)> = std::thread::scope(|scope| {
        let one = |n: usize| {
            let id = id.clone();
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .build()
                    .unwrap();
                let key = format!("k{n}");
                let captures = n.is_multiple_of(2);
                let reply = runtime.block_on(async {
                    match captures {
                        true => capture(&finance(), &id, &key, json!({})).await,
                        false => release(&finance(), &id, &key).await,
                    }
                });
                (captures, reply.status, reply.code().to_owned())
            })
        };
        let all: Vec<_> = (0..20).map(one).collect();
        all.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let done: Vec<_> = replies.iter().filter(|r| r.1 == 200).collect();
    assert_eq!(done.len(), 1, "{replies:?}");
    for (_, status, code) in replies.iter().filter(|r| r.1 != 200) {
        assert_eq!(*status, 409);
        assert!(
            ["conflict", "invalid_state"].contains(&code.as_str()),
            "{code}"
        );
    }
    let captured = done[0].0;
    assert_eq!(
        books().accounts["acc_za"].posted,
        if captured { 4_000 } else { 10_000 }
    );
    assert_eq!(used(&a).await, if captured { "60.00" } else { "0.00" });
}

#[tokio::test]
async fn holds_are_listed_for_the_owner_and_read_by_both_sides() {
    let a = add("sa", "sda", "EUR", 10_000).await;
    let b = add("sb", "sdb", "EUR", 0).await;
    let mut placed = Vec::new();
    for _ in 0..3 {
        placed.push(hold(&user("sda"), &a, Some(&b), "1.00").await);
    }
    let path = format!("/v1/wallets/{a}/holds");
    let first = get(&user("sda"), &format!("{path}?limit=2")).await.body;
    let cursor = first["next_cursor"].as_str().unwrap().to_owned();
    let second = get(&user("sda"), &format!("{path}?limit=2&cursor={cursor}"))
        .await
        .body;
    let ids: Vec<&str> = [&first, &second]
        .iter()
        .flat_map(|page| page["data"].as_array().unwrap())
        .map(|h| h["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, placed, "in the order they were placed");
    assert_eq!(get(&user("sdb"), &path).await.status, 403);
    let one = format!("/v1/holds/{}", placed[0]);
    assert_eq!(get(&user("sdb"), &one).await.status, 200, "the payee's");
    assert_eq!(get(&user("otto"), &one).await.status, 403);
    let none = get(&user("sda"), "/v1/holds/hol_none").await;
    assert_eq!((none.status, none.code()), (404, "hold_not_found"));
    for seconds in [0, -1, 90 * 86_400 + 1] {
        let body = json!({"amount": "1.00", "currency": "EUR", "expires_in_s": seconds});
        let refused = post(&user("sda"), &path, "kx", body).await;
        assert_eq!((refused.status, refused.code()), (400, "invalid_request"));
    }
}

#[tokio::test]
async fn a_frozen_wallets_hold_is_released_and_expires_but_is_not_captured() {
    let a = add("ia", "ida", "EUR", 10_000).await;
    let b = add("ib", "idb", "EUR", 0).await;
    let first = hold(&user("ida"), &a, Some(&b), "10.00").await;
    let second = hold(&user("ida"), &a, Some(&b), "20.00").await;
    for wallet in [&a, &b] {
        let path = format!("/v1/wallets/{wallet}/freeze");
        assert_eq!(
            post(&ops(), &path, "k", json!({"reason": "test"}))
                .await
                .status,
            200
        );
        let refused = capture(&user("idb"), &first, &format!("c{wallet}"), json!({})).await;
        assert_eq!(
            (refused.status, refused.code()),
            (422, "wallet_not_active"),
            "{}",
            refused.body
        );
        // Payer frozen, then both; then only the payee.
        if wallet == &b {
            let path = format!("/v1/wallets/{a}/unfreeze");
            assert_eq!(
                post(&ops(), &path, "k", json!({"reason": "test"}))
                    .await
                    .status,
                200
            );
            let refused = capture(&user("idb"), &first, "c3", json!({})).await;
            assert_eq!((refused.status, refused.code()), (422, "wallet_not_active"));
        }
    }
    assert_eq!(release(&user("idb"), &second, "r").await.status, 200);
    let path = format!("/v1/wallets/{b}/unfreeze");
    assert_eq!(
        post(&ops(), &path, "k", json!({"reason": "test"}))
            .await
            .status,
        200
    );
    // No decision was kept: it was refused for the wallet's state, which has passed.
    assert_eq!(
        capture(&user("idb"), &first, "c3", json!({})).await.status,
        200
    );
    assert_eq!(balance(&b).await.0, "10.00");
}

#[tokio::test]
async fn a_capture_the_ledger_refuses_leaves_the_hold_to_be_released() {
    let a = add("ga", "gda", "EUR", 10_000).await;
    let b = add("gb", "gdb", "EUR", 0).await;
    let id = hold(&user("gda"), &a, Some(&b), "10.00").await;
    books().accounts.get_mut("acc_gb").unwrap().closed = true;
    let refused = capture(&user("gdb"), &id, "k1", json!({})).await;
    assert_eq!((refused.status, refused.code()), (422, "account_closed"));
    let again = capture(&user("gdb"), &id, "k1", json!({})).await;
    assert_eq!((again.status, again.replayed), (422, true));
    assert_eq!(release(&user("gdb"), &id, "k2").await.status, 200);
    assert_eq!(balance(&a).await, ("100.00".into(), "0.00".into()));
}
