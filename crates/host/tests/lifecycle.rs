//! Starting, reloading and stopping.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::time::Duration;

use common::{config, one, start};
use http::StatusCode;
use innover_host::Host;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn shutdown_finishes_what_was_accepted_and_accepts_no_more() {
    let app = start(&one("")).await;
    let address = app.host.addr();
    let request = "GET /sleep?ms=2000 HTTP/1.1\r\nhost: x\r\n\r\n";
    let running = tokio::spawn(async move { common::raw(address, request).await });
    while !app.metrics().await.contains("innover_instances 1\n") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    app.host.shutdown(Duration::from_secs(60)).await;
    let answer = running.await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.contains("slept"),
        "{answer}"
    );
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_reload_starts_fresh_instances_and_lets_running_requests_finish() {
    let app = start(&one("")).await;
    for seen in ["1", "2", "3"] {
        assert_eq!(app.get("/seen").await, (StatusCode::OK, seen.into()));
    }
    let running = app.get("/sleep?ms=2000");
    let reloaded = async {
        // Until it is there.
        let mut asked = 3;
        while app.get("/seen").await.1 == (asked + 1).to_string() {
            asked += 1;
        }
        app.host.reload("a").await.unwrap();
        app.get("/seen").await
    };
    let (running, seen) = tokio::join!(running, reloaded);
    assert_eq!(running, (StatusCode::OK, "slept".into()));
    assert_eq!(seen, (StatusCode::OK, "1".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_reload_that_fails_keeps_the_old_version() {
    let app = start(&one("")).await;
    std::fs::write(app.folder.path().join("probe.wasm"), b"no component").unwrap();
    let error = format!("{:#}", app.host.reload("a").await.unwrap_err());
    assert!(
        error.contains("component a") && error.contains("probe.wasm"),
        "{error}"
    );
    assert_eq!(app.get("/hello").await.0, StatusCode::OK);
    assert!(app.host.reload("nobody").await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_cannot_be_loaded_is_named_at_the_start() {
    for (manifest, expected) in [
        (
            one("dependencies = { \"acme:x/y@1.0.0\" = { path = \"x.wasm\" } }"),
            "acme:x/y@1.0.0",
        ),
        (one("files = [\"a.txt\"]"), "files"),
        (
            format!(
                "[variables]\nkey = {{ required = true }}\n{}",
                one("variables = { key = \"{{ key }}\" }")
            ),
            "SPIN_VARIABLE_KEY",
        ),
        (
            one("").replace("probe.wasm", "missing.wasm"),
            "missing.wasm",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let started = Host::start(config(folder.path(), &manifest)).await;
        let error = format!("{:#}", started.err().unwrap());
        assert!(error.contains(expected), "{expected:?} is not in {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readiness_says_what_is_missing_and_metrics_show_what_was_added() {
    let app = start(&one("")).await;
    let management = app.host.management_addr().unwrap();
    let ask = async |path: &str| {
        common::raw(
            management,
            &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"),
        )
        .await
    };
    assert!(ask("/readiness").await.starts_with("HTTP/1.1 200"));
    app.host
        .add_readiness("bus", || Err("not connected".into()));
    let answer = ask("/readiness").await;
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.contains("\"bus\":\"not connected\""),
        "{answer}"
    );
    assert!(ask("/health").await.starts_with("HTTP/1.1 200"));
    app.host
        .add_metrics(|out| out.push_str("bridge_things 7\n"));
    assert!(ask("/metrics").await.contains("bridge_things 7"));
}
