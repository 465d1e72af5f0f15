//! Calls of other services in native tests: a test answers in the callee's place.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use http::Method;
use innover_contract::Keyring;
use innover_kit::{Code, Cx, call, testing};
use serde_json::{Value, json};

#[tokio::test]
async fn a_test_answers_in_the_callees_place() {
    let secrets = [("caller", 1u8), ("callee", 2)]
        .map(|(name, byte)| (name.to_owned(), [byte; 32]))
        .into();
    let ring = Keyring::build("caller", &["callee".into()], &secrets);
    innover_kit::config::set("keyring", &ring.encode());
    testing::answer_calls(|call| {
        let (callee, method) = (call.callee, call.method.as_str());
        match (callee, method, call.path) {
            ("callee", "POST", "/v1/echo") => Some((200, call.body.clone())),
            ("callee", "GET", "/v1/nothing") => Some((
                404,
                serde_json::to_value(innover_contract::Problem::from(Code::NotFound)).unwrap(),
            )),
            _ => None,
        }
    });
    let cx = Cx::detached("caller");
    let body = json!({"n": 1});
    let echo: Value = call::json(&cx, Method::POST, "callee", "/v1/echo", Some(&body), true)
        .await
        .unwrap();
    assert_eq!(echo, body);
    for (path, code) in [
        ("/v1/nothing", Code::NotFound),
        ("/v1/silence", Code::UpstreamError),
    ] {
        let none = None::<&()>;
        let asked: Result<Value, _> =
            call::json(&cx, Method::GET, "callee", path, none, false).await;
        assert_eq!(asked.unwrap_err().code(), code, "{path}");
    }
}
