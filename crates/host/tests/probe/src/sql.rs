//! Databases and stores, through the raw bindings where the SDK offers only the async half.

use crate::entry::text;
use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use spin_sdk::sqlite::Value;
use spin_sdk::sqlite::wit::sqlite::{Connection, Error};
use std::cell::RefCell;

thread_local! {
    /// Connections kept between the requests of this instance, as the platform's kit keeps them.
    static IDLE: RefCell<Vec<Connection>> = const { RefCell::new(Vec::new()) };
}

async fn run(db: &Connection, statement: &str) -> Result<Vec<String>, Error> {
    let (_, rows, done) = db.execute_async(statement.to_owned(), Vec::new()).await?;
    let rows = rows.collect().await;
    done.await?;
    Ok(rows.iter().map(|row| render(&row.values)).collect())
}

fn render(values: &[Value]) -> String {
    let cells: Vec<String> = values
        .iter()
        .map(|value| match value {
            Value::Integer(n) => n.to_string(),
            Value::Real(n) => n.to_string(),
            Value::Text(s) => s.clone(),
            Value::Blob(b) => format!("blob({})", b.len()),
            Value::Null => "null".to_owned(),
        })
        .collect();
    cells.join("|")
}

pub(crate) async fn open(label: &str) -> Response<Full<Bytes>> {
    match Connection::open_async(label.to_owned()).await {
        Ok(_) => text(StatusCode::OK, "opened".into()),
        Err(error) => text(StatusCode::FORBIDDEN, format!("{error:?}")),
    }
}

/// Runs the lines of `script` on one connection; the answer has one line per statement.
pub(crate) async fn exec(label: &str, script: &str, sync: bool) -> Response<Full<Bytes>> {
    let db = match Connection::open(label) {
        Ok(db) => db,
        Err(error) => return text(StatusCode::FORBIDDEN, format!("{error:?}")),
    };
    let mut out = Vec::new();
    for statement in script.lines().filter(|line| !line.is_empty()) {
        let rows = if sync {
            db.execute(statement, &[])
                .map(|result| result.rows.iter().map(|row| render(&row.values)).collect())
        } else {
            run(&db, statement).await
        };
        match rows {
            Ok(rows) => out.push(rows.join(",")),
            Err(error) => out.push(format!("error {error:?}")),
        }
    }
    text(StatusCode::OK, out.join("\n"))
}

/// One transaction the way the kit writes one: BEGIN and COMMIT async, statements sync.
pub(crate) async fn transfer(label: &str, end: &str) -> anyhow::Result<Response<Full<Bytes>>> {
    let kept = IDLE.with(|idle| idle.borrow_mut().pop());
    let db = match kept {
        Some(db) => db,
        None => Connection::open_async(label.to_owned()).await?,
    };
    run(&db, "BEGIN IMMEDIATE").await?;
    db.execute(
        "INSERT INTO transfer (amount, note) VALUES (?1, ?2)",
        &[Value::Integer(7), Value::Text("seven".into())],
    )?;
    match end {
        "trap" => panic!("asked to trap inside a transaction"),
        "forget" => return Ok(text(StatusCode::OK, "left open".into())),
        _ => {}
    }
    run(&db, "COMMIT").await?;
    IDLE.with(|idle| idle.borrow_mut().push(db));
    Ok(text(StatusCode::OK, "committed".into()))
}

pub(crate) async fn key_value(label: &str, key: &str) -> anyhow::Result<Response<Full<Bytes>>> {
    let store = match spin_sdk::key_value::Store::open(label).await {
        Ok(store) => store,
        Err(error) => return Ok(text(StatusCode::FORBIDDEN, format!("{error:?}"))),
    };
    store.set(key, b"one").await?;
    let held = store.get(key).await?.unwrap_or_default();
    let keys = store.get_keys().await.collect().await?;
    let exists = store.exists(key).await?;
    store.delete(key).await?;
    let gone = store.get(key).await?.is_none();
    Ok(text(
        StatusCode::OK,
        format!(
            "{} {} {exists} {gone}",
            String::from_utf8_lossy(&held),
            keys.join(",")
        ),
    ))
}

pub(crate) async fn redis(address: &str, key: &str) -> anyhow::Result<Response<Full<Bytes>>> {
    let db = match spin_sdk::redis::Connection::open(address).await {
        Ok(db) => db,
        Err(error) => return Ok(text(StatusCode::FORBIDDEN, format!("{error:?}"))),
    };
    db.set(key, b"41").await?;
    let next = db.incr(key).await?;
    Ok(text(StatusCode::OK, next.to_string()))
}
