//! SQLite through the guest's eyes: transactions, the write lock, and what SQL may not do.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod common;

use std::time::{Duration, Instant};

use common::{App, one, start};
use futures::StreamExt;
use http::StatusCode;
use innover_host::CallError;

const TABLE: &str = "CREATE TABLE transfer (id INTEGER PRIMARY KEY, amount BIGINT, note TEXT)";

async fn with_table() -> App {
    let app = start(&one("sqlite_databases = [\"default\"]")).await;
    assert_eq!(app.exec("default", TABLE).await, Vec::<String>::new());
    app
}

async fn count(app: &App) -> String {
    app.exec("default", "SELECT count(*) FROM transfer")
        .await
        .join("")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_connection_writes_ahead_and_checks_foreign_keys() {
    let app = with_table().await;
    let answers = app
        .exec(
            "default",
            "PRAGMA journal_mode\nPRAGMA synchronous\nPRAGMA foreign_keys",
        )
        .await;
    // NORMAL: what waits for the disk is the answer, not the commit (docs/decisions/0003).
    assert_eq!(answers, ["wal", "1", "1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sql_cannot_leave_its_file_or_weaken_it() {
    let app = with_table().await;
    let outside = app.folder.path().join("outside.db");
    for statement in [
        format!("ATTACH DATABASE '{}' AS x", outside.display()),
        format!("VACUUM INTO '{}'", outside.display()),
        "DETACH main".into(),
        "SELECT load_extension('x')".into(),
        "PRAGMA synchronous = OFF".into(),
        "PRAGMA synchronous = NORMAL".into(),
        "PRAGMA journal_mode = DELETE".into(),
        "PRAGMA journal_mode = MEMORY".into(),
        "PRAGMA foreign_keys = OFF".into(),
        "PRAGMA writable_schema = ON".into(),
        "PRAGMA temp_store_directory = '/tmp'".into(),
        "PRAGMA locking_mode = EXCLUSIVE".into(),
        "PRAGMA wal_checkpoint(TRUNCATE)".into(),
        "SELECT 1; SELECT 2".into(),
        "SELECT length(zeroblob(100000000))".into(),
    ] {
        let answer = app.exec("default", &statement).await;
        assert!(
            answer.concat().starts_with("error "),
            "{statement}: {answer:?}"
        );
    }
    assert!(!outside.exists());
    // What a guest sets for stock Spin is accepted; it changes nothing that would matter.
    for (statement, expected) in [
        ("PRAGMA busy_timeout = 5000", ""),
        ("PRAGMA foreign_keys = ON", ""),
        ("PRAGMA synchronous = FULL", ""),
        ("PRAGMA journal_mode = WAL", "wal"),
        ("PRAGMA defer_foreign_keys = ON", ""),
        (
            "PRAGMA table_info(transfer)",
            "0|id|INTEGER|0|null|1,1|amount|BIGINT|0|null|0,2|note|TEXT|0|null|0",
        ),
        ("SELECT group_concat(value) FROM json_each('[1,2]')", "1,2"),
    ] {
        assert_eq!(
            app.exec("default", statement).await.concat(),
            expected,
            "{statement}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_statement_that_does_not_end_is_ended() {
    let app = with_table().await;
    let endless =
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c) SELECT sum(x) FROM c";
    let answer = app.exec("default", endless).await.concat();
    assert!(answer.contains("took longer"), "{answer}");
    assert_eq!(count(&app).await, "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_transactions_all_commit() {
    let app = with_table().await;
    let answers = futures::stream::iter((0..400).map(|_| app.get("/transfer?label=default")))
        .buffer_unordered(64)
        .collect::<Vec<_>>()
        .await;
    for answer in answers {
        assert_eq!(answer, (StatusCode::OK, "committed".into()));
    }
    let sums = app
        .exec("default", "SELECT count(*), sum(amount) FROM transfer")
        .await;
    assert_eq!(sums, ["400|2800"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_guest_that_traps_in_a_transaction_leaves_nothing_and_blocks_nobody() {
    let app = with_table().await;
    let trapped = app.call("a", "/transfer?label=default&end=trap", "").await;
    assert_eq!(trapped.err(), Some(CallError::Trapped));
    // A lock that was not given back would be an error.
    assert_eq!(app.get("/transfer?label=default").await.0, StatusCode::OK);
    assert_eq!(count(&app).await, "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_connection_dropped_in_a_transaction_is_rolled_back_before_its_next_use() {
    let app = with_table().await;
    assert_eq!(
        app.get("/transfer?label=default&end=forget").await.1,
        "left open"
    );
    assert_eq!(app.get("/transfer?label=default").await.1, "committed");
    assert_eq!(count(&app).await, "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_failing_statement_keeps_the_transaction_and_its_lock() {
    let app = with_table().await;
    let answers = app
        .exec(
            "default",
            "BEGIN IMMEDIATE\nINSERT INTO transfer (amount) VALUES (1)\nINSERT INTO absent VALUES (1)\n\
             INSERT INTO transfer (amount) VALUES (2)\nCOMMIT\nSELECT count(*) FROM transfer",
        )
        .await;
    assert!(answers[2].contains("no such table"), "{answers:?}");
    assert_eq!(answers[5], "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn wrong_parameter_counts_are_refused() {
    let app = with_table().await;
    let answer = app.exec("default", "SELECT ?1").await.concat();
    assert!(answer.contains("error"), "{answer}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn native_code_and_guests_share_one_write_lock() {
    let app = with_table().await;
    let guard = app.host.lock_database("default").await.unwrap().unwrap();
    let writing = app.get("/transfer?label=default");
    tokio::pin!(writing);
    let early = tokio::time::timeout(Duration::from_millis(300), writing.as_mut()).await;
    assert!(
        early.is_err(),
        "the guest wrote although the lock was taken"
    );
    // Readers do not wait.
    assert_eq!(count(&app).await, "0");
    drop(guard);
    assert_eq!(writing.await.1, "committed");
    assert!(app.host.lock_database("nothing").await.is_none());
    assert!(
        app.metrics()
            .await
            .contains("innover_sqlite_lock_wait_seconds_count{database=\"default\"} 1")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_lock_that_is_not_given_back_is_an_error_after_five_seconds() {
    let app = with_table().await;
    let _guard = app.host.lock_database("default").await.unwrap().unwrap();
    let began = Instant::now();
    let (status, body) = app.get("/transfer?label=default").await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(body.contains("database is locked"), "{body}");
    assert!(
        began.elapsed() >= Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn commits_wake_whoever_follows_them_and_reads_do_not() {
    let app = start(&one("sqlite_databases = [\"default\", \"second\"]")).await;
    let mut commits = app.host.commits();
    app.exec("default", TABLE).await;
    app.exec("second", TABLE).await;
    assert_eq!(commits.changed().await.unwrap(), ["default", "second"]);
    app.exec(
        "second",
        "SELECT * FROM transfer\nBEGIN IMMEDIATE\nROLLBACK\nBEGIN\nSELECT 1\nCOMMIT",
    )
    .await;
    app.get("/transfer?label=default").await;
    assert_eq!(commits.changed().await.unwrap(), ["default"]);
    let quiet = tokio::time::timeout(Duration::from_millis(100), commits.changed()).await;
    assert!(quiet.is_err(), "{quiet:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn another_process_holding_the_file_is_waited_for() {
    let app = with_table().await;
    let file = app.folder.path().join("state/db/default.db");
    let other = rusqlite::Connection::open(file).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let writing = app.get("/transfer?label=default");
    tokio::pin!(writing);
    assert!(
        tokio::time::timeout(Duration::from_millis(200), writing.as_mut())
            .await
            .is_err()
    );
    other.execute_batch("COMMIT").unwrap();
    assert_eq!(writing.await.1, "committed");
}
