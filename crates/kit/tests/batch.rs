//! Batches and idempotency on a real SQLite database. Native batches run their steps in a different
//! order each time, so what passes here does not lean on an order.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use innover_kit::{
    Answer, Batch, Cause, Code, Db, Expect, Failure, Job,
    idempotency::{self, IdempotencyKey},
    params,
};
use serde_json::{Map, Value as Json, json};

const SCHEMA: &str = "
    CREATE TABLE account (id TEXT PRIMARY KEY, balance BIGINT NOT NULL, version BIGINT NOT NULL);
    CREATE TABLE note (id TEXT PRIMARY KEY, text TEXT NOT NULL);
    CREATE TABLE outbox (id TEXT PRIMARY KEY, topic TEXT NOT NULL, key TEXT NOT NULL, key_version BIGINT NOT NULL, type TEXT NOT NULL, payload TEXT NOT NULL, headers TEXT NOT NULL, created_at BIGINT NOT NULL);
    CREATE TABLE idempotency (id TEXT PRIMARY KEY, fields TEXT NOT NULL, status BIGINT NOT NULL, response TEXT NOT NULL, created_at BIGINT NOT NULL);
    INSERT INTO account VALUES ('a', 100, 1), ('b', 0, 1);";

struct Store {
    _folder: tempfile::TempDir,
    file: std::path::PathBuf,
}

impl Store {
    fn new() -> Store {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("test.db");
        rusqlite::Connection::open(&file)
            .unwrap()
            .execute_batch(SCHEMA)
            .unwrap();
        Store {
            _folder: folder,
            file,
        }
    }

    fn db(&self) -> Db {
        Db::open_file(&self.file).unwrap()
    }
}

async fn balance(db: &Db, id: &str) -> i64 {
    let rows = db
        .query("SELECT balance FROM account WHERE id = $1", params![id])
        .await
        .unwrap();
    rows[0].int(0).unwrap()
}

/// Takes 60 from `a`, gives it to `b`, and leaves a note: two tables and a guard.
fn transfer() -> Batch {
    let mut batch = Batch::new();
    batch.step(
        "balances",
        "UPDATE account SET balance = account.balance + r.delta, version = account.version + 1
         FROM rows($1: id TEXT, delta BIGINT) r
         WHERE account.id = r.id AND account.balance + r.delta >= 0",
        params![vec![params!["a", -60], params!["b", 60]]],
        Expect::Rows(2),
    );
    batch.step(
        "note",
        "INSERT INTO note (id, text) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING",
        params![innover_kit::ids::new_uuid(), "moved 60"],
        Expect::Rows(1),
    );
    batch
}

/// As SQLite does where the disk is full or fails. What comes next on that connection must not be written
/// step by step.
#[tokio::test]
async fn after_a_transaction_that_sqlite_has_rolled_back_itself_nothing_is_written_in_parts() {
    let store = Store::new();
    let file = rusqlite::Connection::open(&store.file).unwrap();
    let full = "CREATE TRIGGER full BEFORE INSERT ON note WHEN NEW.text <> 'fits'
                BEGIN SELECT RAISE(ROLLBACK, 'no room'); END";
    file.execute_batch(full).unwrap();
    let mut db = store.db();
    for _ in 0..8 {
        assert!(transfer().commit(&mut db).await.is_err());
    }
    assert_eq!(balance(&store.db(), "a").await, 100);
    file.execute_batch("DROP TRIGGER full").unwrap();
    let mut db = store.db();
    transfer().commit(&mut db).await.unwrap();
    assert_eq!(balance(&db, "a").await, 40);
}

#[tokio::test]
async fn a_batch_whose_guard_fails_leaves_nothing_behind_and_the_connection_usable() {
    let store = Store::new();
    let mut db = store.db();
    transfer().commit(&mut db).await.unwrap();
    let error = transfer().commit(&mut db).await.unwrap_err();
    assert_eq!(error.step(), Some("balances"));
    assert_eq!((balance(&db, "a").await, balance(&db, "b").await), (40, 60));
    assert_eq!(
        db.query("SELECT id FROM note", vec![]).await.unwrap().len(),
        1
    );
    let mut batch = Batch::new();
    batch.step(
        "note",
        "INSERT INTO note (id, text) VALUES ($1, $2)",
        params!["x", "y"],
        Expect::Rows(1),
    );
    batch.commit(&mut db).await.unwrap();
}

#[tokio::test]
async fn row_sets_carry_any_text_and_any_integer() {
    let store = Store::new();
    let mut db = store.db();
    let texts = [
        "",
        "o'neil",
        "quote \" and \\",
        "snow ☃ \u{0}x",
        "[1,2]",
        "null",
    ];
    let rows: Vec<_> = texts
        .iter()
        .enumerate()
        .map(|(i, t)| params![format!("n{i}"), *t])
        .collect();
    let mut batch = Batch::new();
    batch.step(
        "note",
        "INSERT INTO note (id, text) SELECT r.id, r.text FROM rows($1: id TEXT, text TEXT) r WHERE true",
        params![rows],
        Expect::Rows(texts.len() as u64),
    );
    batch.commit(&mut db).await.unwrap();
    for (i, text) in texts.iter().enumerate() {
        let rows = db
            .query(
                "SELECT text FROM note WHERE id = $1",
                params![format!("n{i}")],
            )
            .await
            .unwrap();
        assert_eq!(rows[0].text(0).unwrap(), *text);
    }
    let extremes = [i64::MIN, -1, 0, i64::MAX];
    let rows = db
        .query(
            "SELECT n FROM rows($1: n BIGINT) r",
            vec![innover_kit::db::column(extremes)],
        )
        .await
        .unwrap();
    assert_eq!(
        rows.iter().map(|r| r.int(0).unwrap()).collect::<Vec<_>>(),
        extremes
    );
}

fn fields(amount: &str) -> Map<String, Json> {
    json!({"amount": amount, "currency": "EUR"})
        .as_object()
        .unwrap()
        .clone()
}

fn key(amount: &str) -> IdempotencyKey {
    IdempotencyKey::new("usr_1", "POST", "/v1/process", "k1", &fields(amount))
}

async fn send(db: &mut Db, amount: &str, answer: &str) -> Result<Answer, Failure> {
    let answer = Answer::json(202, &json!({ "id": answer }))?;
    Ok(idempotency::commit(db, transfer(), Some(&key(amount)), answer).await?)
}

#[tokio::test]
async fn a_repeated_key_gets_the_first_answer_and_no_second_effect() {
    let store = Store::new();
    let mut db = store.db();
    let first = send(&mut db, "60.00", "pay_1").await.unwrap();
    let again = send(&mut db, "60.00", "pay_2").await.unwrap();
    assert!(again.replayed && !first.replayed);
    assert_eq!((again.status, &again.body), (first.status, &first.body));
    assert_eq!(balance(&db, "a").await, 40);
    let replay = key("60.00").replay(&db).await.unwrap().unwrap();
    assert_eq!(replay.body, first.body);
}

#[tokio::test]
async fn a_key_used_for_another_request_is_refused_naming_what_differs() {
    let store = Store::new();
    let mut db = store.db();
    send(&mut db, "60.00", "pay_1").await.unwrap();
    let failure = key("61.00").replay(&db).await.unwrap_err();
    assert_eq!(failure.code(), Code::IdempotencyKeyReused);
    assert_eq!(failure.0.differing_fields, ["/amount"]);
}

#[tokio::test]
async fn scopes_of_a_key_do_not_run_together() {
    let store = Store::new();
    let mut db = store.db();
    send(&mut db, "60.00", "pay_1").await.unwrap();
    for (caller, method, path, key) in [
        ("usr_2", "POST", "/v1/process", "k1"),
        ("usr_1", "PUT", "/v1/process", "k1"),
        ("usr_1", "POST", "/v1/processk", "1"),
        ("usr_1", "POST", "/v1/process", "k2"),
    ] {
        let other = IdempotencyKey::new(caller, method, path, key, &fields("60.00"));
        assert_eq!(other.replay(&db).await.unwrap(), None);
    }
}

#[tokio::test]
async fn the_id_of_a_key_is_the_id_of_its_record_whatever_the_body_says() {
    let store = Store::new();
    let mut db = store.db();
    send(&mut db, "60.00", "pay_1").await.unwrap();
    let sql = "SELECT id FROM idempotency";
    let rows = db.query(sql, params![]).await.unwrap();
    assert_eq!(rows[0].text(0).unwrap(), key("60.00").id());
    assert_eq!(key("61.00").id(), key("60.00").id());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_concurrent_twins_one_takes_effect_and_all_get_its_answer() {
    let store = std::sync::Arc::new(Store::new());
    let twins: Vec<_> = (0..16)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move {
                send(&mut store.db(), "60.00", &format!("pay_{n}"))
                    .await
                    .unwrap()
                    .body
            })
        })
        .collect();
    let mut bodies = std::collections::BTreeSet::new();
    for twin in twins {
        bodies.insert(twin.await.unwrap());
    }
    assert_eq!(bodies.len(), 1, "{bodies:?}");
    assert_eq!(balance(&store.db(), "a").await, 40);
}

/// Tests of one file share a database that the first of them makes; none of them may be told that
/// it is locked because others open it at that moment.
#[test]
fn many_connections_open_a_new_database_at_once() {
    for _ in 0..50 {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("new.db");
        let made = rusqlite::Connection::open(&file).unwrap();
        made.execute_batch(SCHEMA).unwrap();
        drop(made);
        let all_there = std::sync::Barrier::new(8);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    all_there.wait();
                    drop(Db::open_file(&file).unwrap());
                });
            }
        });
    }
}

#[tokio::test]
async fn an_enqueued_job_keeps_its_times_and_its_priority() {
    let store = Store::new();
    let mut job = Job::new("q1", "greeter.tally", vec![json!(true)]);
    (job.eta, job.expires, job.priority) = (Some(1), Some(2), 3);
    job.soft_limit_ms = Some(4);
    let mut batch = Batch::new();
    batch.enqueue("greeter-tasks", job.clone(), Cause::default());
    batch.commit(&mut store.db()).await.unwrap();
    let sql = "SELECT topic, type, payload FROM outbox";
    let rows = store.db().query(sql, params![]).await.unwrap();
    let text = |i| rows[0].text(i).unwrap();
    assert_eq!((text(0), text(1)), ("greeter-tasks", "task:greeter.tally"));
    assert_eq!(serde_json::from_str::<Job>(text(2)).unwrap(), job);
}
