//! The scoring service is not there.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use innover_kit::{
    contract::Identity,
    testing::{Platform, answer_calls, person},
};
use serde_json::{Value, json};

fn bridge() -> Identity {
    Identity {
        scope: "deliver".into(),
        ..Identity::default()
    }
}

async fn run(platform: &Platform, job: &Value) -> Value {
    let body = json!({ "jobs": [job] }).to_string();
    let reply = platform
        .send("bridge", &bridge(), "POST", "/_tasks", Some(body), None)
        .await;
    assert_eq!(reply.body["results"][0]["status"], 200, "{}", reply.body);
    reply.body["results"][0]["result"].clone()
}

fn jobs(platform: &Platform) -> Vec<Value> {
    let rows = platform
        .rows("SELECT payload FROM outbox WHERE type = 'task:cases.rescore' ORDER BY rowid");
    rows.iter()
        .map(|row| serde_json::from_str(&row[0]).unwrap())
        .collect()
}

#[tokio::test]
async fn a_case_that_cannot_be_scored_waits_for_a_later_attempt_that_is_never_missing() {
    let platform = Platform::start(
        &cases::SERVICE,
        include_str!("../migrations/0001_init.sql"),
        &["gateway", "bridge"],
    );
    let analyst = person("usr_analyst", "analyst", "case:read case:write");
    let body = Some(json!({"title": "Nobody scores this"}));
    let made = platform.call(&analyst, "POST", "/v1/cases", body).await;
    assert_eq!(
        (made.status, &made.body["score_state"]),
        (201, &json!("none"))
    );
    let path = format!("/v1/cases/{}", made.body["id"].as_str().unwrap());

    // Two attempts of the job, one of a person: each fails, says so and leaves the next.
    for failures in 1..=3_usize {
        let waiting = jobs(&platform);
        assert_eq!(waiting.len(), failures);
        if failures == 2 {
            let score = format!("{path}/score");
            let asked = platform
                .call(&analyst, "POST", &score, Some(json!({})))
                .await;
            assert_eq!(
                (asked.status, &asked.body["score_state"]),
                (202, &json!("PENDING_SCORE"))
            );
        } else {
            let result = run(&platform, &waiting[failures - 1]).await;
            assert_eq!(result["score_state"], "PENDING_SCORE");
        }
    }
    let told =
        platform.rows("SELECT payload FROM outbox WHERE type = 'score_pending' ORDER BY rowid");
    let attempts: Vec<Value> = told
        .iter()
        .map(|row| serde_json::from_str::<Value>(&row[0]).unwrap()["attempts"].clone())
        .collect();
    assert_eq!(attempts, [1, 2, 3]);
    let due: Vec<i64> = jobs(&platform)
        .iter()
        .filter_map(|job| job["eta"].as_i64())
        .collect();
    assert!(due[0] < due[1] && due[1] < due[2], "{due:?}");
    let listed = platform
        .call(&analyst, "GET", "/v1/cases?score_state=PENDING_SCORE", None)
        .await;
    assert_eq!(listed.body["data"].as_array().unwrap().len(), 1);

    // The queue loses the job; two minutes after it was due the sweep has another.
    let connection = rusqlite::Connection::open(&platform.database).unwrap();
    connection.execute_batch("DELETE FROM outbox").unwrap();
    let sweep = |n| json!({"id": format!("sweep-{n}"), "task": "cases.sweep", "args": []});
    assert_eq!(run(&platform, &sweep(1)).await["swept"], 0);
    connection
        .execute_batch("UPDATE cases SET score_at = score_at - 200000000")
        .unwrap();
    assert_eq!(run(&platform, &sweep(2)).await["swept"], 1);

    // By then scoring is back (and so is the breaker's patience).
    answer_calls(|asked| {
        let score = json!({"case_id": asked.body["case_id"], "score": 7, "reasons": [],
            "model": "late", "scored_at": "2026-11-20T12:00:00Z"});
        Some((200, score))
    });
    tokio::time::sleep(std::time::Duration::from_millis(5_100)).await;
    let result = run(&platform, &jobs(&platform)[0]).await;
    assert_eq!(result, json!({"score_state": "scored", "score": 7}));
    let case = platform.call(&analyst, "GET", &path, None).await.body;
    assert_eq!(
        (&case["score_state"], &case["score"], &case["version"]),
        (&json!("scored"), &json!(7), &json!(5))
    );
}
