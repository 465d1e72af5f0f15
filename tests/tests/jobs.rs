//! Jobs without Redis: over HTTP, from the command line, their failures, and what a crash leaves.
//! Celery's clients are in `tests/peers/celery`.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{
    process::Command,
    time::{Duration, Instant},
};

use innover_tests::{Answer, PATIENCE, Platform, innover, unique};
use reqwest::Method;
use serde_json::{Value, json};

const PROFILE: &str = "/api/profile/v1/jobs";

/// What `innover jobs …` prints, and whether it succeeded.
fn jobs(p: &Platform, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(innover())
        .arg("jobs")
        .args(arguments)
        .envs(p.environment().iter().cloned())
        .env("INNOVER_STATE_DIR", p.state())
        .env("REDIS_URL", "redis://127.0.0.1:1")
        .current_dir(innover_tests::repository())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

/// Waits until the job is in one of these states.
async fn reach(p: &Platform, path: &str, states: &[&str]) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let shown = p.get("ops_user", path).await;
        assert_eq!(shown.status, 200, "{}", shown.text);
        if states.contains(&shown.json["state"].as_str().unwrap()) {
            return shown.json;
        }
        assert!(Instant::now() < deadline, "{path}: {}", shown.text);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn post(p: &Platform, path: &str, body: Value) -> Answer {
    let request = p.request("ops_user", Method::POST, path).await;
    request.json(&body).send().await
}

fn at(answer: &Answer) -> String {
    format!("{PROFILE}/{}", answer.json["id"].as_str().unwrap())
}

#[tokio::test]
async fn a_job_over_http_runs_and_shows_its_result() {
    let p = Platform::shared().await;
    let made = post(&p, PROFILE, json!({"task": "add", "args": [20, 22]})).await;
    assert_eq!(made.status, 202, "{}", made.text);
    assert_eq!(made.json["task"], "profile.add");
    assert_eq!(made.headers["location"].to_str().unwrap(), at(&made));
    let done = reach(&p, &at(&made), &["done"]).await;
    assert_eq!(
        (&done["result"], &done["attempts"]),
        (&json!(42), &json!(1))
    );
    // By name, and the service by its other one.
    let named = json!({"task": "rule-engine.add", "kwargs": {"a": 1, "b": 2}});
    let made = post(&p, "/api/rule-engine/v1/jobs", named).await;
    assert_eq!(made.status, 202, "{}", made.text);
    let id = made.json["id"].as_str().unwrap();
    let done = reach(&p, &format!("/api/rules/v1/jobs/{id}"), &["done"]).await;
    assert_eq!(done["result"], 3);
    // It is no other service's.
    let elsewhere = p
        .get("ops_user", &format!("/api/wallet/v1/jobs/{id}"))
        .await;
    assert_eq!((elsewhere.status, elsewhere.code()), (404, "job_not_found"));
}

#[tokio::test]
async fn only_operators_may_and_what_is_no_job_is_told_so() {
    let p = Platform::shared().await;
    let add = json!({"task": "add", "args": [1, 2]});
    let user = p.post("user", PROFILE, add.clone()).await;
    assert_eq!((user.status, user.code()), (403, "insufficient_scope"));
    // What an endpoint keeps to a scope, its task does not do for everyone who may push jobs.
    let rates = json!({"day": "1999-05-07", "rates": {"USD": "0.01"}});
    for (service, body, scope) in [
        (
            "forex",
            json!({"task": "load_rates", "kwargs": rates}),
            "forex:write",
        ),
        (
            "items",
            json!({"task": "create", "args": ["lamp", "usr_1"]}),
            "item:write",
        ),
    ] {
        let path = format!("/api/{service}/v1/jobs");
        let ops = p.post("ops_user", &path, body).await;
        assert_eq!((ops.status, ops.code()), (403, "insufficient_scope"));
        assert_eq!(ops.json["scope"], scope);
    }
    let nobody = reqwest::Client::new().post(format!("{}{PROFILE}", p.url));
    assert_eq!(nobody.json(&add).send().await.unwrap().status(), 401);
    let made = post(&p, PROFILE, add).await;
    let auditor = p.get("auditor", &at(&made)).await;
    assert_eq!(auditor.status, 200, "{}", auditor.text);
    for (body, status, code) in [
        (json!({"task": "nothing"}), 422, "unknown_task"),
        (json!({"task": "wallet.add"}), 422, "unknown_task"),
        (json!({"args": [1]}), 400, "invalid_request"),
        (json!({"task": "add", "queue": "x"}), 400, "invalid_request"),
        (
            json!({"task": "add", "priority": 10}),
            400,
            "invalid_request",
        ),
        (
            json!({"task": "add", "eta": "soon"}),
            400,
            "invalid_request",
        ),
        (
            json!({"task": "add", "countdown": -1}),
            400,
            "invalid_request",
        ),
    ] {
        let answer = post(&p, PROFILE, body.clone()).await;
        assert_eq!(
            (answer.status, answer.code()),
            (status, code),
            "{body}: {}",
            answer.text
        );
    }
    let request = p.request("ops_user", Method::POST, PROFILE).await;
    let answer = request.media("application/json", "{").send().await;
    assert_eq!((answer.status, answer.code()), (400, "malformed_json"));
}

#[tokio::test]
async fn a_key_names_one_job() {
    let p = Platform::shared().await;
    let key = unique();
    let send = async |a: i64| {
        let request = p.request("ops_user", Method::POST, PROFILE).await;
        request
            .key(&key)
            .json(&json!({"task": "add", "args": [a, 2]}))
            .send()
            .await
    };
    let (first, again) = (send(1).await, send(1).await);
    assert_eq!((first.status, again.status), (202, 202));
    assert_eq!(first.json["id"], again.json["id"]);
    let other = send(7).await;
    assert_eq!(
        (other.status, other.code()),
        (422, "idempotency_key_reused")
    );
    assert_eq!(other.json["differing_fields"], json!(["/args"]));
}

#[tokio::test]
async fn a_job_waits_for_its_time_and_not_beyond_its_end() {
    let p = Platform::shared().await;
    let later = post(
        &p,
        PROFILE,
        json!({"task": "add", "args": [1, 2], "countdown": 1}),
    )
    .await;
    assert_eq!(later.json["state"], "delayed", "{}", later.text);
    assert_eq!(reach(&p, &at(&later), &["done"]).await["result"], 3);
    let late = json!({"task": "add", "args": [1, 2], "expires": "2026-01-01T00:00:00Z"});
    let late = post(&p, PROFILE, late).await;
    assert_eq!(
        reach(&p, &at(&late), &["revoked", "done"]).await["error"],
        "expired"
    );
}

#[tokio::test]
async fn what_is_given_up_can_be_tried_again_or_thrown_away() {
    let p = Platform::shared().await;
    let bad = post(&p, PROFILE, json!({"task": "add", "args": ["x"]})).await;
    let failed = reach(&p, &at(&bad), &["failed", "done"]).await;
    let error = failed["error"].as_str().unwrap();
    assert!(
        error.contains("invalid_arguments") && error.contains("missing"),
        "{error}"
    );
    let id = bad.json["id"].as_str().unwrap();
    let letters = || {
        jobs(
            &p,
            &["dead-letters", "--queue", "profile-tasks", "--limit", "500"],
        )
        .1
    };
    assert!(letters().contains(id));
    // It fails again, and is a dead letter again.
    let (good, text) = jobs(&p, &["retry", id]);
    assert!(good && text.contains("1 queued again"), "{text}");
    let deadline = Instant::now() + PATIENCE;
    while !letters().contains(id) {
        assert!(Instant::now() < deadline, "it was not tried again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (good, text) = jobs(&p, &["discard", id]);
    assert!(good && text.contains("1 discarded"), "{text}");
    assert!(!letters().contains(id));
    let (good, text) = jobs(&p, &["retry", id]);
    assert!(!good && text.contains("no dead letter matches"), "{text}");
    let (good, text) = jobs(&p, &["discard"]);
    assert!(!good && text.contains("--all"), "{text}");
}

#[tokio::test]
async fn operators_push_look_and_wait() {
    let p = Platform::shared().await;
    let (good, text) = jobs(&p, &["push", "profile.add", "1", "2", "--wait", "20"]);
    assert!(good && text.ends_with("\n3\n"), "{text}");
    let id = text.lines().next().unwrap();
    let shown: Value = serde_json::from_str(&jobs(&p, &["show", id]).1).unwrap();
    assert_eq!(
        (&shown["state"], &shown["result"]),
        (&json!("done"), &json!(3))
    );
    assert!(jobs(&p, &["list", "--limit", "1000"]).1.contains(id));
    assert!(jobs(&p, &["queues"]).1.contains("profile-tasks"));
    let seen = jobs(&p, &["inspect"]).1;
    assert!(seen.contains("rules-tasks, rule-engine-tasks") && seen.contains("payment.confirm"));
    let (good, text) = jobs(&p, &["push", "payment.confirm", "nope", "--wait", "20"]);
    assert!(!good && text.contains("payment_not_found"), "{text}");
    let (good, text) = jobs(&p, &["push", "profile.fly"]);
    assert!(
        !good && text.contains("has no task `profile.fly`"),
        "{text}"
    );
    let (good, text) = jobs(
        &p,
        &[
            "push",
            "echo",
            "hello",
            "--queue",
            "items-tasks",
            "--wait",
            "20",
        ],
    );
    assert!(good && text.ends_with("\"hello\"\n"), "{text}");
    // One id is one job and one effect.
    let id = unique();
    for expected in [true, false] {
        let name = unique();
        let arguments = [
            "push",
            "items.create",
            &name,
            "owner-1",
            "--id",
            &id,
            "--wait",
            "20",
        ];
        let (good, text) = jobs(&p, &arguments);
        assert!(
            good && text.contains("was there before") != expected,
            "{text}"
        );
        let made = format!("SELECT count(*) FROM items WHERE name = '{name}'");
        assert_eq!(p.number("items", &made), i64::from(expected));
    }
}

#[tokio::test]
async fn an_urgent_job_goes_first() {
    let p = Platform::shared().await;
    // Both places of the queue are taken.
    for _ in 0..2 {
        post(
            &p,
            "/api/audit/v1/jobs",
            json!({"task": "slow", "args": [1.5]}),
        )
        .await;
    }
    let mut ids = Vec::new();
    for priority in [9, 5, 0] {
        let body = json!({"task": "slow", "args": [0.2], "priority": priority});
        let made = post(&p, "/api/audit/v1/jobs", body).await;
        ids.push(made.json["id"].as_str().unwrap().to_owned());
    }
    let mut ended = Vec::new();
    for id in ids.iter().rev() {
        let done = reach(&p, &format!("/api/audit/v1/jobs/{id}"), &["done"]).await;
        ended.push(done["started_at"].as_str().unwrap().to_owned());
    }
    assert!(ended.is_sorted(), "{ended:?}");
}

#[tokio::test]
async fn jobs_survive_kill_9_and_are_pushed_while_nothing_runs() {
    let mut p = Platform::start().await;
    let run = unique();
    let push = |p: &Platform, n: usize| {
        let name = format!("{run}-{n}");
        let (good, text) = jobs(p, &["push", "items.create", &name, "owner-1"]);
        assert!(good, "{text}");
    };
    for n in 0..30 {
        push(&p, n);
    }
    p.kill();
    for n in 30..40 {
        push(&p, n);
    }
    p.run();
    let made = format!("SELECT count(*) FROM items WHERE name LIKE '{run}-%'");
    let deadline = Instant::now() + PATIENCE;
    while p.number("items", &made) < 40 {
        assert!(
            Instant::now() < deadline,
            "{} of 40",
            p.number("items", &made)
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let twice = format!("SELECT count(DISTINCT name) FROM items WHERE name LIKE '{run}-%'");
    assert_eq!(
        (p.number("items", &made), p.number("items", &twice)),
        (40, 40)
    );
}
