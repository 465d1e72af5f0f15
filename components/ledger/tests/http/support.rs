//! One platform for all tests, and callers of it.

use std::{collections::BTreeMap, sync::OnceLock};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use innover_kit::contract::{Identity, Keyring, service_token};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Another writer of the ledger's database: as long as it is there, requests wait.
pub fn lock() -> rusqlite::Connection {
    let (folder, _) = platform();
    let writer = rusqlite::Connection::open(folder.path().join("ledger.db")).expect("the file");
    let second = std::time::Duration::from_secs(1);
    writer.busy_timeout(second).expect("a limit");
    writer.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    writer
}

/// One platform for all tests: kit keeps connections per process. Tests use accounts of their own.
fn platform() -> &'static (TempDir, BTreeMap<String, [u8; 32]>) {
    static PLATFORM: OnceLock<(TempDir, BTreeMap<String, [u8; 32]>)> = OnceLock::new();
    PLATFORM.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ledger.db");
        let file = rusqlite::Connection::open(&path).expect("a file");
        file.execute_batch("PRAGMA journal_mode = WAL")
            .expect("switched");
        for migration in [
            include_str!("../../migrations/0001_init.sql"),
            include_str!("../../migrations/0002_one_row_for_an_id.sql"),
        ] {
            file.execute_batch(migration).expect("the migration");
        }
        let secrets: BTreeMap<String, [u8; 32]> = [
            ("ledger", 1),
            ("gateway", 2),
            ("wallet", 3),
            ("bridge", 4),
            ("payment", 5),
            ("refund", 6),
        ]
        .map(|(name, byte)| (name.to_owned(), [byte; 32]))
        .into();
        let ring = Keyring::build("ledger", &[], &secrets).encode();
        innover_kit::config::set("keyring", &ring);
        innover_kit::config::set("database_url", &format!("sqlite:{}", path.display()));
        (folder, secrets)
    })
}

#[derive(Clone)]
pub struct Caller {
    pub service: &'static str,
    pub identity: Identity,
}

pub fn person(name: &str, role: &str, scope: &str) -> Caller {
    let identity = Identity {
        sub: format!("usr_{name}"),
        preferred_username: name.into(),
        roles: vec![role.into()],
        scope: scope.into(),
        ..Default::default()
    };
    Caller {
        service: "gateway",
        identity,
    }
}

pub fn finance() -> Caller {
    person("finance", "finance", "ledger:read ledger:write")
}

pub fn wallet_for_a_user() -> Caller {
    Caller {
        service: "wallet",
        ..person("anna", "user", "wallet:read wallet:write")
    }
}

pub async fn ask(
    caller: &Caller,
    method: &str,
    path: &str,
    key: Option<&str>,
    body: Value,
) -> (u16, Value, bool) {
    let (_, secrets) = platform();
    let ring = Keyring::build(caller.service, &["ledger".into()], secrets);
    let token = service_token::mint(&ring, caller.service, "ledger", &caller.identity, "req-1")
        .expect("minted");
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .header(header::CONTENT_TYPE, "application/json");
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    let text = if body.is_null() {
        Bytes::new()
    } else {
        body.to_string().into()
    };
    let request = request.body(Full::new(text)).expect("a request");
    let response = innover_kit::serve(&ledger::SERVICE, request).await;
    let replayed = response.headers().contains_key("idempotency-replayed");
    let status = response.status().as_u16();
    let bytes = response
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    (
        status,
        serde_json::from_slice(&bytes).unwrap_or_default(),
        replayed,
    )
}

pub async fn open(id: &str, currency: &str) {
    let body = json!({"id": id, "code": "wallet", "name": "a wallet", "currency": currency,
                      "normal_side": "credit", "floor": "0"});
    let (status, answer, _) = ask(&wallet_for_a_user(), "POST", "/v1/accounts", None, body).await;
    assert_eq!(status, 201, "{answer}");
}

pub fn transfer(from: &str, to: &str, amount: &str) -> Value {
    json!({"reference": "a test", "postings": [
        {"account": from, "direction": "debit", "amount": amount, "currency": "EUR"},
        {"account": to, "direction": "credit", "amount": amount, "currency": "EUR"},
    ]})
}
