//! The service as its callers see it: one's own items, and the event that tells of a new one.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use innover_kit::{
    contract::Identity,
    testing::{Platform, Reply, person},
};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

static PLATFORM: OnceCell<Platform> = OnceCell::const_new();

async fn platform() -> &'static Platform {
    PLATFORM
        .get_or_init(|| async {
            Platform::start(
                &items::SERVICE,
                include_str!("../migrations/0001_init.sql"),
                &["gateway", "bridge"],
            )
        })
        .await
}

fn user(sub: &str) -> Identity {
    person(sub, "user", "item:read item:write")
}

async fn call(who: &Identity, method: &str, path: &str, body: Option<Value>) -> Reply {
    platform().await.call(who, method, path, body).await
}

async fn made(who: &Identity, name: &str) -> String {
    let made = call(who, "POST", "/v1/items", Some(json!({ "name": name }))).await;
    assert_eq!(made.status, 201, "{}", made.body);
    made.body["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_person_makes_renames_lists_and_deletes_items_of_their_own() {
    let who = user("usr_1");
    let id = made(&who, "lamp").await;
    let path = format!("/v1/items/{id}");
    let renamed = call(&who, "PUT", &path, Some(json!({"name": "desk lamp"}))).await;
    assert_eq!(
        (
            renamed.status,
            &renamed.body["name"],
            &renamed.body["version"]
        ),
        (200, &json!("desk lamp"), &json!(2))
    );
    assert_eq!(call(&who, "GET", &path, None).await.body, renamed.body);
    let second = made(&who, "chair").await;
    let first_page = call(&who, "GET", "/v1/items?limit=1", None).await.body;
    assert_eq!(first_page["data"][0]["id"], json!(id));
    let cursor = first_page["next_cursor"].as_str().unwrap();
    let rest = format!("/v1/items?limit=1&cursor={cursor}");
    let rest = call(&who, "GET", &rest, None).await.body;
    assert_eq!(
        (&rest["data"][0]["id"], &rest["next_cursor"]),
        (&json!(second), &json!(null))
    );
    let deleted = call(&who, "DELETE", &path, None).await;
    assert_eq!((deleted.status, &deleted.body), (200, &renamed.body));
    let gone = call(&who, "GET", &path, None).await;
    assert_eq!((gone.status, gone.code()), (404, "item_not_found"));
}

#[tokio::test]
async fn a_repeated_request_makes_one_item_and_tells_of_it_once() {
    let who = user("usr_2");
    let body = json!({"name": "lamp"}).to_string();
    let send = async |body: String| {
        platform()
            .await
            .send(
                "gateway",
                &who,
                "POST",
                "/v1/items",
                Some(body),
                Some("key-2"),
            )
            .await
    };
    let first = send(body.clone()).await;
    let again = send(body).await;
    assert_eq!(
        (first.status, again.replayed, &again.body),
        (201, true, &first.body)
    );
    let other = send(json!({"name": "chair"}).to_string()).await;
    assert_eq!(
        (other.status, other.code()),
        (422, "idempotency_key_reused")
    );
    let id = first.body["id"].as_str().unwrap();
    let told = format!("SELECT topic, payload, headers FROM outbox WHERE key = '{id}'");
    let told = platform().await.rows(&told);
    assert_eq!((told.len(), &*told[0][0]), (1, "item.created"));
    let data: Value = serde_json::from_str(&told[0][1]).unwrap();
    assert_eq!(
        data,
        json!({"id": id, "timestamp": first.body["created_at"], "source_service": "items"})
    );
    let headers: Value = serde_json::from_str(&told[0][2]).unwrap();
    assert_eq!(
        (&headers["idempotencykey"], &headers["authid"]),
        (&json!("key-2"), &json!("usr_2"))
    );
    assert!(headers["correlationid"].is_string());
}

#[tokio::test]
async fn nobody_elses_items_are_touched_and_names_are_checked() {
    let id = made(&user("usr_3"), "lamp").await;
    let path = format!("/v1/items/{id}");
    for (method, body) in [
        ("GET", None),
        ("PUT", Some(json!({"name": "mine"}))),
        ("DELETE", None),
    ] {
        let refused = call(&user("usr_4"), method, &path, body).await;
        assert_eq!(
            (refused.status, refused.code()),
            (403, "not_owner"),
            "{method}"
        );
    }
    let auditor = person("usr_auditor", "auditor", "item:read");
    assert_eq!(call(&auditor, "GET", &path, None).await.status, 200);
    let refused = call(&auditor, "DELETE", &path, None).await;
    assert_eq!(refused.code(), "insufficient_scope");
    for body in [
        json!({}),
        json!({"name": ""}),
        json!({"name": "a", "colour": "red"}),
    ] {
        let refused = call(&user("usr_3"), "POST", "/v1/items", Some(body.clone())).await;
        assert_eq!(
            (refused.status, refused.code()),
            (400, "invalid_request"),
            "{body}"
        );
    }
}

/// Delivers jobs as the bridge does; returns what the service says of each.
async fn deliver(jobs: Value) -> Value {
    let mut bridge = person("bridge", "", "deliver");
    bridge.roles.clear();
    let body = json!({ "jobs": jobs }).to_string();
    let reply = platform()
        .await
        .send("bridge", &bridge, "POST", "/_tasks", Some(body), None)
        .await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.body["results"].clone()
}

#[tokio::test]
async fn jobs_make_items_once_however_often_they_are_delivered() {
    let jobs = json!([
        {"id": "0192f3c2-a0f4-7b1e-8d5c-6f7a8b9c0d1e", "task": "items.create", "args": ["lamp", "usr_7"]},
        {"id": "mine", "task": "items.create", "kwargs": {"name": "chair", "owner": "usr_7"}},
        {"id": "bad", "task": "items.create", "args": ["", "usr_7"]},
        {"id": "worse", "task": "items.create", "args": ["lamp"]},
    ]);
    let first = deliver(jobs.clone()).await;
    let said: Vec<_> = (0..4).map(|i| first[i]["status"].as_u64()).collect();
    assert_eq!(said, [Some(200), Some(200), Some(422), Some(422)]);
    assert_eq!(first[0]["result"], "itm_0192f3c2a0f47b1e8d5c6f7a8b9c0d1e");
    assert_eq!(
        first[3]["error"],
        "invalid_arguments: items.create() missing 1 required argument: 'owner'"
    );
    assert_eq!(deliver(jobs).await, first);
    let list = call(&user("usr_7"), "GET", "/v1/items", None).await.body;
    let ids: Vec<_> = (0..2).map(|i| list["data"][i]["id"].clone()).collect();
    assert!(ids.contains(&first[0]["result"]) && ids.contains(&first[1]["result"]));
    assert_eq!(list["data"].as_array().map(Vec::len), Some(2), "{list}");
    let id = first[1]["result"].as_str().unwrap();
    let told = format!("SELECT topic FROM outbox WHERE key = '{id}'");
    assert_eq!(platform().await.rows(&told), [["item.created"]]);
}

#[tokio::test]
async fn an_id_that_begins_like_a_mark_of_the_inbox_is_only_itself() {
    let create =
        |id: &str, name: &str| json!({"id": id, "task": "items.create", "args": [name, "usr_9"]});
    let first = deliver(json!([create("task:x", "first")])).await;
    let both = deliver(json!([create("x", "second"), create("task:x", "first")])).await;
    assert_eq!(both[1]["result"], first[0]["result"]);
    assert_eq!(both[0]["status"], 200);
    assert_ne!(
        both[0]["result"], first[0]["result"],
        "the other job's answer"
    );
}
