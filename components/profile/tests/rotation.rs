//! The keys of the environment change while the data stays readable. One test: the variable is the
//! process's.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use common::*;
use innover_kit::config;
use serde_json::{Value, json};

fn detail(body: &Value) -> &str {
    body["detail"].as_str().unwrap()
}

#[tokio::test]
async fn keys_are_rotated_in_bounded_pages_and_a_missing_one_is_named() {
    platform().await;
    let people: Vec<_> = (0..3).map(|n| user(&format!("usr_r{n}"))).collect();
    for who in &people {
        put(who, "Ada").await;
    }
    let id = submit(&people[0], passport("C01X00T47")).await;
    verify(&people[0], &id).await;

    // 600 more keys, so that one page is not enough.
    let p = platform().await;
    let keks = profile::seal::Keks::parse(&keys(&[("k1", 1)])).unwrap();
    let connection = rusqlite::Connection::open(&p.database).unwrap();
    for n in 0..600 {
        let (_, key) = keks.create(&format!("person:bulk_{n:04}"), "dk").unwrap();
        connection
            .execute(
                "INSERT INTO data_keys VALUES (?1, ?2, ?3, ?4, 0, 0)",
                [&key.owner, &key.id, &key.kek_id, &key.wrapped],
            )
            .unwrap();
    }
    let erased = post(
        &people[2],
        "/v1/profiles/me/erase",
        json!({"reason": "r"}),
        Some("e"),
    )
    .await;
    assert_eq!(erased.status, 200);

    // A key that is not there: what it wraps cannot be read, and who reads learns which it is.
    config::set("profile_keys", &keys(&[("k2", 2)]));
    let missing = get(&people[0], "/v1/profiles/me").await;
    assert_eq!((missing.status, missing.code()), (503, "not_ready"));
    assert!(detail(&missing.body).contains("`k1`"), "{}", missing.body);
    let stuck = run("profile.rotate", json!([])).await;
    assert_eq!(stuck["result"]["rewrapped"], 0);
    assert_eq!(stuck["result"]["left"], json!({"k1": 603}));
    assert!(
        stuck["result"]["faults"]["k1"]
            .as_str()
            .unwrap()
            .contains("put it back")
    );
    let gone = post(
        &admin(),
        "/v1/profiles/usr_r1/tier",
        json!({"tier": 1, "reason": "r"}),
        Some("t"),
    )
    .await;
    assert_eq!(
        gone.status, 503,
        "nothing is written over what cannot be read"
    );

    // Another key under the id of the first.
    config::set("profile_keys", &keys(&[("k1", 9)]));
    let wrong = get(&people[0], "/v1/profiles/me").await;
    assert_eq!((wrong.status, wrong.code()), (503, "not_ready"));
    assert!(
        detail(&wrong.body).contains("another key"),
        "{}",
        wrong.body
    );
    let new = put(&user("usr_r8"), "New").await;
    assert_eq!(
        (new.status, new.code()),
        (503, "not_ready"),
        "nothing is wrapped under it"
    );
    config::set("profile_keys", &keys(&[("k1", 9), ("k0", 1)]));
    let refused = run("profile.rotate", json!([])).await;
    assert_eq!(refused["status"], 503, "{refused}");
    config::set("profile_keys", "k1:short");
    let malformed = get(&people[0], "/v1/profiles/me").await;
    assert_eq!((malformed.status, malformed.code()), (503, "not_ready"));
    assert!(detail(&malformed.body).contains("profile_keys"));

    // The new key first, the old one behind it: both read, the new one wraps.
    config::set("profile_keys", &keys(&[("k2", 2), ("k1", 1)]));
    assert_eq!(get(&people[0], "/v1/profiles/me").await.status, 200);
    put(&user("usr_r9"), "New").await;
    let counts = get(&admin(), "/v1/keys").await;
    assert_eq!(
        counts.body["data"],
        json!([
            {"id": "k1", "wraps": false, "present": true, "data_keys": 603},
            {"id": "k2", "wraps": true, "present": true, "data_keys": 1},
        ])
    );
    let first = run("profile.rotate", json!([])).await;
    assert_eq!(
        first["result"],
        json!({"wraps_under": "k2", "rewrapped": 500, "left": {"k1": 103}, "faults": {}})
    );
    let next =
        p.rows("SELECT payload FROM outbox WHERE type = 'task:profile.rotate' ORDER BY created_at");
    assert!(
        next.len() >= 2,
        "a full page enqueues the next one, also when nothing could be done"
    );
    let job: Value = serde_json::from_str(&next.last().unwrap()[0]).unwrap();
    let second = deliver(job.clone()).await;
    assert_eq!(second["result"]["rewrapped"], 103);
    assert_eq!(second["result"]["left"], json!({}));
    let again = deliver(job).await;
    assert_eq!(
        again["result"], second["result"],
        "a job that comes twice runs once"
    );
    let idle = run("profile.rotate", json!([])).await;
    assert_eq!(idle["result"]["rewrapped"], 0);

    // The old key can go. What was sealed before reads as before, digests of numbers included.
    config::set("profile_keys", &keys(&[("k2", 2)]));
    let read = get(&people[0], &format!("{DOCUMENTS}/{id}")).await;
    assert_eq!(read.body["number"], "C01X00T47");
    let twin = submit(&people[1], passport("C01X00T47")).await;
    verify(&people[1], &twin).await;
    let seen = get(&operations(), &format!("/v1/documents/{twin}")).await;
    assert_eq!(seen.body["findings"], json!(["duplicate_number"]));
    let left = p.rows("SELECT DISTINCT kek_id, destroyed FROM data_keys ORDER BY destroyed");
    assert_eq!(
        left,
        [["k2", "0"], ["k1", "1"]],
        "a destroyed key is not touched"
    );

    let by_user = post(&people[0], "/v1/keys/rotation", json!({}), Some("rot")).await;
    assert_eq!(
        (by_user.status, by_user.code()),
        (403, "insufficient_scope")
    );
    let asked = post(&operations(), "/v1/keys/rotation", json!({}), Some("rot")).await;
    assert_eq!(asked.status, 202, "{}", asked.body);
    let again = post(&operations(), "/v1/keys/rotation", json!({}), Some("rot")).await;
    assert_eq!((again.replayed, &again.body), (true, &asked.body));
    let id = asked.body["job_id"].as_str().unwrap();
    let jobs = p.rows(&format!(
        "SELECT topic, payload FROM outbox WHERE key = '{id}'"
    ));
    assert_eq!((jobs.len(), jobs[0][0].as_str()), (1, "profile-tasks"));

    // Erasing needs no key at all.
    config::set("profile_keys", &keys(&[("k3", 3)]));
    let erased = post(
        &people[1],
        "/v1/profiles/me/erase",
        json!({"reason": "r"}),
        Some("e1"),
    )
    .await;
    assert_eq!(erased.status, 200, "{}", erased.body);
}
