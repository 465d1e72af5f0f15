//! `serve` from outside: tokens, bodies, problems, and deliveries whose effects happen once, on a
//! real SQLite database.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::{collections::BTreeMap, sync::OnceLock};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use innover_contract::{Identity, Keyring, service_token};
use innover_kit::{
    Answer, Batch, Body, Code, Cx, Db, Event, Expect, Failure, Job, Result, Service,
    events::{Handled, Handling},
    jobs::{Running, Task},
    params,
};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa_axum::{router::OpenApiRouter, routes};

#[derive(Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
struct Greeting {
    name: String,
}

#[utoipa::path(post, path = "/v1/greetings", request_body = Greeting, responses((status = 201)))]
async fn greet(cx: Cx, body: Body<Greeting>) -> Result<Answer> {
    cx.require("profile:write")?;
    Answer::json(
        201,
        &json!({"hello": body.value.name, "request_id": cx.request_id()}),
    )
}

fn api() -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(greet))
}

/// Adds `data.n` to a counter; `n` = 0 is refused for good, `n` = 13 loses a race each time.
fn counted<'a>(_: &'a Cx, _: &'a Db, events: &'a [Event]) -> Handling<'a> {
    Box::pin(async move {
        let mut handled = Handled::default();
        let mut sum = 0;
        let mut guard = 1;
        for event in events {
            match event.data["n"].as_i64() {
                Some(0) | None => {
                    let mut failure = Failure::new(Code::InvalidRequest, "n must not be 0");
                    failure.0.status = 422;
                    handled.refused.insert(event.id.clone(), failure);
                }
                Some(13) => guard = 0,
                Some(n) => sum += n,
            }
        }
        handled.batch.step(
            "counter",
            "UPDATE counter SET n = n + $1 WHERE id = CAST($2 AS BIGINT)",
            params![sum, guard],
            Expect::Rows(1),
        );
        Ok(handled)
    })
}

const TALLY: Task = Task::new("greeter.tally", &["quietly?"], tally).batch(20);
const PEEK: Task = Task::new("greeter.peek", &[], peek);
const LINGER: Task = Task::new("greeter.linger", &["n"], linger)
    .deadline_s(30)
    .attempts(3);

/// Reads the tally; nothing changes.
fn peek<'a>(_: &'a Cx, db: &'a Db, jobs: &'a [Job]) -> Running<'a> {
    Box::pin(async move {
        let mut handled = Handled::default();
        let rows = db
            .query("SELECT n FROM counter WHERE id = 2", params![])
            .await?;
        for job in jobs {
            handled
                .results
                .insert(job.id.clone(), json!(rows[0].int(0)?));
        }
        Ok(handled)
    })
}

/// Begins a transaction of its own, as a handler that seeds a table does, and does not come back.
fn linger<'a>(_: &'a Cx, _: &'a Db, jobs: &'a [Job]) -> Running<'a> {
    #[derive(Deserialize)]
    struct Linger {
        n: i64,
    }
    Box::pin(async move {
        let mut handled = Handled::default();
        let mut own = Db::open().await?;
        for (_, Linger { n }) in LINGER.each(jobs, &mut handled) {
            own.lock().await?;
            innover_kit::call::sleep_ms(20_000).await;
            handled.batch.step(
                "counter",
                "UPDATE counter SET n = n + $1 WHERE id = 2",
                params![n],
                Expect::Rows(1),
            );
        }
        Ok(handled)
    })
}

fn tally<'a>(_: &'a Cx, _: &'a Db, jobs: &'a [Job]) -> Running<'a> {
    Box::pin(async move {
        let mut batch = Batch::new();
        let n = i64::try_from(jobs.len()).unwrap();
        batch.step(
            "counter",
            "UPDATE counter SET n = n + $1 WHERE id = 2",
            params![n],
            Expect::Rows(1),
        );
        let results = jobs
            .iter()
            .map(|j| (j.id.clone(), json!({"ran": j.id})))
            .collect();
        Ok(Handled {
            batch,
            results,
            ..Handled::default()
        })
    })
}

static SERVICE: Service = Service {
    events: &[("count.up", counted)],
    tasks: &[TALLY, PEEK, LINGER],
    migration: Some(innover_kit::Migration(2, "later")),
    ..Service::new("greeter", api)
};

struct World {
    _folder: tempfile::TempDir,
    file: std::path::PathBuf,
    rings: BTreeMap<&'static str, Keyring>,
}

/// One database and one keyring for this binary: a component's configuration is its process's.
fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("greeter.db");
        rusqlite::Connection::open(&file)
            .unwrap()
            .execute_batch(
                "CREATE TABLE counter (id BIGINT PRIMARY KEY, n BIGINT NOT NULL);
                 INSERT INTO counter VALUES (1, 0), (2, 0);
                 CREATE TABLE inbox (id TEXT PRIMARY KEY, handled_at BIGINT NOT NULL, result TEXT);
                 CREATE TABLE schema_migrations (version BIGINT PRIMARY KEY, name TEXT);
                 INSERT INTO schema_migrations VALUES (1, 'init');",
            )
            .unwrap();
        let names = ["greeter", "gateway", "bridge", "wallet"];
        let secrets: BTreeMap<String, [u8; 32]> = names
            .iter()
            .zip(1_u8..)
            .map(|(n, b)| ((*n).to_owned(), [b; 32]))
            .collect();
        let all: Vec<String> = names.map(str::to_owned).into();
        let rings: BTreeMap<_, _> = names.map(|n| (n, Keyring::build(n, &all, &secrets))).into();
        innover_kit::config::set("keyring", &rings["greeter"].encode());
        innover_kit::config::set("database_url", &format!("sqlite:{}", file.display()));
        World {
            _folder: folder,
            file,
            rings,
        }
    })
}

fn token(caller: &str, callee: &str, scope: &str) -> String {
    let identity = Identity {
        sub: "usr_1".into(),
        preferred_username: "user".into(),
        scope: scope.into(),
        ..Identity::default()
    };
    service_token::mint(&world().rings[caller], caller, callee, &identity, "req").unwrap()
}

async fn send(
    method: Method,
    path: &str,
    token: Option<&str>,
    body: &str,
) -> (StatusCode, Value, http::HeaderMap) {
    world();
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(
            "content-type",
            if path == "/_events" {
                innover_contract::event::CLOUDEVENTS_BATCH
            } else {
                "application/json"
            },
        )
        .header("x-request-id", "my-request");
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let request = request
        .body(Full::new(Bytes::from(body.to_owned())))
        .unwrap();
    let response = innover_kit::serve(&SERVICE, request).await;
    let (status, headers) = (response.status(), response.headers().clone());
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (
        status,
        serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        headers,
    )
}

async fn greet_with(token: Option<&str>) -> StatusCode {
    send(Method::POST, "/v1/greetings", token, r#"{"name":"x"}"#)
        .await
        .0
}

#[tokio::test]
async fn only_a_service_token_for_this_service_opens_it() {
    let good = token("gateway", "greeter", "profile:write");
    assert_eq!(greet_with(Some(&good)).await, StatusCode::CREATED);
    assert_eq!(greet_with(None).await, StatusCode::UNAUTHORIZED);
    let for_another = token("gateway", "wallet", "profile:write");
    assert_eq!(
        greet_with(Some(&for_another)).await,
        StatusCode::UNAUTHORIZED
    );
    // Signed with a key wallet holds, but in gateway's name.
    let identity = Identity {
        scope: "profile:write".into(),
        ..Identity::default()
    };
    let forged = service_token::mint(
        &world().rings["wallet"],
        "gateway",
        "greeter",
        &identity,
        "r",
    )
    .unwrap();
    assert_eq!(greet_with(Some(&forged)).await, StatusCode::UNAUTHORIZED);
    let mut cut = good.clone();
    cut.pop();
    for bad in [cut.as_str(), "", "a.b.c", "x"] {
        assert_eq!(
            greet_with(Some(bad)).await,
            StatusCode::UNAUTHORIZED,
            "{bad}"
        );
    }
    let (status, problem, headers) = send(
        Method::POST,
        "/v1/greetings",
        Some(&token("gateway", "greeter", "profile:read")),
        r#"{"name":"x"}"#,
    )
    .await;
    assert_eq!(
        (status, &problem["code"], &problem["scope"]),
        (
            StatusCode::FORBIDDEN,
            &json!("insufficient_scope"),
            &json!("profile:write")
        )
    );
    assert!(
        headers["www-authenticate"]
            .to_str()
            .unwrap()
            .contains("insufficient_scope")
    );
}

#[tokio::test]
async fn a_problem_names_the_request_and_what_is_wrong() {
    let token = token("gateway", "greeter", "profile:write");
    let (status, problem, headers) =
        send(Method::POST, "/v1/greetings", Some(&token), r#"{"nam":1}"#).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert_eq!(problem["request_id"], "my-request");
    assert_eq!(problem["instance"], "/v1/greetings");
    assert_eq!(problem["param"], "/nam");
    assert_eq!(headers["content-type"], "application/problem+json");
    assert_eq!(headers["x-request-id"], "my-request");
    let (status, problem, _) = send(Method::GET, "/v1/greetings", Some(&token), "").await;
    assert_eq!(
        (status, &problem["code"]),
        (StatusCode::METHOD_NOT_ALLOWED, &json!("method_not_allowed"))
    );
    let (status, problem, _) = send(Method::GET, "/v1/nothing", Some(&token), "").await;
    assert_eq!(
        (status, &problem["code"]),
        (StatusCode::NOT_FOUND, &json!("not_found"))
    );
    let large = format!(r#"{{"name":"{}"}}"#, "x".repeat(1 << 20));
    let (status, problem, _) = send(Method::POST, "/v1/greetings", Some(&token), &large).await;
    assert_eq!(
        (status, &problem["code"]),
        (StatusCode::PAYLOAD_TOO_LARGE, &json!("body_too_large"))
    );
}

#[tokio::test]
async fn health_is_open_and_readiness_names_the_missing_migration() {
    let (status, health, _) = send(Method::GET, "/health", None, "").await;
    assert_eq!(
        (status, &health["service"], &health["user"]),
        (StatusCode::OK, &json!("svc-greeter"), &Value::Null)
    );
    let token = token("gateway", "greeter", "");
    let (_, health, _) = send(Method::GET, "/health", Some(&token), "").await;
    assert_eq!(health["user"]["username"], "user");
    let (status, problem, _) = send(Method::GET, "/readiness", None, "").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(
        problem["detail"].as_str().unwrap().contains("0002_later"),
        "{problem}"
    );
}

fn event(id: &str, key: &str, n: i64) -> Value {
    json!({"specversion": "1.0", "id": id, "source": "/innover/x", "type": "count.up",
           "subject": key, "partitionkey": key, "time": "2026-10-30T12:00:00Z", "data": {"n": n}})
}

async fn deliver(events: &[Value]) -> Vec<u16> {
    let token = token("bridge", "greeter", service_token::SCOPE_DELIVER);
    let (status, answers, _) = send(
        Method::POST,
        "/_events",
        Some(&token),
        &json!(events).to_string(),
    )
    .await;
    assert_eq!(status, StatusCode::OK, "{answers}");
    let results = answers["results"].as_array().unwrap();
    results
        .iter()
        .map(|r| u16::try_from(r["status"].as_u64().unwrap()).unwrap())
        .collect()
}

async fn counter(id: i64) -> i64 {
    let db = Db::open_file(&world().file).unwrap();
    db.query("SELECT n FROM counter WHERE id = $1", params![id])
        .await
        .unwrap()[0]
        .int(0)
        .unwrap()
}

#[tokio::test]
async fn deliveries_need_the_deliver_scope_of_the_bridge_or_the_gateway() {
    for (caller, scope) in [("wallet", "deliver"), ("bridge", "profile:write")] {
        let token = token(caller, "greeter", scope);
        let (status, ..) = send(Method::POST, "/_events", Some(&token), "[]").await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{caller} {scope}");
    }
}

#[tokio::test]
async fn events_take_effect_once_and_trouble_stays_with_its_own() {
    let before = counter(1).await;
    let batch = [
        event("e1", "a", 1),
        event("e2", "b", 2),
        event("e3", "c", 0),
        event("e4", "a", 4),
    ];
    assert_eq!(deliver(&batch).await, [200, 200, 422, 200]);
    assert_eq!(counter(1).await - before, 7);
    assert_eq!(
        deliver(&batch).await,
        [200, 200, 422, 200],
        "again: the same answers"
    );
    assert_eq!(counter(1).await - before, 7, "and no second effect");
    // One that cannot commit does not take the others down, and holds up only its own key.
    let batch = [
        event("e5", "k", 10),
        event("e6", "m", 13),
        event("e7", "m", 100),
        event("e8", "n", 20),
    ];
    assert_eq!(deliver(&batch).await, [200, 409, 409, 200]);
    assert_eq!(counter(1).await - before, 37);
    let unknown = json!({"specversion": "1.0", "id": "e9", "source": "external", "type": "other",
                         "time": "2026-10-30T12:00:00Z", "data": {}});
    assert_eq!(deliver(&[unknown]).await, [404]);
}

/// The answers of a service to a delivery.
async fn run(jobs: Value) -> Value {
    let token = token("bridge", "greeter", service_token::SCOPE_DELIVER);
    let body = json!({ "jobs": jobs }).to_string();
    let (_, answer, _) = send(Method::POST, "/_tasks", Some(&token), &body).await;
    answer["results"].clone()
}

async fn is_marked(id: &str) -> bool {
    let db = Db::open_file(&world().file).unwrap();
    let sql = "SELECT id FROM inbox WHERE id = $1";
    !db.query(sql, params![format!("task:{id}")])
        .await
        .unwrap()
        .is_empty()
}

/// Tests that look at what others change take turns.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

#[tokio::test]
async fn a_job_runs_once_and_returns_its_result_again() {
    let _turn = TURN.lock().await;
    let before = counter(2).await;
    let jobs =
        json!([{"id": "j1", "task": "greeter.tally"}, {"id": "j2", "task": "greeter.tally"}]);
    let first = run(jobs.clone()).await;
    assert_eq!(
        (&first[0]["status"], &first[0]["result"]),
        (&json!(200), &json!({"ran": "j1"}))
    );
    assert_eq!(run(jobs).await, first);
    assert_eq!(counter(2).await - before, 2);
    assert!(is_marked("j1").await && is_marked("j2").await);
    let unknown = run(json!([{"id": "j5", "task": "greeter.nothing"}])).await;
    assert_eq!(
        (&unknown[0]["status"], &unknown[0]["code"]),
        (&json!(422), &json!("unknown_task"))
    );
}

#[tokio::test]
async fn a_job_that_changed_nothing_leaves_no_mark_and_runs_again() {
    let _turn = TURN.lock().await;
    let peek = json!([{"id": "p1", "task": "greeter.peek"}]);
    let before = run(peek.clone()).await[0]["result"].as_i64().unwrap();
    assert!(!is_marked("p1").await);
    run(json!([{"id": "p2", "task": "greeter.tally"}])).await;
    assert_eq!(run(peek).await[0]["result"], before + 1);
}

#[tokio::test]
async fn a_job_whose_arguments_do_not_fit_is_refused_and_the_others_run() {
    let _turn = TURN.lock().await;
    let before = counter(2).await;
    let answers = run(json!([
        {"id": "a1", "task": "greeter.tally", "args": [true]},
        {"id": "a2", "task": "greeter.tally", "args": [1, 2]},
        {"id": "a3", "task": "greeter.tally", "kwargs": {"loudly": 1}},
    ]))
    .await;
    let said: Vec<_> = (0..3)
        .map(|i| (&answers[i]["status"], &answers[i]["error"]))
        .collect();
    let wrong = "invalid_arguments: greeter.tally() ";
    assert_eq!(
        said,
        [
            (&json!(200), &Value::Null),
            (
                &json!(422),
                &json!(format!(
                    "{wrong}takes from 0 to 1 positional arguments but 2 were given"
                ))
            ),
            (
                &json!(422),
                &json!(format!(
                    "{wrong}got an unexpected keyword argument 'loudly'"
                ))
            ),
        ]
    );
    assert_eq!(counter(2).await - before, 1);
}

#[tokio::test]
async fn a_job_is_told_to_stop_and_nothing_of_it_stays() {
    let _turn = TURN.lock().await;
    let before = counter(2).await;
    let started = std::time::Instant::now();
    let stopped = run(json!([
        {"id": "l1", "task": "greeter.linger", "args": [1], "soft_limit_ms": 50}
    ]))
    .await;
    assert_eq!(
        (&stopped[0]["status"], &stopped[0]["code"]),
        (&json!(504), &json!("soft_time_limit"))
    );
    assert!(started.elapsed().as_secs() < 15, "it was not waited for");
    assert!(!is_marked("l1").await);
    let slow = run(json!([{"id": "l2", "task": "greeter.slow", "soft_limit_ms": 20}])).await;
    assert_eq!(slow[0]["code"], "soft_time_limit");
    // Its transaction is gone: others write at once.
    run(json!([{"id": "l3", "task": "greeter.tally"}])).await;
    assert_eq!(counter(2).await - before, 1);
}
