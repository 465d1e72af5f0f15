//! More payments wait for frozen wallets than one sweep takes.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use innover_kit::{
    contract::Identity,
    testing::{Platform, person},
};
use serde_json::json;

#[tokio::test]
async fn payments_that_wait_for_long_do_not_hide_the_others_from_the_sweep() {
    let platform = Platform::start(
        &cases::SERVICE,
        include_str!("../migrations/0001_init.sql"),
        &["gateway", "bridge"],
    );
    let analyst = person("usr_analyst", "analyst", "case:read case:write");
    let body = Some(json!({"title": "The first of many"}));
    let made = platform.call(&analyst, "POST", "/v1/cases", body).await;
    assert_eq!(made.status, 201, "{}", made.body);
    // 200 decided long ago, and one a little later.
    let connection = rusqlite::Connection::open(&platform.database).unwrap();
    connection
        .execute_batch("CREATE TEMP TABLE one AS SELECT * FROM cases; DELETE FROM outbox")
        .unwrap();
    for n in 0..=200 {
        connection
            .execute(
                "UPDATE one SET id = 'case_' || ?1, payment_id = 'pay_' || ?1, state = 'approved',
                 payment_follows = 'asked', decided_at = ?1",
                [n],
            )
            .unwrap();
        connection
            .execute_batch("INSERT INTO cases SELECT * FROM one")
            .unwrap();
    }
    let bridge = Identity {
        scope: "deliver".into(),
        ..Identity::default()
    };
    let of_the_latest = "SELECT id FROM outbox WHERE type = 'task:cases.decide_payment'
         AND payload LIKE '%\"case_200\"%'";
    // Each comes to the latest one with a chance of a half.
    for n in 0..120 {
        let job = json!({"id": format!("sweep-{n}"), "task": "cases.sweep", "args": []});
        let body = Some(json!({ "jobs": [job] }).to_string());
        let reply = platform
            .send("bridge", &bridge, "POST", "/_tasks", body, None)
            .await;
        assert_eq!(reply.body["results"][0]["status"], 200, "{}", reply.body);
        if !platform.rows(of_the_latest).is_empty() {
            return;
        }
    }
    panic!("120 sweeps did not come to the latest case");
}
