//! Events and outbox rows that could not be delivered: an operator sees them, has them delivered again
//! and forgets them. On Kafka too, where `INNOVER_TEST_KAFKA` names one (`host:port`).
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    process::Command,
    time::{Duration, Instant},
};

use innover_tests::{PATIENCE, Platform, innover, services, unique};
use rusqlite::params;
use serde_json::{Value, json};

/// A platform of a test's own, with events through Kafka where there is one.
async fn platform() -> Platform {
    let kafka = services::kafka().unwrap_or_default();
    let environment: Vec<_> = kafka.iter().map(|(n, v)| (*n, v.as_str())).collect();
    Platform::start_with(&environment).await
}

/// `innover events …` on the platform; whether it succeeded, and what it printed.
fn events(p: &Platform, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(innover())
        .arg("events")
        .args(arguments)
        .envs(p.environment().iter().cloned())
        .env("INNOVER_STATE_DIR", p.state())
        .env("INNOVER_URL", &p.url)
        .current_dir(innover_tests::repository())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

/// A dead letter of the wallet service, as the bridge would have left it; on a platform with Kafka one
/// from before it.
fn dead(p: &Platform, id: &str, data: Value) {
    let event = json!({
        "specversion": "1.0", "id": id, "source": "/innover/profile", "type": "profile.updated",
        "subject": "usr_user", "time": "2026-11-01T12:00:00Z", "partitionkey": "usr_user", "data": data,
    });
    let file = rusqlite::Connection::open(p.state().join("bridge.db")).unwrap();
    file.busy_timeout(Duration::from_secs(10)).unwrap();
    let sql = "INSERT INTO dead_letters (kind, target, id, name, key, envelope, error, attempts, dead_at)
               VALUES ('event', 'wallet', ?1, 'profile.updated', 'usr_user', ?2, '500 away', 25, 1)";
    file.execute(sql, params![id, event.to_string()]).unwrap();
}

#[tokio::test]
async fn a_dead_event_is_delivered_again_and_stays_one_when_it_is_refused_again() {
    let p = platform().await;
    let wallet = p.wallet("user", "EUR").await;
    assert_eq!(
        events(&p, &["dead-letters"]),
        (true, "no dead events\n".into())
    );
    let update = json!({"profile_id": "usr_user", "version": 9, "kyc_tier": 2, "state": "active"});
    dead(&p, "evt_good", update);
    dead(&p, "evt_bad", json!({"profile_id": 7}));
    let (_, listed) = events(&p, &["dead-letters", "--subscriber", "wallet"]);
    assert!(
        listed.contains("evt_good") && listed.contains("evt_bad"),
        "{listed}"
    );

    let (good, said) = events(&p, &["replay", "wallet", "evt_good"]);
    assert!(good && said.contains("has taken"), "{said}");
    let limits = p
        .get("user", &format!("/api/wallet/v1/wallets/{wallet}/limits"))
        .await;
    assert_eq!(limits.json["tier"], 2, "{}", limits.text);
    let (good, said) = events(&p, &["replay", "wallet", "evt_good"]);
    assert!(!good && said.contains("no dead letter"), "{said}");

    let (good, said) = events(&p, &["replay", "wallet", "evt_bad"]);
    assert!(!good && said.contains("stays a dead letter"), "{said}");
    let (_, json) = events(&p, &["dead-letters", "--json"]);
    let left: Vec<Value> = json
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(left.len(), 1, "{json}");
    assert_eq!(left[0]["id"], "evt_bad");
    assert!(events(&p, &["discard", "wallet", "evt_bad"]).0);
    assert_eq!(
        events(&p, &["dead-letters"]),
        (true, "no dead events\n".into())
    );
    let (good, said) = events(&p, &["discard", "wallet", "evt_bad"]);
    assert!(!good && said.contains("no dead letter"), "{said}");
}

/// Waits for a service's dead letters to be so many; returns them.
async fn letters(p: &Platform, service: &str, count: usize) -> Vec<Value> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (_, listed) = events(p, &["dead-letters", "--json", "--subscriber", service]);
        let letters: Vec<Value> = listed
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        if letters.len() == count {
            return letters;
        }
        assert!(Instant::now() < deadline, "{listed}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn what_a_service_refuses_is_replayed_or_forgotten_all_at_once() {
    let p = platform().await;
    let kafka = services::kafka().is_some();
    // The wallet cannot read them.
    let payload = json!({"profile_id": 7});
    let rows: Vec<String> = (0..3)
        .map(|_| {
            format!(
                "INSERT INTO outbox (id, topic, key, key_version, type, payload, headers, created_at)
                 VALUES ('{}', 'profile.updated', 'usr_user', 1, 'profile.updated', '{payload}', '{{}}', 1)",
                unique()
            )
        })
        .collect();
    p.change(
        "profile",
        &rows.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    let dead = letters(&p, "wallet", 3).await;
    assert_eq!(dead[0].get("offset").is_some(), kafka, "{}", dead[0]);
    let (good, said) = events(&p, &["dead-letters"]);
    assert!(good && said.contains("profile.updated"), "{said}");
    let (good, said) = events(&p, &["replay", "wallet"]);
    assert!(!good && said.contains("--all"), "{said}");

    let (good, said) = events(&p, &["replay", "wallet", "--all"]);
    if kafka {
        // The service is asked later, and refuses them as other letters.
        assert!(good && said.matches("again").count() == 3, "{said}");
        let others = |letters: &[Value]| letters.iter().all(|letter| !dead.contains(letter));
        let deadline = Instant::now() + PATIENCE;
        while !others(&letters(&p, "wallet", 3).await) {
            assert!(Instant::now() < deadline);
        }
        let one = &letters(&p, "wallet", 3).await[0];
        let place = format!("{}/{}", one["partition"], one["offset"]);
        assert!(events(&p, &["discard", "wallet", &place]).0);
        let (good, said) = events(&p, &["discard", "wallet", &place]);
        assert!(!good && said.contains(&place), "{said}");
    } else {
        assert!(!good && said.contains("3 of 3 stay"), "{said}");
        let one = dead[0]["id"].as_str().unwrap();
        assert!(events(&p, &["discard", "wallet", one]).0);
    }
    letters(&p, "wallet", 2).await;
    let (good, said) = events(&p, &["discard", "wallet", "--all"]);
    assert!(good && said.contains("2 forgotten"), "{said}");
    assert_eq!(
        events(&p, &["dead-letters"]),
        (true, "no dead events\n".into())
    );
}

#[tokio::test]
async fn a_row_that_is_no_event_and_no_job_is_shown_and_forgotten() {
    let p = platform().await;
    p.change(
        "items",
        &[
            "INSERT INTO outbox (id, topic, key, key_version, type, payload, headers, created_at)
           VALUES ('row_bad', '', 'k', 1, 'item.created', 'no json', '', 1)",
        ],
    );
    let deadline = Instant::now() + PATIENCE;
    let listed = loop {
        let (_, listed) = events(&p, &["dead-letters"]);
        if listed.contains("row_bad") {
            break listed;
        }
        assert!(Instant::now() < deadline, "{listed}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(listed.contains("items"), "{listed}");
    let (_, other) = events(&p, &["dead-letters", "--subscriber", "wallet"]);
    assert!(!other.contains("row_bad"), "{other}");
    let (_, whole) = events(&p, &["dead-letters", "--json"]);
    assert!(whole.contains("no json"), "{whole}");
    assert!(events(&p, &["discard", "items", "row_bad"]).0);
    assert_eq!(
        events(&p, &["dead-letters"]),
        (true, "no dead events\n".into())
    );
}
