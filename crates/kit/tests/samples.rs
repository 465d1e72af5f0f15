//! The tasks every service has. There is no database here: they do without.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use innover_contract::{Identity, Keyring, service_token};
use innover_kit::Service;
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;

static SERVICE: Service = Service::new("greeter", OpenApiRouter::new);

#[tokio::test]
async fn samples_need_no_database() {
    let secrets = [("greeter", 1u8), ("bridge", 2)]
        .map(|(name, byte)| (name.to_owned(), [byte; 32]))
        .into();
    let own = Keyring::build("greeter", &[], &secrets);
    innover_kit::config::set("keyring", &own.encode());
    let ring = Keyring::build("bridge", &["greeter".into()], &secrets);
    let who = Identity {
        scope: service_token::SCOPE_DELIVER.into(),
        ..Identity::default()
    };
    let token = service_token::mint(&ring, "bridge", "greeter", &who, "r").unwrap();
    let decimal = json!({"__type__": "decimal", "__value__": "1.50"});
    let mut said = Vec::new();
    for (task, args, kwargs) in [
        ("add", json!([1, 2]), json!({})),
        ("add", json!([1]), json!({"b": 2})),
        ("add", json!([1, "x"]), json!({})),
        ("add", json!([1]), json!({})),
        ("echo", json!([decimal]), json!({})),
        ("echo", json!([1]), json!({"a": 2})),
        ("slow", json!([0.01]), json!({})),
        ("slow", json!([]), json!({"seconds": 0})),
        ("slow", json!([301]), json!({})),
        ("nothing", json!([]), json!({})),
    ] {
        let task = format!("greeter.{task}");
        // The last of several jobs is looked at, so that a delivery of several is seen to work.
        let first = json!({"id": "1", "task": "greeter.echo", "args": [1]});
        let job = json!({"id": "2", "task": task, "args": args, "kwargs": kwargs});
        let body = json!({ "jobs": [first, job] }).to_string();
        let request = http::Request::post("/_tasks")
            .header("authorization", format!("Bearer {token}"))
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        let response = innover_kit::serve(&SERVICE, request).await;
        assert_eq!(response.status(), 200);
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let answer: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(answer["results"][0]["result"], 1);
        let answer = &answer["results"][1];
        said.push(match answer["status"] == 200 {
            true => answer["result"].clone(),
            false => answer["error"].clone(),
        });
    }
    assert_eq!(
        json!(said),
        json!([
            3,
            3,
            "invalid_arguments: add takes two numbers, not a string",
            "invalid_arguments: greeter.add() missing 1 required argument: 'b'",
            decimal,
            {"args": [1], "kwargs": {"a": 2}},
            "slept 0.01 s",
            "slept 0 s",
            "invalid_arguments: slow takes seconds, 0 to 300",
            "unknown_task: `greeter` has no task `greeter.nothing`",
        ])
    );
}
