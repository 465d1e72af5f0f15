//! Measures the bridge alone: a payment's five hops and its job through the real relay, bus, delivery
//! and queue, with a door that commits the next outbox row as a component would (SQLite, FULL).
//!
//! `cargo run --release -p innover-bridge --example chain [payments]`

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use innover_bridge::{
    Bridge, BridgeConfig, Commits, Database, Delivery, Door, DoorError, NoGate, Place, QueueSpec,
    ServiceSpec, TaskSpec,
};
use rusqlite::{Connection, params};
use serde_json::{Value, json};
use tokio::sync::Notify;

type Error = Box<dyn std::error::Error>;

/// Service, what it subscribes to, and what it emits for which event.
const CHAIN: [(&str, &str, &str); 4] = [
    ("forex", "payment.initiated", "forex.converted"),
    ("ledger", "forex.converted", "ledger.posted"),
    ("wallet", "ledger.posted", "wallet.updated"),
    ("payment", "wallet.updated", "task:payment.confirm"),
];

struct Components {
    databases: HashMap<&'static str, Mutex<Connection>>,
    commits: Commits,
    done: Mutex<usize>,
    all_done: Notify,
}

fn open(path: &Path) -> Result<Connection, rusqlite::Error> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS outbox (id TEXT PRIMARY KEY, topic TEXT, key TEXT, key_version BIGINT,
         type TEXT, payload TEXT, headers TEXT, created_at BIGINT)",
    )?;
    Ok(connection)
}

fn write(
    connection: &Connection,
    rows: &[(String, String)],
    kind: &str,
) -> Result<(), rusqlite::Error> {
    let (topic, task) = match kind.strip_prefix("task:") {
        Some(task) => ("payment-tasks", Some(task)),
        None => (kind, None),
    };
    connection.execute_batch("BEGIN IMMEDIATE")?;
    for (id, key) in rows {
        let payload = match task {
            Some(task) => json!({"id": id, "task": task, "args": [key]}),
            None => {
                json!({"payment_id": key, "amount_minor": 12_345, "currency": "EUR", "note": "x".repeat(200)})
            }
        };
        connection
            .prepare_cached("INSERT OR IGNORE INTO outbox VALUES (?1, ?2, ?3, 1, ?4, ?5, '{}', 0)")?
            .execute(params![id, topic, key, kind, payload.to_string()])?;
    }
    connection.execute_batch("COMMIT")
}

impl Components {
    fn handle(&self, delivery: &Delivery<'_>) -> Result<Value, Error> {
        let body: Value = serde_json::from_slice(&delivery.body)?;
        let items = body
            .get("jobs")
            .unwrap_or(&body)
            .as_array()
            .ok_or("no list")?;
        if delivery.path == innover_bridge::TASKS_PATH {
            let mut done = self.done.lock().map_err(|_| "poisoned")?;
            *done += items.len();
            self.all_done.notify_one();
        } else {
            let (service, _, emits) = CHAIN
                .iter()
                .find(|c| c.0 == delivery.service)
                .ok_or("no such service")?;
            let rows: Vec<(String, String)> = items
                .iter()
                .map(|e| e["partitionkey"].as_str().unwrap_or_default())
                .map(|key| (format!("{emits}-{key}"), key.to_owned()))
                .collect();
            let connection = self.databases[service].lock().map_err(|_| "poisoned")?;
            write(&connection, &rows, emits)?;
            self.commits.committed(service);
        }
        let results: Vec<Value> = items
            .iter()
            .map(|i| json!({"id": i["id"], "status": 200}))
            .collect();
        Ok(json!({"results": results}))
    }
}

struct InProcess(Arc<Components>);

impl Door for InProcess {
    fn deliver<'a>(
        &'a self,
        delivery: Delivery<'a>,
    ) -> BoxFuture<'a, Result<(u16, Bytes), DoorError>> {
        async move {
            let answer = tokio::task::block_in_place(|| self.0.handle(&delivery));
            answer
                .map(|a| (200, a.to_string().into()))
                .map_err(|e| DoorError::Failed(e.to_string()))
        }
        .boxed()
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Error> {
    let payments: usize = std::env::args().nth(1).map_or(Ok(5_000), |n| n.parse())?;
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(format!("{name}.db"));
    let services: Vec<ServiceSpec> = CHAIN
        .iter()
        .map(|(name, subscribes, _)| ServiceSpec {
            name: name.to_string(),
            database: Some(Database {
                label: name.to_string(),
                place: Place::File(path(name)),
            }),
            subscribes: vec![subscribes.to_string()],
            event_batch: 100,
            queue: (*name == "payment").then(|| QueueSpec {
                name: "payment-tasks".into(),
                aliases: vec![],
                concurrency: 2,
                tasks: BTreeMap::from([(
                    "payment.confirm".into(),
                    TaskSpec {
                        batch: 50,
                        ..Default::default()
                    },
                )]),
            }),
            schedules: vec![],
        })
        .collect();
    let databases: HashMap<_, _> = CHAIN
        .iter()
        .map(|c| Ok((c.0, Mutex::new(open(&path(c.0))?))))
        .collect::<Result<_, rusqlite::Error>>()?;
    let commits = Commits::new(&services);
    let components = Arc::new(Components {
        databases,
        commits: commits.clone(),
        done: Mutex::new(0),
        all_done: Notify::new(),
    });
    let config = BridgeConfig::new(folder.path().join("bridge.db"), services);
    let door = Arc::new(InProcess(components.clone()));
    let bridge = Bridge::start(config, door, Arc::new(NoGate), commits.clone()).await?;

    let api = open(&path("payment"))?;
    let wait_for = async |count: usize| {
        while components.done.lock().map_or(0, |d| *d) < count {
            components.all_done.notified().await;
        }
    };
    let mut idle = Vec::new();
    for n in 0..50 {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let started = Instant::now();
        write(
            &api,
            &[(format!("idle-{n}"), format!("idle-{n}"))],
            "payment.initiated",
        )?;
        commits.committed("payment");
        wait_for(n + 1).await;
        idle.push(started.elapsed());
    }
    idle.sort();
    println!(
        "idle: {:?} median, {:?} p95, {:?} max",
        idle[25], idle[47], idle[49]
    );

    let started = Instant::now();
    for group in 0..payments / 20 {
        let rows: Vec<_> = (0..20)
            .map(|n| (format!("load-{group}-{n}"), format!("load-{group}-{n}")))
            .collect();
        tokio::task::block_in_place(|| write(&api, &rows, "payment.initiated"))?;
        commits.committed("payment");
    }
    wait_for(50 + payments / 20 * 20).await;
    let took = started.elapsed();
    println!(
        "load: {payments} payments in {took:?}, {:.0}/s",
        payments as f64 / took.as_secs_f64()
    );
    bridge.shutdown().await;
    Ok(())
}
