//! Batches on a real PostgreSQL: one statement, all of it or nothing. `INNOVER_TEST_POSTGRES` is the
//! address of somebody who may create databases there; without it these tests say that they are left
//! out.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use innover_kit::{Batch, BatchError, Db, Expect, db::column, params};
use tokio_postgres::NoTls;

const SCHEMA: &str = "
    CREATE TABLE account (id TEXT PRIMARY KEY, balance BIGINT NOT NULL, version BIGINT NOT NULL);
    CREATE TABLE note (id TEXT PRIMARY KEY, text TEXT NOT NULL, number BIGINT);
    INSERT INTO account VALUES ('a', 100, 1), ('b', 0, 1);";

/// A schema of its own for a test, by the search path of its address.
async fn database(name: &str) -> Option<String> {
    let Ok(url) = std::env::var("INNOVER_TEST_POSTGRES") else {
        eprintln!("not tested: INNOVER_TEST_POSTGRES names no PostgreSQL");
        return None;
    };
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    tokio::spawn(connection);
    let made = format!(
        "DROP SCHEMA IF EXISTS {name} CASCADE; CREATE SCHEMA {name}; SET search_path = {name}; {SCHEMA}"
    );
    client.batch_execute(&made).await.unwrap();
    Some(format!("{url}?options=-csearch_path%3D{name}"))
}

async fn number(db: &Db, sql: &'static str) -> i64 {
    db.query(sql, vec![]).await.unwrap()[0].int(0).unwrap()
}

/// Takes `amount` from `a`, gives it to `b`, and leaves a note.
fn transfer(amount: i64, note: &str) -> Batch {
    let mut batch = Batch::new();
    batch.step(
        "balances",
        "UPDATE account SET balance = account.balance + r.delta, version = account.version + 1
         FROM rows($1: id TEXT, delta BIGINT) r
         WHERE account.id = r.id AND account.balance + r.delta >= 0",
        params![vec![params!["a", -amount], params!["b", amount]]],
        Expect::Rows(2),
    );
    batch.step(
        "note",
        "INSERT INTO note (id, text, number) SELECT $1, $2, $3 WHERE true ON CONFLICT (id) DO NOTHING",
        params![note, "moved", None::<i64>],
        Expect::Rows(1),
    );
    batch
}

#[tokio::test]
async fn a_batch_happens_whole_or_not_at_all_and_names_the_step_that_did_not_hold() {
    let Some(url) = database("kit_whole").await else {
        return;
    };
    let mut db = Db::open_postgres(&url).await.unwrap();
    transfer(60, "first").commit(&mut db).await.unwrap();
    for (amount, note, step, got) in [(60, "second", "balances", 1), (1, "first", "note", 0)] {
        match transfer(amount, note).commit(&mut db).await.unwrap_err() {
            BatchError::Expectation {
                step: s, got: g, ..
            } => assert_eq!((s, g), (step, got)),
            error => panic!("{error}"),
        }
    }
    let mut several = Batch::new();
    several.step(
        "notes",
        "INSERT INTO note (id, text) SELECT r.id, 'x' FROM rows($1: id TEXT) r WHERE true
         ON CONFLICT (id) DO NOTHING",
        vec![column(["new", "first", "newer"])],
        Expect::Rows(3),
    );
    let error = several.commit(&mut db).await.unwrap_err();
    assert_eq!(error.step(), Some("notes"), "{error}");
    assert_eq!(
        number(&db, "SELECT balance FROM account WHERE id = 'a'").await,
        40
    );
    assert_eq!(number(&db, "SELECT count(*) FROM note").await, 1);
    let null = db.query("SELECT number FROM note", vec![]).await.unwrap();
    assert_eq!(null[0].opt_int(0).unwrap(), None);
}

#[tokio::test]
async fn a_batch_built_on_another_commits_after_it_or_not_at_all() {
    let Some(url) = database("kit_follow").await else {
        return;
    };
    let mut db = Db::open_postgres(&url).await.unwrap();
    let mut other = Db::open_postgres(&url).await.unwrap();
    for (first_takes, left) in [(60, 30), (1_000, 30)] {
        let mut first = transfer(first_takes, &format!("first {first_takes}"));
        let mut second = transfer(10, &format!("second {first_takes}"));
        second.after([first.underway()]);
        let waiting = tokio::spawn(async move {
            let done = second.commit(&mut other).await;
            (done, other)
        });
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        assert!(!waiting.is_finished(), "nothing has become of the first");
        let done = first.commit(&mut db).await;
        let (followed, back) = waiting.await.unwrap();
        other = back;
        assert_eq!(followed.is_ok(), done.is_ok(), "{done:?} {followed:?}");
        assert_eq!(
            number(&db, "SELECT balance FROM account WHERE id = 'a'").await,
            left
        );
    }
    assert_eq!(number(&db, "SELECT count(*) FROM note").await, 2);
}

#[tokio::test]
async fn sets_of_rows_carry_any_text_and_any_integer_and_none_at_all() {
    let Some(url) = database("kit_rows").await else {
        return;
    };
    let mut db = Db::open_postgres(&url).await.unwrap();
    let texts = [
        "",
        "o'neil",
        "quote \" and \\",
        "snow ☃",
        "{1,2}",
        "NULL",
        "$1",
    ];
    let rows: Vec<_> = texts
        .iter()
        .enumerate()
        .map(|(i, t)| {
            params![
                *t,
                "x",
                if i == 1 {
                    None
                } else {
                    Some(i64::MIN + i as i64)
                }
            ]
        })
        .collect();
    let insert = |rows: Vec<Vec<_>>| {
        let mut batch = Batch::new();
        batch.step(
            "note",
            "INSERT INTO note (id, text, number)
             SELECT r.id, r.text, r.number FROM rows($1: id TEXT, text TEXT, number BIGINT) r WHERE true",
            params![rows],
            Expect::Any,
        );
        batch
    };
    insert(rows).commit(&mut db).await.unwrap();
    insert(Vec::new()).commit(&mut db).await.unwrap();
    let found = db
        .query(
            "SELECT id, number FROM note WHERE id IN (SELECT id FROM rows($1: id TEXT)) ORDER BY number",
            vec![column(texts)],
        )
        .await
        .unwrap();
    assert_eq!(found.len(), texts.len());
    assert_eq!(found[0].text(0).unwrap(), "");
    assert_eq!(found[0].int(1).unwrap(), i64::MIN);
    let sum = "SELECT CAST(COALESCE(SUM(balance), 0) AS BIGINT) + $1 FROM account WHERE $2 IS NULL";
    let total = db.query(sum, params![1, None::<i64>]).await.unwrap();
    assert_eq!(total[0].int(0).unwrap(), 101);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn writers_of_the_same_rows_in_opposite_orders_lose_nothing_and_end() {
    let Some(url) = database("kit_race").await else {
        return;
    };
    let mut all = tokio::task::JoinSet::new();
    for n in 0..8 {
        let url = url.clone();
        all.spawn(async move {
            let mut db = Db::open_postgres(&url).await.unwrap();
            for i in 0..50 {
                let mut batch = Batch::new();
                let mut rows = vec![params!["a", 1], params!["b", 1]];
                if (n + i) % 2 == 0 {
                    rows.reverse();
                }
                batch.step(
                    "balances",
                    "UPDATE account SET balance = account.balance + r.delta
                     FROM rows($1: id TEXT, delta BIGINT) r WHERE account.id = r.id",
                    params![rows],
                    Expect::Rows(2),
                );
                batch.commit(&mut db).await.unwrap();
            }
        });
    }
    while let Some(done) = all.join_next().await {
        done.unwrap();
    }
    let db = Db::open_postgres(&url).await.unwrap();
    assert_eq!(
        number(&db, "SELECT balance FROM account WHERE id = 'b'").await,
        400
    );
}

#[tokio::test]
async fn writers_queue_for_a_row_in_demand_or_once_a_race_was_lost_for_it_and_for_no_other() {
    let Some(url) = database("kit_claim").await else {
        return;
    };
    let open = async || Db::open_postgres(&url).await.unwrap();
    let moved = |version: i64| {
        let mut batch = Batch::new();
        batch.step(
            "version",
            "UPDATE account SET version = version + 1 WHERE id = 'a' AND version = $1",
            params![version],
            Expect::Rows(1),
        );
        batch
    };
    let (mut first, second, mut third) = (open().await, open().await, open().await);
    assert!(first.claim([("a", true)]).await.unwrap());
    assert!(!third.claim([("a", false), ("b", false)]).await.unwrap());
    {
        let waiting = second.claim([("b", false), ("a", true)]);
        tokio::pin!(waiting);
        let early = tokio::time::timeout(std::time::Duration::from_millis(200), &mut waiting);
        assert!(early.await.is_err(), "the row is claimed");
        moved(1).commit(&mut first).await.unwrap();
        assert!(waiting.await.unwrap(), "its batch has ended");
    }
    drop(second);
    // It did not queue, and has read version 1.
    assert!(moved(1).commit(&mut third).await.is_err());
    assert!(open().await.claim([("a", false)]).await.unwrap());
}
