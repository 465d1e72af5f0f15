//! The Redis trigger and outbound Redis, against a real server. Without `redis-server` on the PATH
//! there is nothing to test against, and the tests say so.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{App, eventually, start};
use http::StatusCode;
use innover_tests::free_port;

struct Server {
    process: Child,
    port: u16,
}

impl Server {
    fn start(port: u16) -> Option<Self> {
        let started = Command::new("redis-server")
            .args([
                "--port",
                &port.to_string(),
                "--save",
                "",
                "--appendonly",
                "no",
            ])
            .stdout(Stdio::null())
            .spawn();
        match started {
            Ok(process) => Some(Self { process, port }),
            Err(error) => {
                eprintln!("not tested: redis-server does not start ({error})");
                None
            }
        }
    }

    /// Publishes until a subscriber is there to hear it.
    async fn publish(&self, message: &str) {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.port)).unwrap();
        let waited = tokio::time::timeout(Duration::from_secs(60), async {
            loop {
                if let Ok(mut connection) = client.get_multiplexed_async_connection().await {
                    let heard: redis::RedisResult<i64> = redis::cmd("PUBLISH")
                        .arg("jobs")
                        .arg(message)
                        .query_async(&mut connection)
                        .await;
                    if heard.is_ok_and(|heard| heard > 0) {
                        return;
                    }
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        assert!(waited.await.is_ok(), "nobody subscribed within 20 s");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn application(port: u16) -> App {
    start(&format!(
        "[[trigger.http]]\nroute = \"/...\"\ncomponent = \"a\"\n\
         [[trigger.redis]]\nchannel = \"jobs\"\naddress = \"redis://127.0.0.1:{port}\"\ncomponent = \"worker\"\n\
         [component.a]\nsource = \"probe.wasm\"\nsqlite_databases = [\"default\"]\n\
         allowed_outbound_hosts = [\"redis://127.0.0.1:{port}\"]\n\
         [component.worker]\nsource = \"probe.wasm\"\nsqlite_databases = [\"default\"]\n"
    ))
    .await
}

async fn rows(app: &App) -> String {
    app.exec("default", "SELECT count(*) FROM job")
        .await
        .concat()
}

async fn row_count_is(app: &App, expected: &str) {
    let waited = tokio::time::timeout(Duration::from_secs(60), async {
        while rows(app).await != expected {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(
        waited.await.is_ok(),
        "{} rows, not {expected}",
        rows(app).await
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn messages_are_handled_before_and_after_the_server_was_away() {
    let port = free_port();
    // The host starts although no server answers.
    let app = application(port).await;
    app.exec(
        "default",
        "CREATE TABLE job (id INTEGER PRIMARY KEY, x BIGINT)",
    )
    .await;
    let Some(server) = Server::start(port) else {
        return;
    };
    server.publish("INSERT INTO job (x) VALUES (1)").await;
    row_count_is(&app, "1").await;

    // A message that fails ends neither the trigger nor the next message.
    server.publish("trap").await;
    server.publish("INSERT INTO nothing VALUES (1)").await;
    app.logs("asked to trap").await;
    for _ in 0..100 {
        server.publish("INSERT INTO job (x) VALUES (2)").await;
    }
    row_count_is(&app, "101").await;

    drop(server);
    let server = Server::start(port).unwrap();
    server.publish("INSERT INTO job (x) VALUES (3)").await;
    row_count_is(&app, "102").await;
    let metrics = app.metrics().await;
    assert!(
        metrics.contains("innover_redis_messages_total 102"),
        "{metrics}"
    );
    assert!(
        metrics.contains("innover_redis_messages_failed_total 2"),
        "{metrics}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_guest_reaches_the_redis_it_names_and_no_other() {
    let port = free_port();
    let Some(_server) = Server::start(port) else {
        return;
    };
    let app = application(port).await;
    let open = format!("/redis?address=redis://127.0.0.1:{port}&key=k");
    let mut answer = app.get(&open).await;
    for _ in 0..100 {
        if answer.0 == StatusCode::OK {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        answer = app.get(&open).await;
    }
    assert_eq!(answer, (StatusCode::OK, "42".into()));
    let other = app.get("/redis?address=redis://127.0.0.1:1&key=k").await;
    assert_eq!(
        other,
        (StatusCode::FORBIDDEN, "Error::InvalidAddress".into())
    );
    eventually("a line about the denied address", || app.logged().len() > 1).await;
}

/// How many connections to `port` have a running keepalive timer: `02` in the sixth column of the
/// kernel's table (proc_net_tcp.txt).
#[cfg(target_os = "linux")]
fn asking(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let to = format!(":{port:04X}");
    let asks = |line: &&str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        columns[2].ends_with(&to) && columns[5].starts_with("02:")
    };
    table.lines().filter(asks).count()
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn connections_ask_now_and_then_whether_the_server_is_still_there() {
    let port = free_port();
    let Some(_server) = Server::start(port) else {
        return;
    };
    let app = application(port).await;
    eventually("the subscriber asks", || asking(port) == 1).await;
    let open = format!("/redis?address=redis://127.0.0.1:{port}&key=k");
    assert_eq!(app.get(&open).await, (StatusCode::OK, "42".into()));
    eventually("so does what guests share", || asking(port) == 2).await;
}
