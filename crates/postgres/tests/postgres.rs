//! Connections to a real server, which the test command has started (tests/services/postgres).
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{path::PathBuf, sync::Arc, time::Duration};

use innover_postgres::Address;
use tokio::sync::Notify;

const STATEMENT: Duration = Duration::from_secs(10);

/// The server's address; `None` when there is none to test with.
fn server() -> Option<String> {
    let address = std::env::var("INNOVER_TEST_POSTGRES").ok();
    if address.is_none() {
        eprintln!("not tested: INNOVER_TEST_POSTGRES names no PostgreSQL");
    }
    address
}

/// The certificate of the server's authority; `None` when it has none.
fn authority() -> Option<String> {
    let folder = std::env::var("INNOVER_TEST_POSTGRES_FOLDER").ok()?;
    let file = PathBuf::from(folder).join("authority.pem");
    if !file.is_file() {
        eprintln!("not tested: the server has no certificate, for want of openssl");
        return None;
    }
    Some(std::fs::read_to_string(file).unwrap())
}

#[tokio::test]
async fn traffic_is_encrypted_for_a_server_of_the_named_authority_and_refused_for_others() {
    let (Some(server), Some(authority)) = (server(), authority()) else {
        return;
    };
    let url = format!("{server}?sslmode=require");
    let address = Address::parse(&url, Some(&authority), STATEMENT).unwrap();
    let client = address.connect().await.unwrap();
    let encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let row = client.query_one(encrypted, &[]).await.unwrap();
    assert!(row.get::<_, bool>(0), "the session is not encrypted");

    // Web browsers trust nobody who signed this.
    let stranger = Address::parse(&url, None, STATEMENT).unwrap();
    let error = stranger.connect().await.err().unwrap().to_string();
    assert!(error.contains("certificate"), "{error}");

    // Another name than the certificate's.
    let elsewhere = url.replace("127.0.0.1", "localhost");
    let address = Address::parse(&elsewhere, Some(&authority), STATEMENT).unwrap();
    let error = address.connect().await.err().unwrap().to_string();
    assert!(error.contains("certificate"), "{error}");
}

#[tokio::test]
async fn a_notification_is_told_to_whoever_listens() {
    let Some(server) = server() else { return };
    let address = Address::parse(&format!("{server}?sslmode=disable"), None, STATEMENT).unwrap();
    let bell = Arc::new(Notify::new());
    let rung = bell.clone();
    let listener = address
        .connect_with(move || rung.notify_one())
        .await
        .unwrap();
    listener.batch_execute("LISTEN innover_test").await.unwrap();
    let other = address.connect().await.unwrap();
    other.batch_execute("NOTIFY innover_test").await.unwrap();
    tokio::time::timeout(STATEMENT, bell.notified())
        .await
        .unwrap();
}
