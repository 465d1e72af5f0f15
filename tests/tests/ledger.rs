//! The journal from outside: signed, exported, verified with the public key alone.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{
    collections::BTreeMap,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use innover_tests::{Platform, innover, unique};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// What `innover ledger …` printed, and whether it ended well.
fn ledger(p: &Platform, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(innover())
        .arg("ledger")
        .args(arguments)
        .env("INNOVER_URL", &p.url)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_is_verified_with_the_public_key_and_a_changed_byte_is_named() {
    let p = Platform::start().await;
    let payer = p.funded("user", "100.00", "EUR").await;
    let payee = p.wallet("finance", "USD").await;
    for _ in 0..5 {
        let payment = p.pay("user", &payer, &payee, "7.77", "EUR").await;
        assert_eq!(p.settled(&payment.id()).await["state"], "completed");
    }
    let folder = tempfile::tempdir().unwrap();
    let (export, key) = (folder.path().join("j.jsonl"), folder.path().join("key.jwk"));
    let (ok, made) = ledger(&p, &["checkpoint"]);
    assert!(ok, "{made}");
    let (ok, jwk) = ledger(&p, &["key"]);
    assert!(ok && !jwk.contains("\"d\""), "{jwk}");
    std::fs::write(&key, jwk).unwrap();
    let (ok, said) = ledger(&p, &["export", path(&export)]);
    assert!(ok, "{said}");
    let verify = || ledger(&p, &["verify", path(&export), "--key", path(&key)]);
    let (ok, said) = verify();
    // A top-up and five payments.
    assert!(ok && said.starts_with("good: 6 entries"), "{said}");

    let good = std::fs::read_to_string(&export).unwrap();
    let line = good
        .lines()
        .position(|l| l.contains("\"debit\",\"amount\""))
        .unwrap()
        + 1;
    let bad = good.replacen("\"debit\",\"amount\"", "\"credit\",\"amount\"", 1);
    std::fs::write(&export, bad).unwrap();
    let (ok, said) = verify();
    assert!(!ok && said.contains(&format!("line {line}:")), "{said}");
    std::fs::write(&export, &good[..good.len() / 2]).unwrap();
    assert!(!verify().0);

    // Who may not read the ledger gets no journal.
    let (ok, said) = ledger(&p, &["export", path(&export), "--user", "user"]);
    assert!(!ok && said.contains("insufficient_scope"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn finance_reverses_an_entry_once() {
    let p = Platform::start().await;
    let wallet = p.funded("user", "10.00", "EUR").await;
    let sql = format!("SELECT account_id FROM wallets WHERE id = '{wallet}'");
    let account = p.text("wallet", &sql);
    let entry = json!({"postings": [
        {"account": "acc_house_cash_EUR", "direction": "debit", "amount": "5.00", "currency": "EUR"},
        {"account": account, "direction": "credit", "amount": "5.00", "currency": "EUR"},
    ]});
    let posted = p.post("finance", "/api/ledger/v1/entries", entry).await;
    assert_eq!(posted.status, 201, "{}", posted.text);
    let reverse = format!("/api/ledger/v1/entries/{}/reverse", posted.id());
    let back = p
        .post("finance", &reverse, json!({"reference": "wrong wallet"}))
        .await;
    assert_eq!(
        (back.status, &back.json["reverses"]),
        (201, &posted.json["id"]),
        "{}",
        back.text
    );
    let again = p.post("finance", &reverse, json!({})).await;
    assert_eq!((again.status, again.code()), (409, "already_exists"));
    let refused = p.request("auditor", Method::POST, &reverse).await;
    let refused = refused.key("k").json(&json!({})).send().await;
    assert_eq!(refused.status, 403, "{}", refused.text);
    p.assert_balanced().await;
}

const LEDGER: &str = "/api/ledger/v1";

/// Accounts of their own for a test, each with so much in it.
async fn accounts(p: &Platform, count: usize, amount: &str) -> Vec<String> {
    let mut ids = Vec::new();
    for _ in 0..count {
        let id = format!("acc_{}", unique());
        let opening = json!({"id": id, "code": "test", "currency": "EUR", "normal_side": "credit", "floor": "0.00"});
        let opened = p
            .post("finance", &format!("{LEDGER}/accounts"), opening)
            .await;
        assert_eq!(opened.status, 201, "{}", opened.text);
        let funded = transfer("acc_house_cash_EUR", &id, amount);
        let funded = p
            .post("finance", &format!("{LEDGER}/transfers"), funded)
            .await;
        assert_eq!(funded.status, 201, "{}", funded.text);
        ids.push(id);
    }
    ids
}

fn transfer(from: &str, to: &str, amount: &str) -> Value {
    json!({"id": unique(), "debit_account": from, "credit_account": to, "amount": amount, "currency": "EUR"})
}

async fn posted(p: &Platform, account: &str) -> String {
    let shown = p
        .get("finance", &format!("{LEDGER}/accounts/{account}"))
        .await;
    shown.json["balance"]["posted"].as_str().unwrap().to_owned()
}

/// Batches are decided on what the one before is about to commit, so one that fails takes those after
/// it back to the start: the chains of all accounts must be whole, and the balances the sum of what
/// was answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_of_one_moment_follow_each_other_whatever_becomes_of_one() {
    const BATCHES: usize = 16;
    const EACH: usize = 200;
    let p = Arc::new(Platform::start().await);
    let ids = Arc::new(accounts(&p, 5, "1000.00").await);
    let poor = accounts(&p, 1, "1.00").await.remove(0);
    let twin = unique();
    let mut all = JoinSet::new();
    for batch in 0..BATCHES {
        let (p, ids, poor, twin) = (p.clone(), ids.clone(), poor.clone(), twin.clone());
        all.spawn(async move {
            let mut transfers: Vec<Value> = (0..EACH)
                .map(|n| {
                    let from = (n + batch) % ids.len();
                    transfer(&ids[from], &ids[(from + 1 + n % 3) % ids.len()], "0.01")
                })
                .collect();
            // Some have an id that another one has, and one wants more than there is.
            if batch % 4 == 1 {
                transfers[EACH / 2]["id"] = json!(twin);
            }
            if batch % 4 == 2 {
                transfers[EACH / 2] = transfer(&poor, &ids[0], "0.40");
            }
            let path = format!("{LEDGER}/transfers/batch");
            let done = p
                .post("finance", &path, json!({"transfers": transfers}))
                .await;
            assert_eq!(done.status, 200, "{}", done.text);
            let results = done.json["results"].as_array().unwrap().clone();
            transfers.into_iter().zip(results).collect::<Vec<_>>()
        });
    }
    let mut singles = JoinSet::new();
    for n in 0..40 {
        let (p, ids) = (p.clone(), ids.clone());
        singles.spawn(async move {
            let single = transfer(&ids[n % 5], &ids[(n + 1) % 5], "0.01");
            let path = format!("{LEDGER}/transfers");
            let done = p.post("finance", &path, single.clone()).await;
            assert_eq!(done.status, 201, "{}", done.text);
            vec![(single, done.json)]
        });
    }
    let answered = [all.join_all().await, singles.join_all().await].concat();
    let mut cents: BTreeMap<&str, i64> = ids.iter().map(|id| (id.as_str(), 100_000)).collect();
    cents.insert(&poor, 100);
    let (mut refused, mut different) = (0, 0);
    for (asked, result) in answered.iter().flatten() {
        match (result["state"].as_str(), result["code"].as_str()) {
            (_, Some("idempotency_key_reused")) => different += 1,
            (_, Some("insufficient_funds")) => refused += 1,
            (Some("posted"), None) => {
                let amount = asked["amount"].as_str().unwrap().replace('.', "");
                let amount: i64 = amount.parse().unwrap();
                *cents
                    .get_mut(asked["debit_account"].as_str().unwrap())
                    .unwrap() -= amount;
                *cents
                    .get_mut(asked["credit_account"].as_str().unwrap())
                    .unwrap() += amount;
            }
            _ => panic!("{result}"),
        }
    }
    // Of four with one id one is booked, of four that want 0.40 of 1.00 two are.
    assert_eq!((refused, different), (2, 3));
    for (id, cents) in &cents {
        let expected = format!("{}.{:02}", cents / 100, cents % 100);
        assert_eq!(posted(&p, id).await, expected, "{id}");
    }
    p.assert_balanced().await;
    let folder = tempfile::tempdir().unwrap();
    let (export, key) = (folder.path().join("j.jsonl"), folder.path().join("key.jwk"));
    let (ok, made) = ledger(&p, &["checkpoint"]);
    assert!(ok, "{made}");
    std::fs::write(&key, ledger(&p, &["key"]).1).unwrap();
    let (ok, said) = ledger(&p, &["export", path(&export)]);
    assert!(ok, "{said}");
    let (ok, said) = ledger(&p, &["verify", path(&export), "--key", path(&key)]);
    let booked = 6 + BATCHES * EACH - 2 - 3 + 40;
    assert!(
        ok && said.starts_with(&format!("good: {booked} entries")),
        "{said}"
    );
}

/// What this instance has written a moment ago it does not read again, so what another host has
/// written since has to be noticed: by the guard of a commit, and before anything is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_host_has_moved_meanwhile_counts() {
    let p = Platform::start().await;
    let ids = accounts(&p, 2, "10.00").await;
    let post = async |amount: &str| {
        let body = transfer(&ids[0], &ids[1], amount);
        p.post("finance", &format!("{LEDGER}/transfers"), body)
            .await
    };
    let moved = |side: &str, minor: i64| {
        let id = &ids[0];
        let sql = format!(
            "UPDATE accounts SET {side} = {side} + {minor}, version = version + 1 WHERE id = '{id}'"
        );
        p.change("ledger", &[&sql]);
    };
    assert_eq!(post("1.00").await.status, 201);
    moved("credits", 5_000);
    let done = post("50.00").await;
    assert_eq!(done.status, 201, "59.00 are there: {}", done.text);
    assert_eq!(posted(&p, &ids[0]).await, "9.00");
    moved("debits", 800);
    let refused = post("5.00").await;
    assert_eq!(
        (refused.status, refused.code()),
        (422, "insufficient_funds"),
        "1.00 is there: {}",
        refused.text
    );
    assert_eq!(post("1.00").await.status, 201);
    assert_eq!(posted(&p, &ids[0]).await, "0.00");
}

/// A host that goes on from what it has decided on never has to wait for its turn; another one on the
/// same accounts must get its own all the same, be it the one with large batches or the one that is
/// quick. (Of two that do not ask who else is there, the quick one left the other one batch in six
/// seconds.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hosts_on_the_same_accounts_both_get_through() {
    let p = Arc::new(Platform::start().await);
    let Some(second) = p.beside() else {
        eprintln!("left out: a file has one host");
        return;
    };
    let ids = Arc::new(accounts(&p, 2, "1000.00").await);
    let (over, batches) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let mut busy = JoinSet::new();
    for _ in 0..3 {
        let (p, ids, over, batches) = (p.clone(), ids.clone(), over.clone(), batches.clone());
        busy.spawn(async move {
            while !over.load(Ordering::Relaxed) {
                let transfers: Vec<Value> = (0..8_000)
                    .map(|n| transfer(&ids[n % 2], &ids[(n + 1) % 2], "0.01"))
                    .collect();
                let path = format!("{LEDGER}/transfers/batch");
                let done = p
                    .post("finance", &path, json!({"transfers": transfers}))
                    .await;
                assert_eq!(done.status, 200, "{}", done.text);
                batches.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    while batches.load(Ordering::Relaxed) < 3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (before, until) = (
        batches.load(Ordering::Relaxed),
        Instant::now() + Duration::from_secs(6),
    );
    let mut singles = 0;
    while Instant::now() < until {
        let body = transfer(&ids[0], &ids[1], "0.01");
        let done = second
            .post("finance", &format!("{LEDGER}/transfers"), body)
            .await;
        assert_eq!(done.status, 201, "{}", done.text);
        singles += 1;
    }
    let meanwhile = batches.load(Ordering::Relaxed) - before;
    over.store(true, Ordering::Relaxed);
    busy.join_all().await;
    println!("{meanwhile} batches of one host, {singles} transfers of the other");
    assert!(
        meanwhile >= 3 && singles >= 1,
        "{meanwhile} batches, {singles} transfers"
    );
    let cents = 100_000 - singles;
    let expected = format!("{}.{:02}", cents / 100, cents % 100);
    assert_eq!(posted(&p, &ids[0]).await, expected);
    p.assert_balanced().await;
}

/// Whoever asks twice at the same moment is told what was done the first time, also when that took
/// what both of them want.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twins_of_an_atomic_batch_are_answered_the_same() {
    let p = Arc::new(Platform::start().await);
    let to = accounts(&p, 1, "1.00").await.remove(0);
    for round in 0..10 {
        let from = accounts(&p, 1, "1.00").await.remove(0);
        if round % 2 == 1 {
            // An id that comes again: for a second everybody here waits for everybody.
            let again = transfer(&to, &from, "0.01");
            for _ in 0..2 {
                let path = format!("{LEDGER}/transfers");
                let done = p.post("finance", &path, again.clone()).await;
                assert_eq!(done.status, 201, "{}", done.text);
            }
        }
        let mut held = transfer(&from, &to, "0.50");
        held["pending"] = json!(true);
        let batch = json!({"atomic": true, "transfers": [transfer(&from, &to, "0.50"), held]});
        let mut twins = JoinSet::new();
        for _ in 0..3 {
            let (p, batch) = (p.clone(), batch.clone());
            let path = format!("{LEDGER}/transfers/batch");
            twins.spawn(async move { p.post("finance", &path, batch).await });
        }
        for done in twins.join_all().await {
            assert_eq!(done.status, 200, "{}", done.text);
        }
        let left = ["0.50", "0.51"][round % 2];
        assert_eq!(posted(&p, &from).await, left);
    }
    p.assert_balanced().await;
}
