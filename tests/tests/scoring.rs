//! Scores of the running platform: the shipped model, models that fail, and one in another language
//! plugged in by editing one line of spin.toml.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::time::{Duration, Instant};

use innover_tests::{Answer, PATIENCE, Platform, repository};
use serde_json::{Value, json};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

const SHIPPED: &str = "\"innover:risk/scorer\" = { component = \"scorer\" }";
/// What a caller waits for at most: `deadline_ms` of the service, and time for a busy machine. Without
/// that deadline the host's own would be the answer, after ten seconds and more.
const BOUND: Duration = Duration::from_secs(9);

/// A scorer that takes no features. `score` is its code; what it leaves is the address of its answer.
fn scorer(score: &str) -> Vec<u8> {
    // At 64 lies an empty list. At 128 a score: 7, no reasons, the model `w`; at 192 one of 1001.
    let core = format!(
        r#"(module
            (memory (export "memory") 16)
            (data (i32.const 128) "\00\00\00\00\07\00\00\00\00\00\00\00\00\00\00\00\00\01\00\00\01\00\00\00")
            (data (i32.const 192) "\00\00\00\00\e9\03\00\00\00\00\00\00\00\00\00\00\00\01\00\00\01\00\00\00")
            (data (i32.const 256) "w")
            (global $free (mut i32) (i32.const 4096))
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                (global.set $free (i32.and (i32.add (global.get $free) (i32.const 15)) (i32.const -16)))
                (global.get $free)
                (global.set $free (i32.add (global.get $free) (local.get 3))))
            (func (export "innover:risk/scorer@1.0.0#features") (result i32)
                (i32.const 64))
            (func (export "innover:risk/scorer@1.0.0#score") (param i32 i32) (result i32)
                (global.set $free (i32.const 4096))
                {score}))"#
    );
    let mut module = wat::parse_str(core).unwrap();
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_dir(repository().join("wit/risk")).unwrap();
    let world = resolve
        .select_world(&[package], Some("scorer-plugin"))
        .unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    let encoder = ComponentEncoder::default().validate(true).module(&module);
    encoder.unwrap().encode().unwrap()
}

/// A platform whose scoring has this component plugged in, by the one line of its spin.toml, and the
/// folder it reads until it is dropped.
async fn platform_with(scorer: &[u8]) -> (tempfile::TempDir, Platform) {
    let folder = tempfile::tempdir().unwrap();
    for name in ["components", "target"] {
        std::os::unix::fs::symlink(repository().join(name), folder.path().join(name)).unwrap();
    }
    std::fs::write(folder.path().join("scorer.wasm"), scorer).unwrap();
    let manifest = std::fs::read_to_string(repository().join("spin.toml")).unwrap();
    assert!(manifest.contains(SHIPPED));
    let manifest = manifest.replace(
        SHIPPED,
        "\"innover:risk/scorer\" = { path = \"scorer.wasm\" }",
    );
    std::fs::write(folder.path().join("spin.toml"), manifest).unwrap();
    let platform = Platform::start_in(folder.path(), &[]).await;
    (folder, platform)
}

async fn score(p: &Platform, case_id: &str, features: Value) -> Answer {
    let body = json!({"case_id": case_id, "title": "a case", "features": features});
    p.post("analyst", "/v1/scoring", body).await
}

fn suspicious() -> Value {
    json!({"amount_eur_minor": 300_000, "new_payee": true, "payments_24h": 9, "hour_utc": 3,
           "payer_account_age_days": 4, "payer_tier": 0, "reason_codes": [], "priority": "high",
           "currency": "EUR", "target_currency": "USD", "cross_currency": true})
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shipped_model_scores_through_both_paths_and_the_event_goes_out() {
    let p = Platform::shared().await;
    let high = score(&p, "cas_high", suspicious()).await;
    assert_eq!(high.status, 200, "{}", high.text);
    assert_eq!(high.json["model"], "shipped/1");
    assert!(high.json["score"].as_i64().unwrap() > 600, "{}", high.text);
    let body = json!({"case_id": "cas_low", "title": "", "features": {
        "amount_eur_minor": 3_000, "new_payee": false, "payments_24h": 1, "payer_tier": 3,
        "payer_account_age_days": 1_200, "hour_utc": 12}});
    let low = p.post("analyst", "/api/scoring/v1/scoring", body).await;
    assert!(low.json["score"].as_i64().unwrap() < 100, "{}", low.text);

    let history = p.get("auditor", "/v1/scoring/cas_high").await;
    assert_eq!(history.json["data"][0]["score"], high.json["score"]);
    let features = p.get("analyst", "/api/scoring/v1/features").await;
    assert_eq!(features.json["data"].as_array().unwrap().len(), 12);
    for (user, path) in [
        ("user", "/v1/scoring/cas_high"),
        ("viewer", "/v1/scoring/cas_high"),
    ] {
        assert_eq!(p.get(user, path).await.status, 403, "{user}");
    }
    let body = json!({"case_id": "cas_x", "features": {}});
    assert_eq!(p.post("auditor", "/v1/scoring", body).await.status, 403);

    let deadline = Instant::now() + PATIENCE;
    while p.number("scoring", "SELECT COUNT(*) FROM outbox") > 0 {
        assert!(Instant::now() < deadline, "the events were not taken");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_is_one_scoring_through_the_gateway() {
    let p = Platform::shared().await;
    let send = |amount: i64| {
        let p = p.clone();
        async move {
            let body = json!({"case_id": "cas_key", "features": {"amount_eur_minor": amount}});
            p.request("analyst", reqwest::Method::POST, "/v1/scoring")
                .await
                .key("one-key")
                .json(&body)
                .send()
                .await
        }
    };
    let (first, second) = tokio::join!(send(100), send(100));
    assert_eq!(
        (first.status, second.status),
        (200, 200),
        "{} {}",
        first.text,
        second.text
    );
    assert_eq!(first.json, second.json);
    assert_eq!(send(200).await.code(), "idempotency_key_reused");
    let stored = "SELECT COUNT(*) FROM scorings WHERE case_id = 'cas_key'";
    assert_eq!(p.number("scoring", stored), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_model_scores_after_one_line_of_the_manifest_is_changed() {
    let (_folder, p) = platform_with(&scorer("(i32.const 128)")).await;
    let answer = score(&p, "cas_other", suspicious()).await;
    assert_eq!(
        (
            &answer.json["score"],
            &answer.json["model"],
            &answer.json["reasons"]
        ),
        (&json!(7), &json!("w"), &json!([])),
        "{}",
        answer.text
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_score_above_1000_is_an_error_and_is_not_kept() {
    let (_folder, p) = platform_with(&scorer("(i32.const 192)")).await;
    let answer = score(&p, "cas_1001", suspicious()).await;
    assert_eq!(
        (answer.status, answer.code()),
        (502, "scorer_failed"),
        "{}",
        answer.text
    );
    assert_eq!(p.number("scoring", "SELECT COUNT(*) FROM scorings"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scorer_that_traps_loops_or_fills_its_memory_ends_only_its_own_request() {
    for code in [
        "unreachable",
        "(loop $l (br $l)) unreachable",
        "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable",
    ] {
        let (_folder, p) = platform_with(&scorer(code)).await;
        let started = Instant::now();
        // What the same service does at the same time, in instances of its own, goes on.
        let (broken, history) = tokio::join!(
            score(&p, "cas_broken", suspicious()),
            p.get("analyst", "/v1/scoring/cas_broken")
        );
        assert!(
            broken.status >= 500,
            "{code}: {} {}",
            broken.status,
            broken.text
        );
        assert!(!broken.code().is_empty(), "{code}: {}", broken.text);
        assert!(started.elapsed() < BOUND, "{code}: {:?}", started.elapsed());
        assert_eq!(
            (history.status, &history.json["data"]),
            (200, &json!([])),
            "{code}"
        );
        let after = p.get("analyst", "/v1/features").await;
        assert_eq!(
            after.status, 404,
            "only the gateway's own paths are open: {}",
            after.text
        );
        let after = p.get("analyst", "/api/scoring/v1/features").await;
        assert_eq!(after.status, 200, "{code}: {}", after.text);
        assert_eq!(p.number("scoring", "SELECT COUNT(*) FROM scorings"), 0);
    }
}

/// The example in JavaScript, built by its one command; `None` where its tool is not installed.
fn example_in_javascript() -> Option<Vec<u8>> {
    let folder = repository().join("docs/examples/scorer-js");
    if !folder.join("node_modules/.bin/componentize-js").exists() {
        return None;
    }
    let made = std::process::Command::new("npm")
        .args(["run", "build"])
        .current_dir(&folder)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{said}");
    Some(std::fs::read(folder.join("scorer.wasm")).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scorer_in_javascript_scores_after_one_line_of_the_manifest_is_changed() {
    let Some(scorer) = example_in_javascript() else {
        eprintln!(
            "SKIPPED: a_scorer_in_javascript…: run `npm install` in docs/examples/scorer-js first"
        );
        return;
    };
    let (_folder, p) = platform_with(&scorer).await;
    let high = score(
        &p,
        "cas_js",
        json!({"amount_eur_minor": 1_000_001, "new_payee": true, "reason_codes": ["amount_over_limit"]}),
    )
    .await;
    assert_eq!(high.status, 200, "{}", high.text);
    assert_eq!(
        (&high.json["score"], &high.json["model"]),
        (&json!(950), &json!("example-js/1"))
    );
    assert_eq!(
        high.json["reasons"],
        json!([
            {"code": "amount_large", "feature": "amount_eur_minor", "points": 400},
            {"code": "rules_matched", "feature": "reason_codes", "points": 300},
            {"code": "payee_new", "feature": "new_payee", "points": 250},
        ])
    );
    let missing = score(&p, "cas_js", json!({"new_payee": true})).await;
    assert_eq!(
        (missing.status, missing.code(), &missing.json["param"]),
        (
            422,
            "invalid_features",
            &json!("/features/amount_eur_minor")
        ),
        "{}",
        missing.text
    );
    let features = p.get("analyst", "/api/scoring/v1/features").await;
    assert_eq!(
        features.json["data"][0],
        json!({"name": "amount_eur_minor", "type": "integer", "required": true})
    );
}
