//! The audit trail on the running platform: everything that happens, in one chain.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{
    io::Write,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use innover_tests::{PATIENCE, Platform, repository};
use serde_json::{Value, json};

/// All tests on one runtime: the platform's client keeps its connections there.
fn run<F: Future>(test: F) -> F::Output {
    static RUNTIME: std::sync::OnceLock<tokio::runtime::Runtime> = std::sync::OnceLock::new();
    RUNTIME
        .get_or_init(|| tokio::runtime::Runtime::new().unwrap())
        .block_on(test)
}

/// Rows of a search, oldest first, once `enough` of them are there.
async fn rows(p: &Platform, query: &str, enough: usize) -> Vec<Value> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = p.get("auditor", &format!("/v1/audit?{query}")).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let mut rows = answer.json["data"].as_array().unwrap().clone();
        rows.reverse();
        if rows.len() >= enough {
            return rows;
        }
        assert!(Instant::now() < deadline, "{query}: {}", answer.text);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn completed(p: &Platform) -> String {
    let payer = p.funded("user", "100.00", "EUR").await;
    let payee = p.wallet("finance", "USD").await;
    let payment = p.pay("user", &payer, &payee, "33.33", "EUR").await.id();
    assert_eq!(p.settled(&payment).await["state"], "completed");
    payment
}

async fn export(p: &Platform) -> String {
    let mut lines = String::new();
    loop {
        let after = lines.lines().count();
        let path = format!("/v1/audit/export?after={after}&limit=20");
        let page = p.get("auditor", &path).await;
        assert_eq!(page.status, 200, "{}", page.text);
        if page.text.is_empty() {
            return lines;
        }
        lines.push_str(&page.text);
    }
}

#[test]
fn every_event_of_a_payment_is_in_the_trail_once_with_who_asked_and_one_trace() {
    run(async {
        let p = Platform::shared().await;
        let payment = completed(&p).await;
        let found = rows(&p, &format!("subject={payment}&limit=200"), 8).await;
        let actions: Vec<&str> = found
            .iter()
            .map(|r| r["action"].as_str().unwrap())
            .collect();
        for action in [
            "payment.initiated",
            "forex.converted",
            "ledger.posted",
            "wallet.updated",
            "payment.completed",
        ] {
            let times = actions.iter().filter(|a| **a == action).count();
            assert_eq!(times, 1, "{action}: {actions:?}");
        }
        let traces: std::collections::BTreeSet<&str> = found
            .iter()
            .map(|row| row["trace_id"].as_str().unwrap())
            .collect();
        assert_eq!(traces.len(), 1, "{traces:?}");
        for row in &found {
            let by_nobody = row["action"] == "payment.completed";
            let want = if by_nobody {
                json!(null)
            } else {
                json!("usr_user")
            };
            assert_eq!(row["actor"], want, "{row}");
        }
    });
}

#[test]
fn administrative_calls_are_found_by_who_made_them() {
    run(async {
        let p = Platform::shared().await;
        let own = json!({"display_name": "Ada"});
        let request = p.request("user", reqwest::Method::PUT, "/api/profile/v1/profiles/me");
        assert!(request.await.json(&own).send().await.status < 300);
        let tier = json!({"tier": 2, "reason": "passport checked"});
        let path = "/api/profile/v1/profiles/usr_user/tier";
        assert_eq!(p.post("ops_user", path, tier).await.status, 200);
        let found = rows(&p, "actor=usr_ops_user&subject=usr_user", 1).await;
        assert_eq!(
            (&found[0]["action"], &found[0]["data"]["kyc_tier"]),
            (&json!("profile.updated"), &json!(2))
        );
    });
}

#[test]
fn an_item_made_by_one_service_is_told_to_another_with_its_correlation_id_and_key() {
    run(async {
        let p = Platform::shared().await;
        let made = p
            .request("user", reqwest::Method::POST, "/api/v1/items")
            .await
            .key("item-key-1")
            .header("x-request-id", "item-request-1")
            .json(&json!({"name": "lamp"}))
            .send()
            .await;
        assert_eq!(made.status, 201, "{}", made.text);
        let id = made.id();
        let found = rows(&p, &format!("action=item.created&subject={id}"), 1).await;
        assert_eq!(
            found[0]["data"],
            json!({"id": id, "timestamp": made.json["created_at"], "source_service": "items"})
        );
        assert_eq!(found[0]["correlation_id"], "item-request-1");
        let bus = rusqlite::Connection::open(p.state().join("bridge.db")).unwrap();
        let sql = "SELECT envelope FROM event_log WHERE topic = 'item.created' AND key = ?1";
        let envelope: String = bus.query_row(sql, [&id], |row| row.get(0)).unwrap();
        let envelope: Value = serde_json::from_str(&envelope).unwrap();
        assert_eq!(
            (&envelope["correlationid"], &envelope["idempotencykey"]),
            (&json!("item-request-1"), &json!("item-key-1"))
        );
    });
}

#[test]
fn the_trail_verifies_here_and_its_export_elsewhere_until_a_row_is_touched() {
    run(async {
        let p = Platform::start().await;
        completed(&p).await;
        let deadline = Instant::now() + PATIENCE;
        // All that was published is in the trail.
        loop {
            let bus = rusqlite::Connection::open(p.state().join("bridge.db")).unwrap();
            let count = "SELECT COUNT(*) FROM event_log";
            let told: i64 = bus.query_row(count, [], |row| row.get(0)).unwrap();
            if p.number("audit", "SELECT seq FROM head") == told {
                break;
            }
            assert!(Instant::now() < deadline, "the trail does not catch up");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let verified = p.get("auditor", "/v1/audit/verify").await.json;
        assert_eq!(
            (&verified["ok"], &verified["complete"]),
            (&json!(true), &json!(true)),
            "{verified}"
        );
        let export = export(&p).await;
        let head = &verified["head"];
        let want = format!(
            "good up to {}:{}",
            head["seq"],
            head["hash"].as_str().unwrap()
        );
        assert_eq!(standalone(&export), Ok(want));
        let changed = export.replacen("usr_finance", "usr_nobody", 1);
        let fault = standalone(&changed).unwrap_err();
        assert!(fault.starts_with("row "), "{fault}");
        let cut: Vec<&str> = export.lines().collect();
        let cut = [&cut[..2], &cut[3..]].concat().join("\n");
        assert!(
            standalone(&cut)
                .unwrap_err()
                .starts_with("row 3: it is missing")
        );

        for (who, status) in [
            ("admin", 200),
            ("finance", 403),
            ("user", 403),
            ("analyst", 403),
        ] {
            assert_eq!(p.get(who, "/v1/audit/verify").await.status, status, "{who}");
        }
        assert_eq!(p.post("admin", "/v1/audit", json!({})).await.status, 405);
    });
}

/// What `tools/audit-verify` says of an export.
fn standalone(export: &str) -> Result<String, String> {
    let mut child = Command::new("python3")
        .arg(repository().join("tools/audit-verify"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(export.as_bytes()).unwrap();
    drop(input);
    let said = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim().to_owned();
    match said.status.success() {
        true => Ok(text(said.stdout)),
        false => Err(text(said.stderr)),
    }
}

#[test]
fn the_trail_has_every_event_after_kill_9() {
    run(async {
        let mut p = Platform::start().await;
        for _ in 0..3 {
            let payer = p.funded("user", "100.00", "EUR").await;
            let payee = p.wallet("finance", "USD").await;
            let payment = p.pay("user", &payer, &payee, "1.00", "EUR").await.id();
            p.kill();
            p.run();
            assert_eq!(p.settled(&payment).await["state"], "completed");
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            let told: Vec<String> = {
                let bus = rusqlite::Connection::open(p.state().join("bridge.db")).unwrap();
                let mut ids = bus.prepare("SELECT id FROM event_log").unwrap();
                let ids = ids.query_map([], |row| row.get(0)).unwrap();
                ids.map(Result::unwrap).collect()
            };
            let list = told
                .iter()
                .map(|id| format!("'{id}'"))
                .collect::<Vec<_>>()
                .join(",");
            let kept = format!("SELECT COUNT(*) FROM records WHERE event_id IN ({list})");
            let missing = told.len() as i64 - p.number("audit", &kept);
            if missing == 0 {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "{missing} events are not in the trail"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let verified = p.get("auditor", "/v1/audit/verify").await.json;
        assert_eq!(verified["ok"], true, "{verified}");
    });
}
