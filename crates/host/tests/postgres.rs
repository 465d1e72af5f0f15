//! Outbound PostgreSQL against a real server: `INNOVER_TEST_POSTGRES` is the address of somebody who
//! may create tables there. Without it there is nothing to test against, and the tests say so.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::time::{Duration, Instant};

use common::{App, one, start_with, text};
use http::StatusCode;
use tokio_postgres::{Client, NoTls};

struct Server {
    address: String,
    client: Client,
}

impl Server {
    async fn connect() -> Option<Server> {
        let Ok(address) = std::env::var("INNOVER_TEST_POSTGRES") else {
            eprintln!("not tested: INNOVER_TEST_POSTGRES names no PostgreSQL");
            return None;
        };
        let (client, connection) = tokio_postgres::connect(&address, NoTls).await.unwrap();
        tokio::spawn(connection);
        Some(Server { address, client })
    }

    fn host(&self) -> &str {
        let (_, place) = self.address.rsplit_once('@').unwrap();
        place.split('/').next().unwrap()
    }

    /// An application that may reach it, with as many connections. `name` tells its sessions apart.
    async fn app(&self, name: &str, connections: usize) -> (App, String) {
        let allowed = format!("allowed_outbound_hosts = [\"postgres://{}\"]", self.host());
        let app = start_with(&one(&allowed), |config| {
            config.postgres_connections = connections;
        })
        .await;
        (
            app,
            format!("{}?sslmode=disable&application_name={name}", self.address),
        )
    }

    /// Sessions of an application, of those the ones in a transaction or at work, and their locks.
    async fn sessions(&self, name: &str) -> (i64, i64, i64) {
        let row = self
            .client
            .query_one(
                "SELECT count(*), count(*) FILTER (WHERE state <> 'idle'),
                        (SELECT count(*) FROM pg_locks l JOIN pg_stat_activity b USING (pid)
                         WHERE b.application_name = $1 AND l.locktype IN ('relation', 'advisory'))
                 FROM pg_stat_activity a WHERE application_name = $1",
                &[&name],
            )
            .await
            .unwrap();
        (row.get(0), row.get(1), row.get(2))
    }

    async fn quiet(&self, name: &str) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let (sessions, busy, locks) = self.sessions(name).await;
            if (busy, locks) == (0, 0) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "{sessions} sessions, {busy} not idle, {locks} locks"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

async fn script(app: &App, query: &str, lines: &[&str]) -> (StatusCode, String) {
    let body = lines.join("\n");
    let answer = app.call("a", &format!("/postgres?{query}"), &body).await;
    match answer {
        Ok(answer) => (answer.status(), text(&answer)),
        Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn statements_run_and_errors_carry_their_sqlstate() {
    let Some(server) = Server::connect().await else {
        return;
    };
    let (app, address) = server.app("probe_statements", 4).await;
    for mode in ["mode=async", "mode=sync"] {
        let (status, body) = script(
            &app,
            mode,
            &[
                &address,
                "SELECT 1::BIGINT, 'x'::TEXT, NULL",
                "SELECT 1/0",
                "SELECT * FROM nowhere",
                "SELEC",
                "SELECT n::BIGINT FROM generate_series(1, 3) n",
            ],
        )
        .await;
        assert_eq!(status, StatusCode::OK);
        let lines: Vec<&str> = body.lines().collect();
        assert_eq!(lines[0], "1|x|null");
        assert!(
            lines[1].starts_with("error 22012 division by zero"),
            "{body}"
        );
        assert!(lines[2].starts_with("error 42P01"), "{body}");
        assert!(lines[3].starts_with("error 42601"), "{body}");
        assert_eq!(lines[4], "1,2,3");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_type_of_the_interface_goes_there_and_back() {
    let Some(server) = Server::connect().await else {
        return;
    };
    let (app, address) = server.app("probe_types", 2).await;
    let answer = app.call("a", "/types", &address).await.unwrap();
    assert_eq!(text(&answer), "24 types");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_the_manifest_does_not_name_is_out_of_reach() {
    let Some(server) = Server::connect().await else {
        return;
    };
    let (app, address) = server.app("probe_reach", 2).await;
    let (user, _) = address.split_once('@').unwrap();
    let password = user.rsplit(':').next().unwrap();
    for other in [
        address.replace(server.host(), "127.0.0.1:1"),
        address.replace(server.host(), "db.example:5432"),
        "host=/tmp user=postgres".to_owned(),
        "mysql://x".to_owned(),
        // The driver goes to `hostaddr`, whatever the host is called.
        format!("{address}&hostaddr=127.0.0.2"),
        "postgres:///postgres?hostaddr=127.0.0.1&sslmode=disable".to_owned(),
        "postgres:///postgres".to_owned(),
    ] {
        let (status, body) = script(&app, "", &[&other, "SELECT 1"]).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{other}: {body}");
        assert!(body.contains("ConnectionFailed"), "{body}");
        assert!(!body.contains(password), "a password is shown: {body}");
    }
    let (user, rest) = address.split_once('@').unwrap();
    let wrong = format!("{user}x@{rest}");
    let (status, body) = script(&app, "", &[&wrong, "SELECT 1"]).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(body.contains("password authentication failed"), "{body}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_guest_that_ends_in_the_middle_leaves_no_transaction_no_lock_and_no_used_up_session() {
    let Some(server) = Server::connect().await else {
        return;
    };
    let name = "probe_traps";
    let (app, address) = server.app(name, 3).await;
    server
        .client
        .batch_execute("CREATE TABLE IF NOT EXISTS probe_traps (n BIGINT); TRUNCATE probe_traps")
        .await
        .unwrap();
    // More than there are sessions, each in a way of its own.
    for round in 0..4 {
        let open = [
            address.as_str(),
            "BEGIN",
            "INSERT INTO probe_traps VALUES (1)",
            "SELECT pg_advisory_lock(42)",
            "SET search_path = nowhere",
        ];
        let (status, _) = script(&app, "end=trap", &open).await;
        assert_ne!(status, StatusCode::OK, "round {round}: it traps");
        let (status, _) = script(&app, "", &open).await;
        assert_eq!(
            status,
            StatusCode::OK,
            "it goes and leaves its transaction open"
        );
        let failing = [address.as_str(), "BEGIN", "SELECT 1/0"];
        assert_eq!(script(&app, "", &failing).await.0, StatusCode::OK);
        let (status, body) = script(
            &app,
            "",
            &[
                &address,
                "SELECT count(*) FROM probe_traps",
                "INSERT INTO probe_traps VALUES (7)",
            ],
        )
        .await;
        assert_eq!((status, body), (StatusCode::OK, format!("{round}\n")));
        server.quiet(name).await;
    }
    let (sessions, ..) = server.sessions(name).await;
    assert!(sessions <= 3, "{sessions} sessions");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_statement_whose_guest_is_gone_is_cancelled_on_the_server() {
    let Some(server) = Server::connect().await else {
        return;
    };
    let name = "probe_gone";
    let (app, address) = server.app(name, 2).await;
    let begun = Instant::now();
    // Both sessions, until the deadline of the call.
    let sleeping = || async {
        let request = http::Request::post("/postgres")
            .body(format!("{address}\nSELECT pg_sleep(25)").into())
            .unwrap();
        app.host
            .call("a", request, Duration::from_secs(1))
            .await
            .unwrap_err()
    };
    tokio::join!(sleeping(), sleeping());
    let (status, body) = script(&app, "", &[&address, "SELECT 5::BIGINT"]).await;
    assert_eq!((status, body.as_str()), (StatusCode::OK, "5"));
    server.quiet(name).await;
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "cancelled, not waited for"
    );
}

/// It may wait for a replica: the server would show a committed row that no replica has.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_write_whose_guest_is_gone_is_left_to_its_end() {
    let Some(server) = Server::connect().await else {
        return;
    };
    let name = "probe_gone_write";
    let (app, address) = server.app(name, 1).await;
    let made = "CREATE TABLE probe_gone_write (n BIGINT)";
    assert_eq!(script(&app, "", &[&address, made]).await.0, StatusCode::OK);
    let slow = "INSERT INTO probe_gone_write SELECT 1 FROM pg_sleep(3)";
    let request = http::Request::post("/postgres")
        .body(format!("{address}\n{slow}").into())
        .unwrap();
    let late = app.host.call("a", request, Duration::from_secs(1)).await;
    late.unwrap_err();
    // The one session there may be is free when the write has ended.
    let count = "SELECT count(*) FROM probe_gone_write";
    let (status, body) = script(&app, "", &[&address, count]).await;
    assert_eq!((status, body.as_str()), (StatusCode::OK, "1"));
    server.quiet(name).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_guests_share_few_sessions_and_each_statement_is_whole() {
    let Some(server) = Server::connect().await else {
        return;
    };
    let name = "probe_share";
    let (app, address) = server.app(name, 4).await;
    let asked = (0..200).map(|n| {
        let (app, address) = (&app, &address);
        async move {
            let sql = format!("SELECT {n}::BIGINT");
            script(app, "", &[address, &sql, &sql]).await
        }
    });
    let answers = futures::future::join_all(asked).await;
    for (n, (status, body)) in answers.into_iter().enumerate() {
        assert_eq!((status, body), (StatusCode::OK, format!("{n}\n{n}")));
    }
    let (sessions, ..) = server.sessions(name).await;
    assert!((1..=4).contains(&sessions), "{sessions} sessions");
    let metrics = app.metrics().await;
    for line in [
        "innover_postgres_connections{state=\"lent\"} 0".to_owned(),
        format!("innover_postgres_connections{{state=\"idle\"}} {sessions}"),
        "innover_postgres_connections_max 4".to_owned(),
        format!("innover_postgres_connections_opened_total {sessions}"),
        "innover_postgres_connections_refused_total 0".to_owned(),
    ] {
        assert!(metrics.contains(&line), "no `{line}` in {metrics}");
    }
}
