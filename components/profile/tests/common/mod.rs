//! What the tests of this service share: the service on a database of its own, its callers, its
//! queue, and the schemas of its events.
#![allow(dead_code, reason = "every test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use base64::{Engine, engine::general_purpose::STANDARD};
use innover_kit::config;
use innover_kit::contract::Identity;
use innover_kit::testing::{Platform, Reply, person};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

static PLATFORM: OnceCell<Platform> = OnceCell::const_new();

/// One key per id, made of its byte.
pub fn keys(ids: &[(&str, u8)]) -> String {
    let keys = ids.iter();
    let texts: Vec<String> = keys
        .map(|(id, byte)| format!("{id}:{}", STANDARD.encode([*byte; 32])))
        .collect();
    texts.join(",")
}

pub async fn platform() -> &'static Platform {
    PLATFORM
        .get_or_init(|| async {
            config::set("profile_keys", &keys(&[("k1", 1)]));
            config::set("kyc_review", "rules");
            Platform::start(
                &profile::SERVICE,
                include_str!("../../migrations/0001_init.sql"),
                &["gateway"],
            )
        })
        .await
}

pub fn user(sub: &str) -> Identity {
    person(sub, "user", "profile:read profile:write")
}

pub fn admin() -> Identity {
    person("usr_admin", "admin", "profile:read profile:write")
}

pub fn operations() -> Identity {
    person("usr_ops", "ops_user", "profile:read")
}

pub async fn put(who: &Identity, name: &str) -> Reply {
    let body = json!({"display_name": name});
    call(who, "PUT", "/v1/profiles/me", Some(body)).await
}

pub async fn get(who: &Identity, path: &str) -> Reply {
    call(who, "GET", path, None).await
}

pub async fn call(who: &Identity, method: &str, path: &str, body: Option<Value>) -> Reply {
    platform().await.call(who, method, path, body).await
}

pub async fn post(who: &Identity, path: &str, body: Value, key: Option<&str>) -> Reply {
    let body = Some(body.to_string());
    let platform = platform().await;
    platform.send("gateway", who, "POST", path, body, key).await
}

pub const DOCUMENTS: &str = "/v1/profiles/me/documents";

/// A passport that rules verify.
pub fn passport(number: &str) -> Value {
    json!({"type": "passport", "country": "DE", "number": number, "expires_on": "2099-12-31",
           "content_base64": STANDARD.encode(b"%PDF-1.7 a scan")})
}

pub fn proof_of_address() -> Value {
    json!({"type": "proof_of_address", "country": "DE",
           "content_base64": STANDARD.encode(b"\xff\xd8\xff a bill")})
}

/// Submits a document; returns its id.
pub async fn submit(who: &Identity, body: Value) -> String {
    let reply = post(who, DOCUMENTS, body, None).await;
    assert_eq!(reply.status, 202, "{}", reply.body);
    assert_eq!(reply.body["state"], "submitted");
    reply.body["id"].as_str().unwrap().to_owned()
}

/// Delivers a job as the bridge does; returns what the service says of it.
pub async fn run(task: &str, args: Value) -> Value {
    let id = innover_kit::ids::new_uuid();
    deliver(json!({"id": id, "task": task, "args": args})).await
}

pub async fn deliver(job: Value) -> Value {
    let mut bridge = person("bridge", "", "deliver");
    bridge.roles.clear();
    let reply = post(&bridge, "/_tasks", json!({ "jobs": [job] }), None).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.body["results"][0].clone()
}

/// The check of a document; returns the document as its owner sees it.
pub async fn verify(who: &Identity, id: &str) -> Value {
    let answer = run("profile.verify_kyc", json!([id])).await;
    assert_eq!(answer["status"], 200, "{answer}");
    let reply = get(who, &format!("{DOCUMENTS}/{id}")).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.body
}

pub async fn tier(who: &Identity) -> i64 {
    let reply = get(who, "/v1/profiles/me").await;
    reply.body["kyc_tier"].as_i64().unwrap()
}

/// Everything this process has written into the database, whichever file it is in.
pub async fn stored_bytes() -> Vec<u8> {
    let file = &platform().await.database;
    let mut all = std::fs::read(file).unwrap();
    let wal = file.with_extension("db-wal");
    all.extend(std::fs::read(wal).unwrap_or_default());
    all
}

pub fn contains(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}

/// Every event in the outbox fits its schema: the fields it must have, no others, each of its type.
pub async fn assert_events_fit_their_schemas() -> usize {
    let rows = platform()
        .await
        .rows("SELECT type, payload FROM outbox WHERE type NOT LIKE 'task:%'");
    for row in &rows {
        let path = format!(
            "{}/../../schemas/{}/v1.json",
            env!("CARGO_MANIFEST_DIR"),
            row[0]
        );
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let schema: Value = serde_json::from_str(&text).unwrap();
        let payload: Value = serde_json::from_str(&row[1]).unwrap();
        assert_eq!(schema["additionalProperties"], false, "{path}");
        let properties = schema["properties"].as_object().unwrap();
        for name in schema["required"].as_array().unwrap() {
            assert!(
                !payload[name.as_str().unwrap()].is_null(),
                "{name}: {payload}"
            );
        }
        for (name, value) in payload.as_object().unwrap() {
            let property = properties
                .get(name)
                .unwrap_or_else(|| panic!("{} has no {name}", row[0]));
            match property["type"].as_str().unwrap() {
                "string" => assert!(value.is_string(), "{name}: {payload}"),
                "integer" => {
                    let n = value.as_i64().unwrap();
                    assert!(property["minimum"].as_i64().is_none_or(|min| n >= min));
                    assert!(property["maximum"].as_i64().is_none_or(|max| n <= max));
                }
                other => panic!("{path}: {other}"),
            }
            if let Some(allowed) = property["enum"].as_array() {
                assert!(allowed.contains(value), "{name}: {payload}");
            }
            if !property["const"].is_null() {
                assert_eq!(property["const"], *value, "{name}: {payload}");
            }
        }
    }
    rows.len()
}
