//! A service that keeps every event, and one that calls on behalf of others.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::sync::{Arc, Mutex};

use http::Method;
use innover_kit::{
    Answer, Batch, Cause, Cx, Db, Emit, Event, Expect, Result, Service,
    call::{self, Terms},
    contract::Identity,
    events::{EVERY, Handled, Handling},
    idempotency, params,
    testing::{Platform, answer_calls, person},
};
use serde_json::{Value, json};
use utoipa_axum::{router::OpenApiRouter, routes};

const MIGRATION: &str = "
    CREATE TABLE kept (ids TEXT NOT NULL, actor TEXT);
    CREATE TABLE inbox (id TEXT PRIMARY KEY, handled_at BIGINT NOT NULL, result TEXT);
    CREATE TABLE outbox (id TEXT PRIMARY KEY, topic TEXT NOT NULL, key TEXT NOT NULL,
        key_version BIGINT NOT NULL, type TEXT NOT NULL, payload TEXT NOT NULL,
        headers TEXT NOT NULL, created_at BIGINT NOT NULL);";

fn keep<'a>(_: &'a Cx, _: &'a Db, events: &'a [Event]) -> Handling<'a> {
    Box::pin(async move {
        let ids: Vec<&str> = events.iter().map(|event| event.id.as_str()).collect();
        let actor = Cause::from(&events[0]).actor;
        let mut batch = Batch::new();
        let sql = "INSERT INTO kept (ids, actor) VALUES ($1, $2)";
        batch.step("kept", sql, params![ids.join(" "), actor], Expect::Rows(1));
        Ok(Handled::all(batch))
    })
}

/// Asks another service three times: as its caller, as itself, as who asked earlier; and emits.
#[utoipa::path(post, path = "/v1/ask", responses((status = 200)))]
async fn ask(cx: Cx) -> Result<Answer> {
    let earlier = Identity {
        sub: "usr_earlier".into(),
        ..Identity::default()
    };
    let each = [
        Terms::default(),
        Terms::itself("keeper", "wallet:read"),
        Terms::of(earlier).key("key-1"),
    ];
    for terms in &each {
        let body = Some(json!({}));
        let _: Value = call::json_on(
            &cx,
            terms,
            Method::POST,
            "wallet",
            "/v1/x",
            body.as_ref(),
            true,
        )
        .await?;
    }
    let mut batch = Batch::new();
    batch.emit(Emit {
        kind: "keeper.asked",
        key: "k".into(),
        key_version: 1,
        data: json!({}),
        cause: Cause::from(&cx),
    });
    let answer = Answer::json(200, &json!({}))?;
    Ok(idempotency::commit(&mut Db::open().await?, batch, None, answer).await?)
}

fn api() -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(ask))
}

static SERVICE: Service = Service {
    events: &[(EVERY, keep)],
    ..Service::new("keeper", api)
};

#[tokio::test]
async fn a_keeper_gets_a_delivery_whole_and_calls_go_on_behalf_of_who_is_named() {
    let platform = Platform::start(&SERVICE, MIGRATION, &["gateway", "bridge"]);
    let bridge = Identity {
        scope: "deliver".into(),
        ..Identity::default()
    };
    let event = |id: &str, kind: &str| {
        json!({"specversion": "1.0", "id": id, "source": "/innover/payment", "type": kind,
               "time": "2026-11-20T12:00:00Z", "partitionkey": "pay_1", "authid": "usr_1",
               "data": {}})
    };
    let deliver = async |events: Value| {
        let media = "application/cloudevents-batch+json";
        let reply = platform
            .send_as("bridge", &bridge, "/_events", media, events.to_string())
            .await;
        for answer in reply.body["results"].as_array().unwrap() {
            assert_eq!(answer["status"], 200, "{answer}");
        }
    };
    let (a, b, c) = (
        event("a", "x.one"),
        event("b", "x.two"),
        event("c", "x.one"),
    );
    deliver(json!([a, b])).await;
    deliver(json!([a, b, c])).await;
    assert_eq!(
        platform.rows("SELECT ids, actor FROM kept ORDER BY rowid"),
        [["a b", "usr_1"], ["c", "usr_1"]]
    );

    type Asked = (String, String, Option<String>);
    let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
    let seen = Arc::clone(&asked);
    answer_calls(move |call| {
        let Identity { sub, scope, .. } = call.identity.clone();
        let key = call.idempotency_key.map(str::to_owned);
        seen.lock().unwrap().push((sub, scope, key));
        (call.callee == "wallet").then(|| (200, json!({})))
    });
    let user = person("usr_1", "user", "wallet:write");
    let reply = platform.call(&user, "POST", "/v1/ask", None).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    let want = [
        ("usr_1", "wallet:write", None),
        ("keeper", "wallet:read", None),
        ("usr_earlier", "", Some("key-1")),
    ];
    let want = want.map(|(sub, scope, key)| (sub.into(), scope.into(), key.map(str::to_owned)));
    assert_eq!(*asked.lock().unwrap(), want);
    let headers = platform.rows("SELECT headers FROM outbox");
    assert!(headers[0][0].contains(r#""authid":"usr_1""#), "{headers:?}");
}
