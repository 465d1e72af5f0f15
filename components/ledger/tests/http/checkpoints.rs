//! Checkpoints and the journal they cover, as an auditor gets them.

use innover_journal::{HEADER, Line, PublicKey, SigningKey, Summary, verify};
use serde_json::{Value, json};

use crate::support::{ask, finance, lock, open, transfer};

const SEED: [u8; 32] = [9; 32];

fn key() -> PublicKey {
    SigningKey::from_seed(&SEED).expect("a key").public()
}

async fn checkpoint() -> Value {
    let (status, made, _) = ask(&finance(), "POST", "/v1/checkpoints", None, Value::Null).await;
    assert_eq!(status, 201, "{made}");
    made
}

/// The export `innover ledger export` would write.
async fn export(number: &Value) -> String {
    let mut text = format!("{HEADER}\n");
    let mut cursor = String::new();
    loop {
        let path = format!("/v1/checkpoints/{number}/journal?cursor={cursor}");
        let path = path.trim_end_matches("?cursor=");
        let (status, page, _) = ask(&finance(), "GET", path, None, Value::Null).await;
        assert_eq!(status, 200, "{page}");
        for line in page["data"].as_array().expect("lines") {
            let line: Line = serde_json::from_value(line.clone()).expect("a record");
            text += &serde_json::to_string(&line).expect("JSON");
            text.push('\n');
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => return text,
        }
    }
}

async fn post(n: usize, from: &str, to: &str) {
    let (status, answer, _) = ask(
        &finance(),
        "POST",
        "/v1/entries",
        Some(&format!("checkpoints-{n}")),
        transfer(from, to, "0.01"),
    )
    .await;
    assert_eq!(status, 201, "{answer}");
}

#[tokio::test]
async fn an_export_holds_what_its_checkpoint_covers_and_verifies() {
    innover_kit::config::set("checkpoint_key", &jwk());
    open("acc_chk_a", "EUR").await;
    open("acc_chk_b", "EUR").await;
    // The house's cash is everyone's here; what follows moves accounts of this test only.
    post(0, "acc_house_cash_EUR", "acc_chk_a").await;
    // More than one page of entries and of postings.
    for n in 1..1_100 {
        match n % 2 {
            0 => post(n, "acc_chk_b", "acc_chk_a").await,
            _ => post(n, "acc_chk_a", "acc_chk_b").await,
        }
    }
    let first = checkpoint().await;
    let text = export(&first["number"]).await;
    let Summary {
        entries, postings, ..
    } = verify(&text, key()).expect("good");
    assert!(
        entries >= 1_100 && postings >= 2_200,
        "{entries} {postings}"
    );
    assert_eq!(json!(postings), first["postings"]);

    // What comes later does not change what was signed.
    post(1_100, "acc_chk_b", "acc_chk_a").await;
    open("acc_chk_c", "EUR").await;
    assert_eq!(export(&first["number"]).await, text);
    let second = checkpoint().await;
    assert_eq!(
        second["number"].as_i64(),
        first["number"].as_i64().map(|n| n + 1)
    );
    let later = export(&second["number"]).await;
    let summary = verify(&later, key()).expect("good");
    assert!(summary.entries > entries && summary.postings > postings);
    assert!(later.contains("acc_chk_c"));

    // More accounts than one page of heads, of which the next checkpoint has no news.
    let writer = lock();
    writer
        .execute_batch(
            "INSERT INTO accounts
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5100)
             SELECT a.no * 1000000 + n.i, a.id || '-' || n.i, a.code, a.name, a.currency, a.normal_side,
                    a.floor, a.state, a.metadata, 0, 0, 0, 0, a.version, 0, a.posted_at, a.head, a.created_at
             FROM accounts a CROSS JOIN n WHERE a.id = 'acc_chk_c'; COMMIT",
        )
        .expect("accounts");
    let third = checkpoint().await;
    post(1_101, "acc_chk_a", "acc_chk_b").await;
    let fourth = checkpoint().await;
    let accounts = |made: &Value| made["accounts"].as_i64().expect("a count");
    assert_eq!(accounts(&third), accounts(&second) + 5_100);
    assert_eq!(accounts(&fourth), accounts(&third));
    assert_eq!(
        fourth["postings"].as_i64(),
        third["postings"].as_i64().map(|n| n + 2)
    );

    // One word more in a reference, and it is found.
    let changed = later.replacen("a test", "a text", 1);
    let fault = verify(&changed, key()).expect_err("was changed");
    assert!(fault.what.contains("was changed"), "{fault}");

    let (_, key, _) = ask(&finance(), "GET", "/v1/checkpoint-key", None, Value::Null).await;
    assert_eq!(key["crv"], "Ed25519");
    assert!(key.get("d").is_none(), "the private half stays");
    let path = format!("/v1/checkpoints/{}", second["number"]);
    let (_, found, _) = ask(&finance(), "GET", &path, None, Value::Null).await;
    assert_eq!(found, second);
    let (_, list, _) = ask(
        &finance(),
        "GET",
        "/v1/checkpoints?limit=1",
        None,
        Value::Null,
    )
    .await;
    assert!(list["data"][0]["number"].as_i64() >= second["number"].as_i64());
    for (path, status) in [
        ("/v1/checkpoints/999999", 404),
        ("/v1/checkpoints/999999/journal", 404),
        ("/v1/checkpoints/1/journal?cursor=eA", 400),
    ] {
        let (found, _, _) = ask(&finance(), "GET", path, None, Value::Null).await;
        assert_eq!(found, status, "{path}");
    }
}

fn jwk() -> String {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    json!({"kty": "OKP", "crv": "Ed25519", "d": URL_SAFE_NO_PAD.encode(SEED)}).to_string()
}
