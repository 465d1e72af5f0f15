//! A wallet service, its callers, and wallets with money in them.

use std::sync::OnceLock;

use innover_kit::{
    Batch, Db, Event, Job,
    contract::Identity,
    testing::{Platform, Reply, person},
};
use innover_money::Currency;
use serde_json::{Value, json};
use wallet::{
    model::{State, Wallet},
    store,
};

use crate::books::books;

pub fn platform() -> &'static Platform {
    static PLATFORM: OnceLock<Platform> = OnceLock::new();
    PLATFORM.get_or_init(|| {
        let migration = include_str!("../../migrations/0001_init.sql");
        let callers = ["gateway", "bridge", "ledger", "forex"];
        let platform = Platform::start(&wallet::SERVICE, migration, &callers);
        let limits = "0=250.00/500.00, 1=2000.00/5000.00, 2=15000.00/30000.00, 3=none";
        innover_kit::config::set("wallet_limits", limits);
        platform
    })
}

pub fn user(name: &str) -> Identity {
    person(&format!("usr_{name}"), "user", "wallet:read wallet:write")
}

pub fn finance() -> Identity {
    let scope = "wallet:read wallet:write ledger:read ledger:write";
    person("usr_finance", "finance", scope)
}

pub fn ops() -> Identity {
    person("usr_ops", "ops_user", "wallet:read jobs:write")
}

/// A wallet `wal_<name>` of `usr_<owner>` with so many minor units.
pub async fn add(name: &str, owner: &str, currency: &str, posted: i64) -> String {
    platform();
    let wallet = Wallet {
        id: format!("wal_{name}"),
        owner: format!("usr_{owner}"),
        currency: Currency::parse(currency).unwrap(),
        state: State::Active,
        account_id: format!("acc_{name}"),
        posted,
        held: 0,
        account_version: 1,
        version: 1,
        created_at: 1,
    };
    books().open(&wallet.account_id, currency, posted);
    let mut db = Db::open().await.unwrap();
    let mut batch = Batch::new();
    store::insert(&mut batch, &wallet);
    batch.commit(&mut db).await.unwrap();
    wallet.id
}

/// POSTs with a key.
pub async fn post(who: &Identity, path: &str, key: &str, body: Value) -> Reply {
    platform()
        .send(
            "gateway",
            who,
            "POST",
            path,
            Some(body.to_string()),
            Some(key),
        )
        .await
}

pub async fn get(who: &Identity, path: &str) -> Reply {
    platform().call(who, "GET", path, None).await
}

pub async fn transfer(who: &Identity, from: &str, to: &str, amount: &str, key: &str) -> Reply {
    let body = json!({"to_wallet": to, "amount": amount, "currency": "EUR", "reference": "rent"});
    post(who, &format!("/v1/wallets/{from}/transfers"), key, body).await
}

pub async fn hold(who: &Identity, wallet: &str, payee: Option<&str>, amount: &str) -> String {
    let body = json!({"amount": amount, "currency": "EUR", "payee_wallet": payee});
    let path = format!("/v1/wallets/{wallet}/holds");
    let placed = post(who, &path, &innover_kit::ids::new_uuid(), body).await;
    assert_eq!(
        (placed.status, &placed.body["state"]),
        (201, &json!("held")),
        "{}",
        placed.body
    );
    placed.body["id"].as_str().unwrap().to_owned()
}

/// Posted and held, as a wallet shows them.
pub async fn balance(wallet: &str) -> (String, String) {
    let shown = get(&finance(), &format!("/v1/wallets/{wallet}")).await.body;
    let text = |name: &str| shown["balance"][name].as_str().unwrap().to_owned();
    (text("posted"), text("held"))
}

/// What is used of an owner's day.
pub async fn used(wallet: &str) -> String {
    let limits = get(&finance(), &format!("/v1/wallets/{wallet}/limits")).await;
    assert_eq!(limits.status, 200, "{}", limits.body);
    limits.body["per_day"]["used"].as_str().unwrap().to_owned()
}

/// The first column of the first row of a query.
pub fn one(sql: &str) -> String {
    platform().rows(sql)[0][0].clone()
}

/// Changes what is stored, as no request would.
pub fn tamper(sql: &str) {
    let db = rusqlite::Connection::open(&platform().database).unwrap();
    assert!(db.execute(sql, []).unwrap() > 0, "{sql}");
}

/// Payloads of an event about a key, oldest first.
pub fn told(kind: &str, key: &str) -> Vec<Value> {
    let sql =
        format!("SELECT payload FROM outbox WHERE type = '{kind}' AND key = '{key}' ORDER BY id");
    let rows = platform().rows(&sql);
    rows.iter()
        .map(|row| serde_json::from_str(&row[0]).unwrap())
        .collect()
}

/// Delivers an event of the ledger.
pub async fn deliver(kind: &str, key: &str, data: Value) -> Reply {
    deliver_from("ledger", kind, key, data).await
}

pub async fn deliver_from(service: &str, kind: &str, key: &str, data: Value) -> Reply {
    let event = Event {
        specversion: "1.0".into(),
        id: innover_kit::ids::new_uuid(),
        source: format!("/innover/{service}"),
        kind: kind.into(),
        subject: key.into(),
        time: "2026-11-20T12:00:00Z".into(),
        datacontenttype: "application/json".into(),
        dataschema: String::new(),
        partitionkey: key.into(),
        traceparent: None,
        correlationid: None,
        idempotencykey: None,
        authid: None,
        data,
    };
    let body = serde_json::to_string(&[event]).unwrap();
    let media = "application/cloudevents-batch+json";
    let reply = platform()
        .send_as("bridge", &deliverer(), "/_events", media, body)
        .await;
    assert_eq!(reply.body["results"][0]["status"], 200, "{}", reply.body);
    reply
}

/// Runs a job; returns its result.
pub async fn run(task: &str, args: Vec<Value>) -> Value {
    let job = Job::new(innover_kit::ids::new_uuid(), task, args);
    let body = json!({ "jobs": [job] }).to_string();
    let reply = platform()
        .send("bridge", &deliverer(), "POST", "/_tasks", Some(body), None)
        .await;
    let result = &reply.body["results"][0];
    assert_eq!(result["status"], 200, "{}", reply.body);
    result["result"].clone()
}

fn deliverer() -> Identity {
    Identity {
        scope: innover_kit::contract::service_token::SCOPE_DELIVER.into(),
        ..Default::default()
    }
}

/// Tests that look at everything there is take their turns, and so do those whose wallets a rebuild
/// closes, because the ledger has closed their accounts.
pub async fn alone() -> tokio::sync::MutexGuard<'static, ()> {
    static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    ALONE.lock().await
}
