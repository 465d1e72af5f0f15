//! A platform without components: service databases with an outbox, and a door that answers by rule.
//!
//! With `INNOVER_TEST_POSTGRES=postgres://admin:password@host:port/database` its jobs are in a database
//! of its own there instead of in the bridge's file, unless it runs on tokio's clock: on a paused one
//! nothing waits for a server.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use innover_bridge::{
    Bridge, BridgeConfig, Clock, Commits, Database, Delivery, Door, DoorError, NoGate, Place,
    QueueSpec, ServiceSpec, TaskSpec,
    inspect::{JobFilter, JobRow, JobStore},
};
use rusqlite::{Connection, params};
use serde_json::{Value, json};

/// 2026-10-30T12:00:00Z.
pub const START: i64 = 1_793_361_600_000_000;

/// What the door answers for one event or job.
#[derive(Clone, Debug)]
pub enum Answer {
    Status(u16),
    /// The whole delivery is answered so.
    Whole(u16),
    /// Nothing listens.
    Unavailable,
    /// No answer before the deadline.
    Silence,
    /// 200 with this result (jobs).
    Result(Value),
    /// 200, but the answer leaves this item out.
    LeftOut,
}

/// One item as it was delivered.
#[derive(Clone, Debug)]
pub struct Seen {
    pub service: String,
    pub id: String,
    pub body: Value,
    /// The number of the delivery, and how many items it had.
    pub delivery: usize,
    pub of: usize,
    pub answer: Answer,
    pub traceparent: Option<String>,
}

type Rule = Box<dyn Fn(&str, &Value, usize) -> Answer + Send + Sync>;

/// Answers by a rule of (service, event or job, how often it was delivered before).
pub struct FakeDoor {
    rule: Mutex<Rule>,
    pub seen: Mutex<Vec<Seen>>,
    counts: Mutex<HashMap<(String, String), usize>>,
    pub takes: Mutex<Duration>,
    /// Items whose delivery has begun, ended or not.
    pub begun: Mutex<usize>,
    deliveries: Mutex<usize>,
}

impl FakeDoor {
    pub fn new(
        rule: impl Fn(&str, &Value, usize) -> Answer + Send + Sync + 'static,
    ) -> Arc<FakeDoor> {
        Arc::new(FakeDoor {
            rule: Mutex::new(Box::new(rule)),
            seen: Mutex::default(),
            counts: Mutex::default(),
            takes: Mutex::new(Duration::ZERO),
            begun: Mutex::new(0),
            deliveries: Mutex::new(0),
        })
    }

    pub fn ok() -> Arc<FakeDoor> {
        FakeDoor::new(|_, _, _| Answer::Status(200))
    }

    pub fn set(&self, rule: impl Fn(&str, &Value, usize) -> Answer + Send + Sync + 'static) {
        *self.rule.lock().unwrap() = Box::new(rule);
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn ids(&self, service: &str) -> Vec<String> {
        self.seen()
            .into_iter()
            .filter(|s| s.service == service)
            .map(|s| s.id)
            .collect()
    }
}

impl Door for FakeDoor {
    fn deliver<'a>(
        &'a self,
        delivery: Delivery<'a>,
    ) -> BoxFuture<'a, Result<(u16, Bytes), DoorError>> {
        async move {
            let body: Value = serde_json::from_slice(&delivery.body).unwrap();
            let items = body
                .get("jobs")
                .unwrap_or(&body)
                .as_array()
                .unwrap()
                .clone();
            *self.begun.lock().unwrap() += items.len();
            let takes = *self.takes.lock().unwrap();
            if !takes.is_zero() {
                tokio::time::sleep(takes).await;
            }
            let number = {
                let mut deliveries = self.deliveries.lock().unwrap();
                *deliveries += 1;
                *deliveries
            };
            let (mut results, mut whole) = (Vec::new(), None);
            for item in &items {
                let id = item["id"].as_str().unwrap().to_owned();
                let before = {
                    let mut counts = self.counts.lock().unwrap();
                    let count = counts
                        .entry((delivery.service.to_owned(), id.clone()))
                        .or_default();
                    *count += 1;
                    *count - 1
                };
                let answer = (self.rule.lock().unwrap())(delivery.service, item, before);
                match &answer {
                    Answer::Status(status) => {
                        results.push(json!({"id": id, "status": status, "error": "as told"}))
                    }
                    Answer::Result(value) => {
                        results.push(json!({"id": id, "status": 200, "result": value}))
                    }
                    Answer::LeftOut => {}
                    other => whole = Some(other.clone()),
                }
                self.seen.lock().unwrap().push(Seen {
                    service: delivery.service.to_owned(),
                    id,
                    body: item.clone(),
                    delivery: number,
                    of: items.len(),
                    answer,
                    traceparent: delivery.traceparent.clone(),
                });
            }
            match whole {
                None => Ok((200, json!({"results": results}).to_string().into())),
                Some(Answer::Whole(status)) => Ok((status, Bytes::from_static(b"all of it"))),
                Some(Answer::Unavailable) => Err(DoorError::Unavailable("nothing listens".into())),
                Some(_) => {
                    tokio::time::sleep(delivery.deadline * 2).await;
                    Err(DoorError::Failed("too late".into()))
                }
            }
        }
        .boxed()
    }
}

/// A database for jobs on a server; it goes with the value.
pub struct JobsDatabase {
    admin: String,
    name: String,
}

impl JobsDatabase {
    /// `None` when there is no server.
    pub fn new() -> Option<JobsDatabase> {
        let admin = std::env::var("INNOVER_TEST_POSTGRES")
            .ok()
            .filter(|a| !a.is_empty())?;
        Some(JobsDatabase::on(admin))
    }

    /// On the server whose administrator's address this is.
    pub fn on(admin: String) -> JobsDatabase {
        let own = uuid::Uuid::now_v7().simple().to_string();
        let database = JobsDatabase {
            admin,
            name: format!("jobs_{own}"),
        };
        sql(
            &database.admin,
            &format!("CREATE DATABASE {} TEMPLATE template0", database.name),
        );
        for (_, migration) in innover_bridge::JOBS_MIGRATIONS {
            database.run(migration);
        }
        database
    }

    pub fn url(&self) -> String {
        let (server, _) = self.admin.rsplit_once('/').unwrap();
        format!("{server}/{}?sslmode=disable", self.name)
    }

    pub fn place(&self) -> Place {
        Place::Server {
            url: self.url(),
            authority: None,
        }
    }

    /// Runs statements; returns the first column of the rows as text.
    pub fn run(&self, statements: &str) -> Vec<String> {
        sql(&self.url(), statements)
    }
}

impl Drop for JobsDatabase {
    fn drop(&mut self) {
        sql(
            &self.admin,
            &format!("DROP DATABASE {} WITH (FORCE)", self.name),
        );
    }
}

fn sql(url: &str, statements: &str) -> Vec<String> {
    let (url, statements) = (url.to_owned(), statements.to_owned());
    apart(async move {
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls)
            .await
            .unwrap();
        tokio::spawn(connection);
        let rows = client.simple_query(&statements).await.unwrap();
        rows.iter()
            .filter_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => {
                    Some(row.get(0).unwrap_or_default().to_owned())
                }
                _ => None,
            })
            .collect()
    })
}

/// Runs it on a thread of its own: callers are in a runtime already.
fn apart<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    let thread = std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(work)
    });
    thread.join().unwrap()
}

/// A temporary platform.
pub struct Platform {
    pub folder: tempfile::TempDir,
    pub services: Vec<ServiceSpec>,
    pub clock: Clock,
    /// How far the clock of a bridge is behind the others'.
    pub lag: Duration,
    /// How far its clock is ahead.
    pub lead: Duration,
    /// Where jobs are, unless it is the bridge's file.
    pub jobs: Option<Arc<JobsDatabase>>,
}

impl Platform {
    /// Services by name with what they subscribe to; each has a database and the queue
    /// `<name>-tasks` with the task `<name>.run`.
    pub fn new(services: &[(&str, &[&str])]) -> Platform {
        Platform::with_jobs(services, JobsDatabase::new().map(Arc::new))
    }

    /// The same with jobs in a database that others may share, or in the file.
    pub fn with_jobs(services: &[(&str, &[&str])], jobs: Option<Arc<JobsDatabase>>) -> Platform {
        let folder = tempfile::tempdir().unwrap();
        let services = services
            .iter()
            .map(|(name, topics)| {
                let path = folder.path().join(format!("{name}.db"));
                let connection = Connection::open(&path).unwrap();
                connection.pragma_update(None, "journal_mode", "WAL").unwrap();
                connection
                    .execute_batch(
                        "CREATE TABLE outbox (id TEXT PRIMARY KEY, topic TEXT, key TEXT, key_version BIGINT,
                         type TEXT, payload TEXT, headers TEXT, created_at BIGINT)",
                    )
                    .unwrap();
                ServiceSpec {
                    name: name.to_string(),
                    database: Some(Database { label: name.to_string(), place: Place::File(path) }),
                    subscribes: topics.iter().map(|t| t.to_string()).collect(),
                    event_batch: 100,
                    queue: Some(QueueSpec {
                        name: format!("{name}-tasks"),
                        aliases: vec![],
                        concurrency: 2,
                        tasks: BTreeMap::from([(format!("{name}.run"), TaskSpec::default())]),
                    }),
                    schedules: vec![],
                }
            })
            .collect();
        Platform {
            folder,
            services,
            clock: Clock::System,
            lag: Duration::ZERO,
            lead: Duration::ZERO,
            jobs,
        }
    }

    fn shared(&self) -> Option<Place> {
        match self.clock {
            Clock::System => self.jobs.as_ref().map(|jobs| jobs.place()),
            Clock::Tokio { .. } => None,
        }
    }

    /// Where the jobs are.
    pub fn job_store(&self) -> JobStore {
        JobStore::new(self.shared().unwrap_or_else(|| Place::File(self.store()))).unwrap()
    }

    /// One job.
    pub fn job(&self, id: &str) -> Option<JobRow> {
        let (store, id) = (self.job_store(), id.to_owned());
        apart(async move { store.job(&id).await.unwrap() })
    }

    /// Changes rows behind the bridge's back.
    pub fn change_jobs(&self, statements: &str) {
        match (&self.clock, &self.jobs) {
            (Clock::System, Some(jobs)) => drop(jobs.run(statements)),
            _ => {
                let connection = Connection::open(self.store()).unwrap();
                connection.busy_timeout(Duration::from_secs(60)).unwrap();
                connection.execute_batch(statements).unwrap();
            }
        }
    }

    /// What is in the store, newest first.
    pub fn all_jobs(&self) -> Vec<JobRow> {
        let store = self.job_store();
        apart(async move { store.jobs(&JobFilter::default(), 10_000).await.unwrap() })
    }

    pub fn store(&self) -> PathBuf {
        self.folder.path().join("bridge.db")
    }

    pub fn service(&mut self, name: &str) -> &mut ServiceSpec {
        self.services.iter_mut().find(|s| s.name == name).unwrap()
    }

    pub fn queue(&mut self, name: &str) -> &mut QueueSpec {
        self.service(name).queue.as_mut().unwrap()
    }

    pub fn task(&mut self, name: &str) -> &mut TaskSpec {
        self.queue(name)
            .tasks
            .get_mut(&format!("{name}.run"))
            .unwrap()
    }

    pub fn config(&self) -> BridgeConfig {
        let mut config = BridgeConfig::new(self.store(), self.services.clone());
        let off = self.lead.as_micros() as i64 - self.lag.as_micros() as i64;
        config.clock = match off {
            0 => self.clock.clone(),
            _ => Clock::tokio(self.clock.now() + off),
        };
        config.shared = self.shared();
        config
    }

    pub async fn start(&self, door: &Arc<FakeDoor>) -> Bridge {
        self.start_with(door, Commits::default()).await
    }

    pub async fn start_with(&self, door: &Arc<FakeDoor>, commits: Commits) -> Bridge {
        Bridge::start(self.config(), door.clone(), Arc::new(NoGate), commits)
            .await
            .unwrap()
    }

    pub fn open(&self, service: &str) -> Connection {
        let connection =
            Connection::open(self.folder.path().join(format!("{service}.db"))).unwrap();
        connection.busy_timeout(Duration::from_secs(60)).unwrap();
        connection
    }

    /// Writes an event row as `kit` does.
    pub fn emit(&self, service: &str, id: &str, topic: &str, key: &str) {
        emit(
            &self.open(service),
            id,
            topic,
            key,
            &json!({"id": id}).to_string(),
        );
    }

    /// Writes a job row as `kit` does.
    pub fn push(&self, service: &str, queue: &str, job: &Value) {
        row(
            &self.open(service),
            job["id"].as_str().unwrap(),
            queue,
            "",
            &format!("task:{}", job["task"].as_str().unwrap()),
            &job.to_string(),
        );
    }

    pub fn outbox(&self, service: &str) -> i64 {
        self.open(service)
            .query_row("SELECT count(*) FROM outbox", [], |r| r.get(0))
            .unwrap()
    }
}

pub fn emit(connection: &Connection, id: &str, topic: &str, key: &str, payload: &str) {
    row(connection, id, topic, key, topic, payload);
}

pub fn row(connection: &Connection, id: &str, topic: &str, key: &str, kind: &str, payload: &str) {
    connection
        .prepare_cached(
            "INSERT INTO outbox (id, topic, key, key_version, type, payload, headers, created_at)
             VALUES (?1, ?2, ?3, 1, ?4, ?5, ?6, ?7)",
        )
        .unwrap()
        .execute(params![
            id,
            topic,
            key,
            kind,
            payload,
            r#"{"traceparent":"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01","correlationid":"req-1"}"#,
            START,
        ])
        .unwrap();
}

/// Waits for a condition, also on a machine that does ten things at once. On tokio's paused clock hours
/// pass at once, so looks are spaced out there, and each of those hours has work to be waited for.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let (began, paused) = (std::time::Instant::now(), is_paused());
    let patience = Duration::from_secs(if paused { 900 } else { 120 });
    let mut step = Duration::from_millis(5);
    while began.elapsed() < patience {
        if condition() {
            return;
        }
        tokio::time::sleep(step).await;
        if paused {
            step = (step * 5 / 4).min(Duration::from_secs(20));
        }
    }
    panic!("never happened: {what}");
}

/// Whether tokio's clock stands still while something is done.
fn is_paused() -> bool {
    let before = tokio::time::Instant::now();
    std::thread::sleep(Duration::from_millis(1));
    tokio::time::Instant::now() == before
}
