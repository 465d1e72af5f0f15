//! What a guest can reach: what its manifest names, and nothing else.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use common::{one, start, start_with, text};
use http::StatusCode;
use innover_host::CallError;

const TWO: &str = "[[trigger.http]]\nroute = \"/...\"\ncomponent = \"a\"\n\
     [[trigger.http]]\nroute = { private = true }\ncomponent = \"b\"\n\
     [[trigger.http]]\nroute = { private = true }\ncomponent = \"c\"\n\
     [component.a]\nsource = \"probe.wasm\"\n\
     allowed_outbound_hosts = [\"http://b.spin.internal\"]\n\
     sqlite_databases = [\"ledger\"]\nkey_value_stores = [\"default\"]\n\
     [component.b]\nsource = \"probe.wasm\"\nsqlite_databases = [\"wallet\"]\n\
     [component.c]\nsource = \"probe.wasm\"\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_component_calls_only_the_components_and_hosts_it_names() {
    let app = start(TWO).await;
    let chain = async |url: &str| app.get(&format!("/chain?url={url}")).await;
    assert_eq!(
        chain("http://b.spin.internal/hello").await,
        (StatusCode::OK, "hello".into())
    );
    for url in [
        "http://c.spin.internal/hello",
        "http://nobody.spin.internal/",
        "http://example.com/",
    ] {
        let (status, body) = chain(url).await;
        assert_eq!(status, StatusCode::BAD_GATEWAY, "{url}");
        assert!(body.contains("HttpRequestDenied"), "{url}: {body}");
    }
    // A private component has no door of its own.
    assert_eq!(
        app.http("/hello").await.lines().next(),
        Some("HTTP/1.1 200 OK")
    );
    let request = "GET /hello HTTP/1.1\r\nhost: b.spin.internal\r\nconnection: close\r\n\r\n";
    let answer = common::raw(app.host.addr(), request).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_failure_of_the_called_component_is_an_answer_to_the_caller() {
    let app = start(TWO).await;
    let (status, body) = app.get("/chain?url=http://b.spin.internal/trap").await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(body.contains("internal_error"), "{body}");
    assert!(
        app.metrics()
            .await
            .contains("service=\"b\",method=\"GET\",route=\"/...\",status_code=\"500\"} 1")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_database_is_open_only_to_the_components_that_name_it() {
    let app = start(TWO).await;
    assert_eq!(
        app.get("/open?label=ledger").await,
        (StatusCode::OK, "opened".into())
    );
    let denied = (StatusCode::FORBIDDEN, "Error::AccessDenied".to_owned());
    assert_eq!(app.get("/open?label=wallet").await, denied);
    assert_eq!(app.get("/open?label=nothing").await, denied);
    let other = app.call("b", "/open?label=ledger", "").await.unwrap();
    assert_eq!((other.status(), text(&other)), denied);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn there_are_no_files_and_no_environment_but_the_manifests() {
    let app = start(&one("environment = { GREETING = \"hi\" }")).await;
    assert_eq!(
        app.get("/env").await,
        (StatusCode::OK, "GREETING=hi".into())
    );
    for path in ["/etc/passwd", ".", "probe.wasm"] {
        assert_eq!(
            app.get(&format!("/file?path={path}")).await.0,
            StatusCode::FORBIDDEN,
            "{path}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn variables_come_from_the_configuration_and_only_where_they_are_mapped() {
    let manifest = format!(
        "[variables]\nmode = {{ default = \"dev\" }}\nkey = {{ required = true, secret = true }}\n{}",
        one("variables = { key = \"k-{{ key }}\", mode = \"{{ mode }}\" }")
    );
    let app = start_with(&manifest, |config| {
        config.variables.insert("key".into(), "s3cret".into());
    })
    .await;
    assert_eq!(
        app.get("/variable?name=key").await,
        (StatusCode::OK, "k-s3cret".into())
    );
    assert_eq!(
        app.get("/variable?name=mode").await,
        (StatusCode::OK, "dev".into())
    );
    let (status, body) = app.get("/variable?name=other").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(body.contains("Undefined"), "{body}");
    let (_, body) = app.get("/variable?name=Not-A-Name").await;
    assert!(body.contains("InvalidName"), "{body}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_key_value_store_keeps_and_forgets_and_is_closed_to_others() {
    let app = start(TWO).await;
    let kept = app.get("/kv?store=default&key=k").await;
    assert_eq!(kept, (StatusCode::OK, "one k true true".into()));
    let denied = app.call("b", "/kv?store=default&key=k", "").await.unwrap();
    assert_eq!(text(&denied), "Error::AccessDenied");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn only_known_components_can_be_called_from_native_code() {
    let app = start(TWO).await;
    assert_eq!(
        app.call("nobody", "/hello", "").await.err(),
        Some(CallError::NotFound)
    );
    assert_eq!(
        app.call("c", "/hello", "").await.unwrap().status(),
        StatusCode::OK
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_a_guest_prints_is_logged_under_its_name() {
    let app = start(&one("[component.a.tool.innover]\nservice = \"svc\"")).await;
    app.call("a", "/say", "plain").await.unwrap();
    app.logs("\"service_name\":\"svc\",\"stream\":\"stdout\",\"message\":\"plain\"")
        .await;
    app.call("a", "/say", "{\"json\":1}").await.unwrap();
    app.logs("\n{\"json\":1}\n").await;
}
