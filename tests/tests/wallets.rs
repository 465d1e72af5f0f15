//! Wallets: transfers, holds, states, limits and the rebuild on the running platform, and their races.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use innover_tests::{Answer, PATIENCE, Platform, unique};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

const WALLETS: &str = "/api/wallet/v1/wallets";
const HOLDS: &str = "/api/wallet/v1/holds";

/// All tests on one runtime: the platform's client keeps its connections there.
fn run<F: Future>(test: F) -> F::Output {
    static RUNTIME: std::sync::OnceLock<tokio::runtime::Runtime> = std::sync::OnceLock::new();
    RUNTIME
        .get_or_init(|| tokio::runtime::Runtime::new().unwrap())
        .block_on(test)
}

/// Waits until `look` finds what it looks for.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match look().await {
            Ok(found) => return found,
            Err(seen) => assert!(Instant::now() < deadline, "{what}: {seen}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until a wallet shows these amounts: it follows the ledger.
async fn shows(p: &Platform, wallet: &str, posted: &str, held: &str) {
    until("the balance", async || {
        let balance =
            p.get("finance", &format!("{WALLETS}/{wallet}")).await.json["balance"].clone();
        match (balance["posted"] == posted, balance["held"] == held) {
            (true, true) => Ok(()),
            _ => Err(balance.to_string()),
        }
    })
    .await;
}

fn money(amount: &str) -> Value {
    json!({"amount": amount, "currency": "EUR"})
}

async fn transfer(
    p: &Platform,
    user: &str,
    from: &str,
    to: &str,
    amount: &str,
    key: &str,
) -> Answer {
    let body = json!({"to_wallet": to, "amount": amount, "currency": "EUR"});
    p.request(user, Method::POST, &format!("{WALLETS}/{from}/transfers"))
        .await
        .key(key)
        .json(&body)
        .send()
        .await
}

async fn hold(
    p: &Platform,
    user: &str,
    wallet: &str,
    payee: Option<&str>,
    amount: &str,
    seconds: i64,
) -> String {
    let body = json!({"amount": amount, "currency": "EUR", "payee_wallet": payee, "expires_in_s": seconds});
    let placed = p
        .post(user, &format!("{WALLETS}/{wallet}/holds"), body)
        .await;
    assert_eq!(
        (placed.status, placed.json["state"].as_str()),
        (201, Some("held")),
        "{}",
        placed.text
    );
    placed.id()
}

/// What is used of an owner's day, in euro cents.
async fn used(p: &Platform, wallet: &str) -> i64 {
    let limits = p
        .get("finance", &format!("{WALLETS}/{wallet}/limits"))
        .await;
    assert_eq!(limits.status, 200, "{}", limits.text);
    cents(limits.json["per_day"]["used"].as_str().unwrap())
}

fn cents(amount: &str) -> i64 {
    amount.replace('.', "").parse().unwrap()
}

#[test]
fn money_moves_between_wallets_and_out_and_the_books_balance() {
    run(async {
        let p = Platform::shared().await;
        let a = p.funded("user", "100.00", "EUR").await;
        let b = p.wallet("finance", "EUR").await;
        let dollars = p.wallet("finance", "USD").await;
        let key = unique();
        let done = transfer(&p, "user", &a, &b, "33.33", &key).await;
        assert_eq!(
            (done.status, &done.json["balance"]["available"]),
            (201, &json!("66.67")),
            "{}",
            done.text
        );
        let again = transfer(&p, "user", &a, &b, "33.33", &key).await;
        assert_eq!(again.text, done.text);
        assert!(again.headers.contains_key("idempotency-replayed"));
        let entry = done.json["entry_id"].as_str().unwrap();
        let entry = p
            .get("auditor", &format!("/api/ledger/v1/entries/{entry}"))
            .await;
        assert_eq!(
            (entry.status, &entry.json["kind"]),
            (200, &json!("transfer")),
            "{}",
            entry.text
        );
        let out = p
            .post("user", &format!("{WALLETS}/{a}/withdrawals"), money("6.67"))
            .await;
        assert_eq!(
            (out.status, &out.json["balance"]["posted"]),
            (201, &json!("60.00")),
            "{}",
            out.text
        );
        shows(&p, &a, "60.00", "0.00").await;
        shows(&p, &b, "33.33", "0.00").await;
        for (user, to, amount, status, code) in [
            ("user", &b, "60.01", 422, "insufficient_funds"),
            ("user", &dollars, "1.00", 422, "currency_mismatch"),
            ("user", &a, "1.00", 400, "invalid_request"),
            ("viewer", &b, "1.00", 403, "insufficient_scope"),
        ] {
            let refused = transfer(&p, user, &a, to, amount, &unique()).await;
            assert_eq!(
                (refused.status, refused.code()),
                (status, code),
                "{}",
                refused.text
            );
        }
        let theirs = transfer(&p, "user", &b, &a, "1.00", &unique()).await;
        assert_eq!((theirs.status, theirs.code()), (403, "not_owner"));
        p.assert_balanced().await;
    });
}

#[test]
fn a_hold_is_captured_in_part_or_released_or_expires() {
    run(async {
        // A platform of its own, where nobody else spends of the owner's day.
        let p = Platform::start().await;
        let a = p.funded("user", "100.00", "EUR").await;
        let b = p.wallet("finance", "EUR").await;
        let before = used(&p, &a).await;
        let captured = hold(&p, "user", &a, Some(&b), "60.00", 600).await;
        shows(&p, &a, "100.00", "60.00").await;
        let over = p
            .post(
                "user",
                &format!("{WALLETS}/{a}/withdrawals"),
                money("40.01"),
            )
            .await;
        assert_eq!(
            (over.status, over.code()),
            (422, "insufficient_funds"),
            "{}",
            over.text
        );
        let done = p
            .post(
                "finance",
                &format!("{HOLDS}/{captured}/capture"),
                json!({"amount": "25.00"}),
            )
            .await;
        assert_eq!(
            (done.status, &done.json["captured"]),
            (200, &json!("25.00")),
            "{}",
            done.text
        );
        shows(&p, &a, "75.00", "0.00").await;
        shows(&p, &b, "25.00", "0.00").await;

        let released = hold(&p, "user", &a, None, "50.00", 600).await;
        let done = p
            .post("finance", &format!("{HOLDS}/{released}/release"), json!({}))
            .await;
        assert_eq!(
            (done.status, &done.json["state"]),
            (200, &json!("released")),
            "{}",
            done.text
        );
        shows(&p, &a, "75.00", "0.00").await;

        let expired = hold(&p, "user", &a, Some(&b), "70.00", 1).await;
        until("the expiry", async || {
            let read = p.get("user", &format!("{HOLDS}/{expired}")).await;
            match read.json["state"] == "expired" {
                true => Ok(()),
                false => Err(read.text),
            }
        })
        .await;
        shows(&p, &a, "75.00", "0.00").await;
        let late = p
            .post("finance", &format!("{HOLDS}/{expired}/capture"), json!({}))
            .await;
        assert_eq!(
            (late.status, late.code()),
            (409, "invalid_state"),
            "{}",
            late.text
        );
        assert_eq!(
            used(&p, &a).await - before,
            2_500,
            "only what was captured counts"
        );
        let list = p.get("user", &format!("{WALLETS}/{a}/holds")).await;
        let states: Vec<&Value> = list.json["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|h| &h["state"])
            .collect();
        assert_eq!(states, ["captured", "released", "expired"]);
        p.assert_balanced().await;
    });
}

/// Posts to all of these at the same moment; returns the answers. Like a client it asks again with the
/// same key where the outcome is unknown, the host had no room or another was in the way.
async fn at_once(
    p: &Arc<Platform>,
    user: &'static str,
    paths: Vec<(String, Value)>,
) -> Vec<(String, Answer)> {
    p.token(user).await;
    let mut all = JoinSet::new();
    for (path, body) in paths {
        let p = p.clone();
        all.spawn(async move {
            let (key, until) = (unique(), Instant::now() + PATIENCE);
            loop {
                let request = p.request(user, Method::POST, &path).await;
                let answer = request.key(&key).json(&body).send().await;
                let open = matches!(answer.status, 502..=504) || answer.code() == "conflict";
                if !open || Instant::now() > until {
                    return (path, answer);
                }
            }
        });
    }
    all.join_all().await
}

#[test]
fn a_hundred_captures_of_one_hold_at_the_same_moment_are_one() {
    run(async {
        let p = Platform::shared().await;
        let a = p.funded("user", "100.00", "EUR").await;
        let b = p.wallet("finance", "EUR").await;
        let id = hold(&p, "user", &a, Some(&b), "10.00", 600).await;
        let capture = (format!("{HOLDS}/{id}/capture"), json!({}));
        let answers = at_once(&p, "finance", vec![capture; 100]).await;
        let done = answers.iter().filter(|(_, a)| a.status == 200).count();
        assert_eq!(
            done,
            1,
            "{:?}",
            answers.iter().map(|(_, a)| &a.text).collect::<Vec<_>>()
        );
        for (_, refused) in answers.iter().filter(|(_, a)| a.status != 200) {
            assert_eq!(
                (refused.status, refused.code()),
                (409, "invalid_state"),
                "{}",
                refused.text
            );
        }
        shows(&p, &a, "90.00", "0.00").await;
        shows(&p, &b, "10.00", "0.00").await;
        p.assert_balanced().await;
    });
}

#[test]
fn captures_against_releases_end_every_hold_once() {
    run(async {
        let p = Platform::shared().await;
        let a = p.funded("user", "100.00", "EUR").await;
        let b = p.wallet("finance", "EUR").await;
        let mut captured = 0;
        for _ in 0..5 {
            let id = hold(&p, "user", &a, Some(&b), "1.00", 600).await;
            let both =
                ["capture", "release"].map(|verb| (format!("{HOLDS}/{id}/{verb}"), json!({})));
            let answers = at_once(
                &p,
                "finance",
                both.iter().cycle().take(8).cloned().collect(),
            )
            .await;
            let done: Vec<&(String, Answer)> =
                answers.iter().filter(|(_, a)| a.status == 200).collect();
            assert_eq!(done.len(), 1, "{answers:?}");
            captured += i64::from(done[0].0.ends_with("capture"));
        }
        shows(&p, &a, &format!("{}.00", 100 - captured), "0.00").await;
        shows(&p, &b, &format!("{captured}.00"), "0.00").await;
        p.assert_balanced().await;
    });
}

#[test]
fn fifty_transfers_at_once_take_exactly_what_the_day_allows() {
    run(async {
        // A platform of its own, where the owner has spent nothing yet.
        let p = Arc::new(Platform::start().await);
        let a = p.funded("user", "10000.00", "EUR").await;
        let b = p.wallet("finance", "EUR").await;
        let one = (
            format!("{WALLETS}/{a}/transfers"),
            json!({"to_wallet": b, "amount": "40.00", "currency": "EUR"}),
        );
        // Of 500.00 a day: twelve, and 20.00 are left.
        let answers = at_once(&p, "user", vec![one; 50]).await;
        let count = |status, code: &str| {
            answers
                .iter()
                .filter(|(_, a)| (a.status, a.code()) == (status, code))
                .count()
        };
        let texts = || {
            answers
                .iter()
                .map(|(_, a)| a.text.as_str())
                .collect::<Vec<_>>()
                .join("\n")
        };
        assert_eq!(
            (count(201, ""), count(422, "limit_exceeded")),
            (12, 38),
            "{}",
            texts()
        );
        shows(&p, &b, "480.00", "0.00").await;
        assert_eq!(used(&p, &a).await, 48_000);
        let rest = transfer(&p, "user", &a, &b, "20.00", &unique()).await;
        assert_eq!(rest.status, 201, "{}", rest.text);
        let cent = transfer(&p, "user", &a, &b, "0.01", &unique()).await;
        assert_eq!((cent.status, cent.code()), (422, "limit_exceeded"));
        // Another currency counts at its equivalent.
        let dollars = p.funded("user", "10.00", "USD").await;
        let refused = p
            .post(
                "user",
                &format!("{WALLETS}/{dollars}/withdrawals"),
                json!({"amount": "1.00", "currency": "USD"}),
            )
            .await;
        assert_eq!(
            (refused.status, refused.code()),
            (422, "limit_exceeded"),
            "{}",
            refused.text
        );
        p.assert_balanced().await;
    });
}

#[test]
fn opposite_transfers_at_full_speed_lose_nothing_and_do_not_block() {
    const FOR: Duration = Duration::from_secs(5);
    run(async {
        let p = Platform::shared().await;
        // The house moves it, so no limit ends the test early.
        let a = p.funded("user", "50.00", "EUR").await;
        let b = p.funded("user", "50.00", "EUR").await;
        p.token("finance").await;
        let until = Instant::now() + FOR;
        let mut all = JoinSet::new();
        for n in 0..8 {
            let p = p.clone();
            let (from, to) = if n % 2 == 0 {
                (a.clone(), b.clone())
            } else {
                (b.clone(), a.clone())
            };
            all.spawn(async move {
                let (mut booked, mut cents) = (0, 0);
                while Instant::now() < until {
                    let key = unique();
                    // What is not known is asked again with the same key, also after the time.
                    let answer = loop {
                        let answer = transfer(&p, "finance", &from, &to, "0.07", &key).await;
                        if !matches!(answer.status, 409 | 502..=504) {
                            break answer;
                        }
                    };
                    match (answer.status, answer.code()) {
                        (201, _) => {
                            booked += 1;
                            cents += if n % 2 == 0 { 7 } else { -7 };
                        }
                        (422, "insufficient_funds") => {}
                        other => panic!("{other:?} {}", answer.text),
                    }
                }
                (booked, cents)
            });
        }
        let done = all.join_all().await;
        let booked: i64 = done.iter().map(|(n, _)| n).sum();
        let moved: i64 = done.iter().map(|(_, cents)| cents).sum();
        println!("{booked} opposite transfers in {} s", FOR.as_secs());
        assert!(booked > 0);
        let decimal = |cents: i64| format!("{}.{:02}", cents / 100, cents % 100);
        shows(&p, &a, &decimal(5_000 - moved), "0.00").await;
        shows(&p, &b, &decimal(5_000 + moved), "0.00").await;
        p.assert_balanced().await;
    });
}

#[test]
fn a_frozen_wallet_gives_and_takes_nothing_and_an_empty_one_is_closed() {
    run(async {
        let p = Platform::shared().await;
        let a = p.funded("user", "10.00", "EUR").await;
        let b = p.funded("finance", "10.00", "EUR").await;
        let path = |verb: &str| format!("{WALLETS}/{a}/{verb}");
        let reason = json!({"reason": "reported stolen"});
        let own = p.post("user", &path("freeze"), reason.clone()).await;
        assert_eq!((own.status, own.code()), (403, "insufficient_scope"));
        let frozen = p.post("ops_user", &path("freeze"), reason.clone()).await;
        assert_eq!(
            (frozen.status, &frozen.json["state"]),
            (200, &json!("frozen")),
            "{}",
            frozen.text
        );
        for (user, from, to) in [("user", &a, &b), ("finance", &b, &a)] {
            let refused = transfer(&p, user, from, to, "1.00", &unique()).await;
            assert_eq!((refused.status, refused.code()), (422, "wallet_not_active"));
        }
        assert_eq!(
            p.post("ops_user", &path("unfreeze"), reason).await.status,
            200
        );
        let full = p.post("user", &path("close"), json!({})).await;
        assert_eq!(
            (full.status, full.code()),
            (409, "invalid_state"),
            "{}",
            full.text
        );
        let out = p.post("user", &path("withdrawals"), money("10.00")).await;
        assert_eq!(out.status, 201, "{}", out.text);
        let closed = p.post("user", &path("close"), json!({})).await;
        assert_eq!(
            (closed.status, &closed.json["state"]),
            (200, &json!("closed")),
            "{}",
            closed.text
        );
        let account = closed.json["account_id"].as_str().unwrap();
        let account = p
            .get("auditor", &format!("/api/ledger/v1/accounts/{account}"))
            .await;
        assert_eq!(account.json["state"], "closed", "{}", account.text);
        let log = p.get("ops_user", &path("decisions")).await;
        let actions: Vec<&Value> = log.json["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|d| &d["action"])
            .collect();
        assert_eq!(actions, ["freeze", "unfreeze", "close"]);
    });
}

#[test]
fn a_rebuild_finds_what_differs_from_the_ledger_and_repairs_it() {
    run(async {
        let p = Platform::start().await;
        let a = p.funded("user", "10.00", "EUR").await;
        let b = p.funded("user", "20.00", "EUR").await;
        let id = hold(&p, "user", &b, None, "5.00", 600).await;
        shows(&p, &b, "20.00", "5.00").await;
        let posted = format!("UPDATE wallets SET posted = 1 WHERE id = '{a}'");
        let held = format!(
            "UPDATE wallets SET held = 0, account_version = account_version - 1 WHERE id = '{b}'"
        );
        p.change("wallet", &[&posted, &held]);
        let begun = p
            .post("ops_user", "/api/wallet/v1/rebuilds", json!({}))
            .await;
        assert_eq!(begun.status, 202, "{}", begun.text);
        let path = format!("/api/wallet/v1/rebuilds/{}", begun.id());
        let done = until("the rebuild", async || {
            let read = p.get("ops_user", &path).await;
            match read.json["state"] == "done" {
                true => Ok(read.json),
                false => Err(read.text),
            }
        })
        .await;
        assert_eq!(
            (&done["differing"], &done["repaired"]),
            (&json!(2), &json!(2)),
            "{done}"
        );
        let found = p.get("auditor", &format!("{path}/differences")).await;
        let mut kinds: Vec<&str> = found.json["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|d| d["kind"].as_str().unwrap())
            .collect();
        kinds.sort_unstable();
        assert_eq!(kinds, ["amounts", "lagging"]);
        shows(&p, &a, "10.00", "0.00").await;
        shows(&p, &b, "20.00", "5.00").await;
        assert_eq!(
            p.post("finance", &format!("{HOLDS}/{id}/release"), json!({}))
                .await
                .status,
            200
        );
        let denied = p.post("user", "/api/wallet/v1/rebuilds", json!({})).await;
        assert_eq!((denied.status, denied.code()), (403, "insufficient_scope"));
    });
}

#[test]
fn a_kill_between_ledger_and_wallet_leaves_one_transfer_and_its_retry_finds_it() {
    run(async {
        let mut p = Platform::start().await;
        let a = p.funded("user", "100.00", "EUR").await;
        let b = p.wallet("finance", "EUR").await;
        p.token("user").await;
        let mut keys = Vec::new();
        for round in 0..5u64 {
            let key = unique();
            let body = json!({"to_wallet": b, "amount": "1.00", "currency": "EUR"});
            let request = p
                .request("user", Method::POST, &format!("{WALLETS}/{a}/transfers"))
                .await
                .key(&key)
                .json(&body);
            // At another point of the way each time.
            let sent = tokio::spawn(request.try_send());
            tokio::time::sleep(Duration::from_millis(1 + 2 * round)).await;
            p.kill();
            sent.await.unwrap();
            p.run();
            keys.push(key);
        }
        for key in &keys {
            let done = until("the retry", async || {
                let answer = transfer(&p, "user", &a, &b, "1.00", key).await;
                match answer.status {
                    201 => Ok(answer),
                    _ => Err(answer.text),
                }
            })
            .await;
            let again = transfer(&p, "user", &a, &b, "1.00", key).await;
            assert_eq!(again.text, done.text);
        }
        shows(&p, &a, "95.00", "0.00").await;
        shows(&p, &b, "5.00", "0.00").await;
        assert_eq!(used(&p, &a).await, 500);
        p.assert_balanced().await;
    });
}
