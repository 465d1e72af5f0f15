//! The HTTP surface of the host: routes, headers, limits, what a caller sees when a guest fails.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{one, raw, start, start_with};
use http::{Request, StatusCode};
use innover_host::CallError;

/// The value of a metric without labels.
fn number(metrics: &str, name: &str) -> u64 {
    let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
    metrics.lines().find_map(value).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_guest_sees_the_headers_spin_sets_and_no_forged_ones() {
    let app = start(
        "[[trigger.http]]\nroute = \"/shop/:user_id/...\"\ncomponent = \"a\"\n\
         [component.a]\nsource = \"probe.wasm\"\n",
    )
    .await;
    let answer = raw(
        app.host.addr(),
        "GET /shop/42/headers?q=1 HTTP/1.1\r\nhost: shop.test\r\nspin-client-addr: forged\r\n\
         spin-path-match-other: forged\r\nconnection: close\r\n\r\n",
    )
    .await;
    for expected in [
        "spin-path-info: /headers\n",
        "spin-full-url: http://shop.test/shop/42/headers?q=1\n",
        "spin-matched-route: /shop/:user_id/...\n",
        "spin-base-path: /\n",
        "spin-raw-component-route: /shop/:user_id/...\n",
        "spin-component-route: /shop/:user_id\n",
        "spin-client-addr: 127.0.0.1:",
        "spin-path-match-user-id: 42\n",
        "uri: http://shop.test/shop/42/headers?q=1",
    ] {
        assert!(answer.contains(expected), "{expected:?} is not in {answer}");
    }
    assert!(!answer.contains("forged"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn unknown_paths_reserved_paths_and_static_responses_need_no_guest() {
    let app = start(
        "[[trigger.http]]\nroute = \"/a\"\ncomponent = \"a\"\n\
         [[trigger.http]]\nroute = \"/old\"\n\
         static_response = { status_code = 302, headers = { location = \"/new\" } }\n\
         [component.a]\nsource = \"probe.wasm\"\n",
    )
    .await;
    for (path, status, part) in [
        ("/nope", "404", "application/problem+json"),
        ("/old", "302", "location: /new"),
        ("/.well-known/spin/health", "200", "OK"),
        ("/.well-known/spin/info", "200", "\"name\":\"probe\""),
        ("/.well-known/spin/else", "404", "not_found"),
    ] {
        let answer = app.http(path).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{path}: {answer}"
        );
        assert!(answer.contains(part), "{path}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn http_2_with_prior_knowledge_is_served_on_the_same_port() {
    let app = start(&one("")).await;
    let stream = tokio::net::TcpStream::connect(app.host.addr())
        .await
        .unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io)
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::get("http://example.test/hello")
        .body(http_body_util::Empty::<Bytes>::new())
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(
        (answer.status(), answer.version()),
        (StatusCode::OK, http::Version::HTTP_2)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn bodies_and_headers_have_limits() {
    let app = start(&one("")).await;
    let post = |framing: &str, body: &str| {
        format!("POST /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{framing}\r\n\r\n{body}")
    };
    let fits = "x".repeat(1 << 20);
    let answer = raw(app.host.addr(), &post("content-length: 1048576", &fits)).await;
    assert!(
        answer.contains("200 OK") && answer.contains("1048576"),
        "{answer}"
    );

    let answer = raw(app.host.addr(), &post("content-length: 4194305", "")).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");

    let chunk = format!("100000\r\n{}\r\n", "x".repeat(1 << 20));
    let chunks = format!("{}0\r\n\r\n", chunk.repeat(5));
    let answer = raw(
        app.host.addr(),
        &post("transfer-encoding: chunked", &chunks),
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");

    let long = format!(
        "GET /hello HTTP/1.1\r\nhost: x\r\nlong: {}\r\n\r\n",
        "x".repeat(17 << 10)
    );
    let answer = raw(app.host.addr(), &long).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_head_request_gets_the_headers_alone() {
    let app = start(&one("")).await;
    let head = "HEAD /hello HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let answer = raw(app.host.addr(), head).await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\n"),
        "{answer}"
    );
    assert!(answer.contains("content-length: 5"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_trap_is_a_500_without_details_and_ends_nobody_else() {
    let app = start(&one("")).await;
    let answer = app.http("/trap").await;
    assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
    assert!(
        answer.contains("internal_error") && !answer.contains("asked to trap"),
        "{answer}"
    );
    app.logs("asked to trap").await;
    assert_eq!(app.get("/hello").await, (StatusCode::OK, "hello".into()));
    assert!(app.metrics().await.contains("innover_traps_total 1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_guest_that_loops_is_stopped_at_its_deadline_while_others_are_served() {
    let app = start(
        "[[trigger.http]]\nroute = \"/...\"\ncomponent = \"a\"\n\
         [[trigger.http]]\nroute = \"/b\"\ncomponent = \"b\"\n\
         [component.a]\nsource = \"probe.wasm\"\n\
         [component.a.tool.innover]\ndeadline_ms = 1000\n\
         [component.b]\nsource = \"probe.wasm\"\n",
    )
    .await;
    // More loops than worker threads: nothing else would run if loops did not yield.
    let loops = (0..6).map(|_| app.http("/loop"));
    let loops = futures::future::join_all(loops);
    let others = async {
        for _ in 0..20 {
            assert_eq!(
                app.call("b", "/hello", "").await.unwrap().status(),
                StatusCode::OK
            );
        }
    };
    let began = Instant::now();
    let (answers, ()) = tokio::join!(loops, others);
    for answer in answers {
        assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
        assert!(answer.contains("ask again with the same key"), "{answer}");
    }
    // Not the deadline of a component that names none.
    assert!(
        began.elapsed() < Duration::from_secs(8),
        "{:?}",
        began.elapsed()
    );
    let waited = tokio::time::timeout(Duration::from_secs(60), async {
        while number(&app.metrics().await, "innover_instances") > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(waited.await.is_ok(), "the looping instances still run");
    assert!(number(&app.metrics().await, "innover_runaways_total") > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_slow_guest_gets_a_504_and_its_neighbours_in_the_instance_an_answer() {
    let app = start_with(
        &one("[component.a.tool.innover]\ndeadline_ms = 2000"),
        |_| {},
    )
    .await;
    let (slow, quick) = tokio::join!(app.http("/sleep?ms=60000"), app.http("/sleep?ms=100"));
    assert!(slow.starts_with("HTTP/1.1 504"), "{slow}");
    assert!(quick.starts_with("HTTP/1.1 200"), "{quick}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn memory_beyond_the_components_limit_traps_only_there() {
    let app = start(&one("[component.a.tool.innover]\nmemory_mb = 64")).await;
    assert_eq!(app.get("/allocate?mb=32").await.0, StatusCode::OK);
    assert_eq!(
        app.call("a", "/allocate?mb=80", "").await.err(),
        Some(CallError::Trapped)
    );
    assert_eq!(app.get("/hello").await.0, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_component_at_its_limit_answers_503_with_retry_after() {
    let app = start(&one("[component.a.tool.innover]\nconcurrency = 1")).await;
    let (slow, turned_away) = tokio::join!(app.http("/sleep?ms=4000"), async {
        while !app.metrics().await.contains("innover_instances 1\n") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        app.http("/hello").await
    });
    assert!(slow.starts_with("HTTP/1.1 200"), "{slow}");
    assert!(turned_away.starts_with("HTTP/1.1 503"), "{turned_away}");
    assert!(turned_away.contains("retry-after: 1"), "{turned_away}");
    assert!(app.metrics().await.contains("innover_saturated_total 1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn more_requests_than_places_are_served_in_turn() {
    let app = start(&one("[component.a.tool.innover]\nconcurrency = 4")).await;
    let answers = futures::future::join_all((0..200).map(|_| app.http("/hello"))).await;
    assert!(
        answers
            .iter()
            .all(|answer| answer.starts_with("HTTP/1.1 200")),
        "{answers:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn requests_of_a_moment_share_an_instance_until_it_is_full() {
    const PLACES: usize = 20;
    let tool = format!(
        "[component.a.tool.innover]\nparallelism = 1\ninstance_concurrency = {PLACES}\n\
         concurrency = 1000\ndeadline_ms = 60000"
    );
    let app = start(&one(&tool)).await;
    let started = async || {
        let metrics = app.metrics().await;
        usize::try_from(number(&metrics, "innover_instances_started_total")).unwrap()
    };
    let first = (0..PLACES).map(|_| app.http("/sleep?ms=1000"));
    for answer in futures::future::join_all(first).await {
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    // One, and another each time the machine stands still for a moment; not one for each.
    let shared = started().await;
    assert!((1..PLACES / 2).contains(&shared), "{shared} instances");

    // None of these ends before the last is there, and all places there are do not hold them.
    let more =
        futures::future::join_all((0..=PLACES * shared).map(|_| app.http("/sleep?ms=30000")));
    let another = async {
        while started().await <= shared {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        answers = more => panic!("served by {shared} instances: {answers:?}"),
        () = another => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_waits_behind_a_loop_gets_another_instance() {
    let tool = "[component.a.tool.innover]\nparallelism = 1\ndeadline_ms = 60000";
    let app = start(&one(tool)).await;
    let others = async {
        while !app.metrics().await.contains("innover_instances 1\n") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        for _ in 0..20 {
            assert_eq!(app.get("/hello").await, (StatusCode::OK, "hello".into()));
        }
    };
    tokio::select! {
        answer = app.http("/loop") => panic!("the loop has ended: {answer}"),
        () = others => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_route_a_guest_names_is_the_label_and_stays_inside() {
    let app = start(&one("[component.a.tool.innover]\nservice = \"svc\"")).await;
    let request = "GET /route?label=/v1/things/:id HTTP/1.1\r\nhost: x\r\nx-request-id: req-7\r\n\
                   traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\
                   connection: close\r\n\r\n";
    let answer = raw(app.host.addr(), request).await;
    assert!(
        answer.contains("labelled") && !answer.contains("x-route"),
        "{answer}"
    );
    let metrics = app.metrics().await;
    let series = "http_requests_total{service=\"svc\",method=\"GET\",route=\"/v1/things/:id\",status_code=\"200\"} 1";
    assert!(metrics.contains(series), "{metrics}");
    app.logs("\"request_id\":\"req-7\"").await;
    let log = app.logged();
    let line = log.lines().find(|line| line.contains("req-7")).unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(line["service_name"], "svc");
    assert_eq!(line["route"], "/v1/things/:id");
    assert_eq!(line["trace_id"], "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(line["status"], 200);
}
