//! A migrated database of its own for each test, and wallets to put into it.

use innover_kit::{Batch, Db, Event};
use innover_money::Currency;
use serde_json::{Value, json};
use tempfile::TempDir;
use wallet::{
    model::{State, Wallet},
    store,
};

pub struct Database {
    folder: TempDir,
}

impl Database {
    pub fn new() -> Database {
        let folder = tempfile::tempdir().expect("a folder");
        let file = rusqlite::Connection::open(folder.path().join("wallet.db")).expect("a file");
        file.execute_batch(include_str!("../../migrations/0001_init.sql"))
            .expect("the migration");
        Database { folder }
    }

    pub fn connect(&self) -> Db {
        Db::open_file(&self.folder.path().join("wallet.db")).expect("a connection")
    }
}

pub fn wallet(name: &str) -> Wallet {
    Wallet {
        id: format!("wal_{name}"),
        owner: "usr_anna".into(),
        currency: Currency::EUR,
        state: State::Active,
        account_id: format!("acc_{name}"),
        posted: 0,
        held: 0,
        account_version: 0,
        version: 1,
        created_at: 1,
    }
}

pub async fn add(db: &mut Db, names: &[&str]) {
    for name in names {
        let mut batch = Batch::new();
        store::insert(&mut batch, &wallet(name));
        batch.commit(db).await.expect("added");
    }
}

/// `ledger.posted` of an entry that left these accounts so: name, posted, version.
pub fn posted(entry: &str, payment: Option<&str>, accounts: &[(&str, i64, i64)]) -> Event {
    let accounts: Vec<Value> = accounts
        .iter()
        .map(|(name, posted, version)| {
            json!({"account_id": format!("acc_{name}"), "currency": "EUR", "posted_minor": posted,
                   "held_minor": 0, "version": version})
        })
        .collect();
    let key = payment.unwrap_or(entry);
    Event {
        specversion: "1.0".into(),
        id: innover_kit::ids::new_uuid(),
        source: "/innover/ledger".into(),
        kind: "ledger.posted".into(),
        subject: key.into(),
        time: "2026-10-30T12:00:00Z".into(),
        datacontenttype: "application/json".into(),
        dataschema: String::new(),
        partitionkey: key.into(),
        traceparent: None,
        correlationid: Some("req-1".into()),
        idempotencykey: None,
        authid: None,
        data: json!({"entry_id": entry, "kind": "payment", "payment_id": payment, "reference": "",
                     "accounts": accounts}),
    }
}

/// The payloads in the outbox, oldest first.
pub async fn told(db: &Db) -> Vec<Value> {
    let rows = db
        .query("SELECT type, payload FROM outbox ORDER BY id", vec![])
        .await
        .expect("read");
    rows.iter()
        .map(|row| {
            assert_eq!(row.text(0).expect("text"), "wallet.updated");
            serde_json::from_str(row.text(1).expect("text")).expect("JSON")
        })
        .collect()
}
