//! The journal from outside: signed, exported, verified with the public key alone.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{path::Path, process::Command};

use innover_tests::{Platform, innover};
use reqwest::Method;
use serde_json::json;

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
