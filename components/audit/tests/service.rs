//! The trail as auditors see it, and what becomes of it when somebody lays hands on its database.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use innover_kit::{
    contract::Identity,
    testing::{Platform, Reply, person},
};
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

static PLATFORM: OnceCell<Platform> = OnceCell::const_new();
/// One test at a time: the trail is one, and each begins with an empty one.
static TURN: Mutex<()> = Mutex::const_new(());

async fn platform() -> &'static Platform {
    PLATFORM
        .get_or_init(|| async {
            Platform::start(
                &audit::SERVICE,
                include_str!("../migrations/0001_init.sql"),
                &["gateway", "bridge"],
            )
        })
        .await
}

async fn fresh() -> (&'static Platform, MutexGuard<'static, ()>) {
    let turn = TURN.lock().await;
    let platform = platform().await;
    touch("DELETE FROM records; DELETE FROM inbox; UPDATE head SET seq = 0, hash = ''").await;
    (platform, turn)
}

/// What nothing of the service does.
async fn touch(sql: &str) {
    let connection = rusqlite::Connection::open(&platform().await.database).unwrap();
    connection.execute_batch(sql).unwrap();
}

fn auditor() -> Identity {
    person("usr_auditor", "auditor", "audit:read")
}

async fn get(path: &str) -> Reply {
    platform().await.call(&auditor(), "GET", path, None).await
}

fn event(n: i64) -> Value {
    let kinds = ["payment.initiated", "payment.completed", "score_pending"];
    json!({"specversion": "1.0", "id": format!("event-{n:04}"), "type": kinds[(n % 3) as usize],
           "source": "/innover/payment", "subject": format!("pay_{}", n % 5),
           "partitionkey": format!("pay_{}", n % 5), "time": format!("2026-11-20T12:00:{:02}Z", n % 60),
           "correlationid": format!("req-{n}"), "authid": format!("usr_{}", n % 2),
           "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
           "data": {"n": n, "text": "ü \"quoted\"\n", "large": 9_007_199_254_740_993_i64}})
}

async fn deliver(events: &[Value]) -> Vec<u64> {
    let bridge = Identity {
        scope: "deliver".into(),
        ..Identity::default()
    };
    let reply = platform()
        .await
        .send_as(
            "bridge",
            &bridge,
            "/_events",
            "application/cloudevents-batch+json",
            json!(events).to_string(),
        )
        .await;
    let results = reply.body["results"].as_array().unwrap();
    results
        .iter()
        .map(|r| r["status"].as_u64().unwrap())
        .collect()
}

async fn recorded(count: i64) {
    let events: Vec<Value> = (1..=count).map(event).collect();
    for part in events.chunks(100) {
        assert!(deliver(part).await.iter().all(|status| *status == 200));
    }
}

#[tokio::test]
async fn every_event_of_a_delivery_is_one_row_in_order_however_often_it_comes() {
    let (platform, _turn) = fresh().await;
    let mut events: Vec<Value> = (1..=10).map(event).collect();
    deliver(&events).await;
    deliver(&events).await;
    events.push(event(11));
    events.push(event(11));
    deliver(&events).await;
    let rows = platform.rows("SELECT seq, event_id FROM records ORDER BY seq");
    let want: Vec<Vec<String>> = (1..=11)
        .map(|n| vec![n.to_string(), format!("event-{n:04}")])
        .collect();
    assert_eq!(rows, want);
    let found = get("/v1/audit/verify").await.body;
    assert_eq!(
        (&found["ok"], &found["complete"], &found["checked"]),
        (&json!(true), &json!(true), &json!(11)),
        "{found}"
    );
}

#[tokio::test]
async fn deliveries_at_the_same_moment_make_one_chain() {
    let (_, _turn) = fresh().await;
    let get_in = |part: i64| {
        let events: Vec<Value> = (part * 20..part * 20 + 20).map(event).collect();
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().unwrap();
        // What loses the race too often is delivered again, as the bridge does.
        let mut tries = 0..50;
        let got_in = tries.any(|_| {
            let statuses = runtime.block_on(deliver(&events));
            statuses.iter().all(|status| *status == 200)
        });
        assert!(got_in, "it never got in");
    };
    std::thread::scope(|scope| {
        for part in 0..6 {
            scope.spawn(move || get_in(part));
        }
    });
    let found = get("/v1/audit/verify").await.body;
    assert_eq!(
        (&found["ok"], &found["head"]["seq"]),
        (&json!(true), &json!(120)),
        "{found}"
    );
}

#[tokio::test]
async fn the_trail_is_searched_by_actor_subject_action_and_time() {
    let (_, _turn) = fresh().await;
    recorded(30).await;
    let numbers = async |query: &str| -> Vec<i64> {
        let found = get(&format!("/v1/audit?{query}")).await;
        assert_eq!(found.status, 200, "{}", found.body);
        let rows = found.body["data"].as_array().unwrap();
        rows.iter()
            .map(|row| row["seq"].as_i64().unwrap())
            .collect()
    };
    assert_eq!(numbers("limit=3").await, [30, 29, 28]);
    assert_eq!(numbers("subject=pay_3").await, [28, 23, 18, 13, 8, 3]);
    assert_eq!(numbers("subject=pay_3&actor=usr_0").await, [28, 18, 8]);
    assert_eq!(
        numbers("action=score_pending&actor=usr_1").await,
        [29, 23, 17, 11, 5]
    );
    assert_eq!(
        numbers("actor=usr_1&from=2026-11-20T12:00:25Z&to=2026-11-20T12:00:29Z").await,
        [27, 25]
    );
    assert_eq!(numbers("subject=nobody").await, [0_i64; 0]);
    let bad = get("/v1/audit?from=yesterday").await;
    assert_eq!((bad.status, &bad.body["param"]), (400, &json!("from")));

    let first = get("/v1/audit?subject=pay_3&limit=4").await.body;
    assert_eq!(first["data"][0]["data"]["large"], 9_007_199_254_740_993_i64);
    assert_eq!(
        first["data"][0]["trace_id"],
        "4bf92f3577b34da6a3ce929d0e0e4736"
    );
    // Rows that come in between do not move the page.
    deliver(&[event(33)]).await;
    let cursor = first["next_cursor"].as_str().unwrap();
    assert_eq!(
        numbers(&format!("subject=pay_3&limit=4&cursor={cursor}")).await,
        [8, 3]
    );
}

#[tokio::test]
async fn a_laid_hand_is_found_at_its_row() {
    for (sql, seq) in [
        ("UPDATE records SET data = '{}' WHERE seq = 7", 7),
        ("UPDATE records SET actor = 'usr_9' WHERE seq = 30", 30),
        ("DELETE FROM records WHERE seq = 4", 4),
        ("DELETE FROM records WHERE seq > 20", 21),
        (
            "DELETE FROM records WHERE seq > 20;
             UPDATE head SET seq = 20, hash = 'of another'",
            20,
        ),
        (
            "UPDATE records SET seq = 99 WHERE seq = 5; UPDATE records SET seq = 5 WHERE seq = 6;
             UPDATE records SET seq = 6 WHERE seq = 99",
            5,
        ),
        (
            "INSERT INTO records SELECT 31, 'made-up', source, action, subject, actor, occurred_at,
                 recorded_at, correlation_id, trace_id, data, hash FROM records WHERE seq = 30;
             UPDATE head SET seq = 31",
            31,
        ),
    ] {
        let (_, _turn) = fresh().await;
        recorded(30).await;
        touch(sql).await;
        let found = get("/v1/audit/verify").await.body;
        assert_eq!(
            (&found["ok"], &found["complete"], &found["fault"]["seq"]),
            (&json!(false), &json!(false), &json!(seq)),
            "{sql}: {found}"
        );
    }
}

#[tokio::test]
async fn a_trail_that_was_rewritten_whole_does_not_have_the_head_that_was_noted() {
    let (_, _turn) = fresh().await;
    recorded(10).await;
    let noted = get("/v1/audit/verify").await.body["head"].clone();
    let noted = format!("10:{}", noted["hash"].as_str().unwrap());
    deliver(&[event(11)]).await;
    let path = format!("/v1/audit/verify?head={noted}");
    assert_eq!(get(&path).await.body["ok"], true);
    touch("DELETE FROM records; DELETE FROM inbox; UPDATE head SET seq = 0, hash = ''").await;
    let mut forged: Vec<Value> = (1..=11).map(event).collect();
    forged[2]["authid"] = "usr_9".into();
    deliver(&forged).await;
    assert_eq!(get("/v1/audit/verify").await.body["ok"], true);
    let found = get(&path).await.body;
    assert_eq!(
        (&found["ok"], &found["fault"]["seq"]),
        (&json!(false), &json!(10))
    );
}

#[tokio::test]
async fn a_long_trail_is_verified_in_steps() {
    let (_, _turn) = fresh().await;
    recorded(50).await;
    let found = get("/v1/audit/verify?after=20").await.body;
    assert_eq!(
        (
            &found["complete"],
            &found["checked"],
            &found["through"]["seq"]
        ),
        (&json!(true), &json!(30), &json!(50))
    );
    let beyond = get("/v1/audit/verify?after=51").await;
    assert_eq!(
        (beyond.status, &beyond.body["param"]),
        (400, &json!("after"))
    );
    touch("UPDATE records SET data = '{}' WHERE seq = 7").await;
    assert_eq!(get("/v1/audit/verify?after=20").await.body["ok"], true);
    assert_eq!(get("/v1/audit/verify").await.body["fault"]["seq"], 7);
}

#[tokio::test]
async fn only_auditors_read_and_nobody_writes() {
    let (platform, _turn) = fresh().await;
    recorded(1).await;
    for path in ["/v1/audit", "/v1/audit/export", "/v1/audit/verify"] {
        for (who, code) in [
            (
                person("usr_a", "analyst", "case:read"),
                "insufficient_scope",
            ),
            (person("usr_u", "user", "audit:read"), "not_owner"),
        ] {
            let refused = platform.call(&who, "GET", path, None).await;
            assert_eq!((refused.status, refused.code()), (403, code), "{path}");
        }
        for method in ["POST", "PUT", "DELETE", "PATCH"] {
            let admin = person("usr_admin", "admin", "audit:read");
            let refused = platform.call(&admin, method, path, Some(json!({}))).await;
            assert_eq!(refused.status, 405, "{method} {path}");
        }
    }
    // Nor does the code: it has no statement that changes or removes a row.
    let sql = include_str!("../src/store.rs").to_lowercase();
    for statement in [
        "update records",
        "delete from",
        "do update",
        "drop ",
        "replace into",
    ] {
        assert!(!sql.contains(statement), "{statement}");
    }
}
