//! PostgreSQL through the raw bindings.

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use spin_sdk::pg::wit::postgres::{
    Connection, DbValue, Error, Interval, ParameterValue as P, QueryError, RangeBoundKind,
};

use crate::entry::text;

fn shown(error: &Error) -> String {
    match error {
        Error::QueryFailed(QueryError::DbError(db)) => format!("error {} {}", db.code, db.message),
        other => format!("error {other:?}"),
    }
}

/// The first line of `script` is an address, the others are statements for one connection; the
/// answer has one line per statement. Then the guest ends as `end` says.
pub(crate) async fn run(script: &str, end: &str, sync: bool) -> Response<Full<Bytes>> {
    let mut lines = script.lines();
    let address = lines.next().unwrap_or_default().to_owned();
    let db = match Connection::open_async(address).await {
        Ok(db) => db,
        Err(error) => return text(StatusCode::FORBIDDEN, shown(&error)),
    };
    let mut out = Vec::new();
    for statement in lines {
        let rows = match sync {
            true => db.query(statement, &[]).map(|set| set.rows),
            false => query(&db, statement, Vec::new()).await,
        };
        out.push(match rows {
            Ok(rows) => rows
                .iter()
                .map(|row| render(row))
                .collect::<Vec<_>>()
                .join(","),
            Err(error) => shown(&error),
        });
    }
    match end {
        "trap" => panic!("asked to trap with a connection in hand"),
        "loop" => loop {
            std::hint::spin_loop();
        },
        _ => text(StatusCode::OK, out.join("\n")),
    }
}

async fn query(
    db: &Connection,
    statement: &str,
    parameters: Vec<P>,
) -> Result<Vec<Vec<DbValue>>, Error> {
    let (_, rows, done) = db.query_async(statement.to_owned(), parameters).await?;
    let rows = rows.collect().await;
    done.await?;
    Ok(rows)
}

fn render(row: &[DbValue]) -> String {
    let cells: Vec<String> = row
        .iter()
        .map(|value| match value {
            DbValue::Int64(n) => n.to_string(),
            DbValue::Int32(n) => n.to_string(),
            DbValue::Str(text) => text.clone(),
            DbValue::DbNull => "null".to_owned(),
            other => format!("{other:?}"),
        })
        .collect();
    cells.join("|")
}

/// Sends a value of each type and says which come back otherwise than they went.
pub(crate) async fn types(address: &str) -> Response<Full<Bytes>> {
    let db = match Connection::open_async(address.to_owned()).await {
        Ok(db) => db,
        Err(error) => return text(StatusCode::FORBIDDEN, shown(&error)),
    };
    let interval = || Interval {
        micros: 5,
        days: 40,
        months: 14,
    };
    let bound = |n| Some((n, RangeBoundKind::Inclusive));
    let pairs: Vec<(&str, P, DbValue)> = vec![
        ("BOOLEAN", P::Boolean(true), DbValue::Boolean(true)),
        ("SMALLINT", P::Int16(-7), DbValue::Int16(-7)),
        ("INTEGER", P::Int32(1 << 20), DbValue::Int32(1 << 20)),
        ("BIGINT", P::Int64(i64::MIN), DbValue::Int64(i64::MIN)),
        ("REAL", P::Floating32(1.5), DbValue::Floating32(1.5)),
        (
            "DOUBLE PRECISION",
            P::Floating64(-2.5),
            DbValue::Floating64(-2.5),
        ),
        ("TEXT", P::Str("zwölf".into()), DbValue::Str("zwölf".into())),
        (
            "BYTEA",
            P::Binary(vec![0, 255]),
            DbValue::Binary(vec![0, 255]),
        ),
        (
            "DATE",
            P::Date((1999, 12, 31)),
            DbValue::Date((1999, 12, 31)),
        ),
        (
            "TIME",
            P::Time((23, 59, 58, 1_000)),
            DbValue::Time((23, 59, 58, 1_000)),
        ),
        (
            "TIMESTAMP",
            P::Datetime((2026, 10, 30, 12, 0, 1, 2_000)),
            DbValue::Datetime((2026, 10, 30, 12, 0, 1, 2_000)),
        ),
        (
            "TIMESTAMPTZ",
            P::Timestamp(86_400),
            DbValue::Datetime((1970, 1, 2, 0, 0, 0, 0)),
        ),
        (
            "UUID",
            P::Uuid("0192f0c1-0000-7000-8000-000000000001".into()),
            DbValue::Uuid("0192f0c1-0000-7000-8000-000000000001".into()),
        ),
        (
            "JSONB",
            P::Jsonb(br#"{"a": [1, null]}"#.to_vec()),
            DbValue::Jsonb(br#"{"a": [1, null]}"#.to_vec()),
        ),
        (
            "NUMERIC",
            P::Decimal("-37.236276".into()),
            DbValue::Decimal("-37.236276".into()),
        ),
        (
            "INT8RANGE",
            P::RangeInt64((bound(1), Some((9, RangeBoundKind::Exclusive)))),
            DbValue::RangeInt64((bound(1), Some((9, RangeBoundKind::Exclusive)))),
        ),
        (
            "INT4RANGE",
            P::RangeInt32((None, Some((9, RangeBoundKind::Exclusive)))),
            DbValue::RangeInt32((None, Some((9, RangeBoundKind::Exclusive)))),
        ),
        (
            "NUMRANGE",
            P::RangeDecimal((Some(("0.5".into(), RangeBoundKind::Exclusive)), None)),
            DbValue::RangeDecimal((Some(("0.5".into(), RangeBoundKind::Exclusive)), None)),
        ),
        (
            "BIGINT[]",
            P::ArrayInt64(vec![Some(1), None]),
            DbValue::ArrayInt64(vec![Some(1), None]),
        ),
        (
            "INTEGER[]",
            P::ArrayInt32(vec![]),
            DbValue::ArrayInt32(vec![]),
        ),
        (
            "TEXT[]",
            P::ArrayStr(vec![None, Some("{,}".into())]),
            DbValue::ArrayStr(vec![None, Some("{,}".into())]),
        ),
        (
            "NUMERIC[]",
            P::ArrayDecimal(vec![Some("1.10".into())]),
            DbValue::ArrayDecimal(vec![Some("1.10".into())]),
        ),
        (
            "INTERVAL",
            P::Interval(interval()),
            DbValue::Interval(interval()),
        ),
        ("TEXT", P::DbNull, DbValue::DbNull),
    ];
    let mut out = vec![format!("{} types", pairs.len())];
    for (name, sent, expected) in pairs {
        let statement = format!("SELECT $1::{name}");
        match query(&db, &statement, vec![sent]).await {
            Ok(rows) if format!("{rows:?}") == format!("{:?}", [[&expected]]) => {}
            Ok(rows) => out.push(format!("{name}: {rows:?}, not {expected:?}")),
            Err(error) => out.push(format!("{name}: {}", shown(&error))),
        }
    }
    // Refused, not converted.
    match query(&db, "SELECT $1::INTEGER", vec![P::Int64(1)]).await {
        Err(_) => {}
        Ok(_) => out.push("an int64 was taken for an INTEGER".into()),
    }
    text(StatusCode::OK, out.join("\n"))
}
