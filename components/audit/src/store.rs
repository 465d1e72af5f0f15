//! SQL of the audit trail: rows are inserted and read, never changed.

use innover_kit::{Batch, Db, Expect, Row, Value, db::DbError, params};

use crate::model::{Head, Record};

macro_rules! columns {
    () => {
        "seq, event_id, source, action, subject, actor, occurred_at, recorded_at, correlation_id,
         trace_id, data, hash"
    };
}

/// A search that is led by one indexed column, or by the number alone. The other conditions are
/// checked row by row on the way back through the trail.
macro_rules! search {
    ($lead:literal) => {
        concat!(
            "SELECT ",
            columns!(),
            " FROM records WHERE ",
            $lead,
            " AND (CAST($1 AS TEXT) = '' OR actor = $1)
              AND (CAST($2 AS TEXT) = '' OR subject = $2)
              AND (CAST($3 AS TEXT) = '' OR action = $3)
              AND occurred_at >= $4 AND occurred_at < $5
              AND seq < COALESCE((SELECT b.seq FROM records b WHERE b.event_id = $6), $7)
              ORDER BY seq DESC LIMIT $8"
        )
    };
}

const BY_SUBJECT: &str = search!("subject = $2");
const BY_ACTOR: &str = search!("actor = $1");
const BY_ACTION: &str = search!("action = $3");
const BY_NUMBER: &str = search!("seq > 0");

const AFTER: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM records WHERE seq > $1 ORDER BY seq LIMIT $2"
);

const INSERT: &str = concat!(
    "INSERT INTO records (",
    columns!(),
    ") SELECT ",
    columns!(),
    " FROM rows($1: seq BIGINT, event_id TEXT, source TEXT, action TEXT, subject TEXT, actor TEXT,
                occurred_at BIGINT, recorded_at BIGINT, correlation_id TEXT, trace_id TEXT,
                data TEXT, hash TEXT) r WHERE true
      ON CONFLICT DO NOTHING"
);

const MOVE_HEAD: &str =
    "UPDATE head SET seq = $1, hash = $2 WHERE id = 1 AND seq = $3 AND hash = $4";

/// The end of the trail.
pub async fn head(db: &Db) -> Result<Head, DbError> {
    let rows = db
        .query("SELECT seq, hash FROM head WHERE id = 1", params![])
        .await?;
    let row = rows
        .first()
        .ok_or_else(|| DbError::Shape("the head of the trail is not there".into()))?;
    Ok(Head {
        seq: row.int(0)?,
        hash: row.text(1)?.to_owned(),
    })
}

/// The hash a row has.
pub async fn hash(db: &Db, seq: i64) -> Result<Option<String>, DbError> {
    let rows = db
        .query("SELECT hash FROM records WHERE seq = $1", params![seq])
        .await?;
    rows.first()
        .map(|row| row.text(0).map(str::to_owned))
        .transpose()
}

/// Adds rows that were sealed behind `before` and move the head to `after`. It fails the batch when
/// others were added meanwhile.
pub fn append(batch: &mut Batch, before: &Head, after: &Head, records: &[Record]) {
    let rows = records.iter().map(|r| {
        params![
            r.seq,
            &r.event_id,
            &r.source,
            &r.action,
            &r.subject,
            &r.actor,
            r.occurred_at,
            r.recorded_at,
            &r.correlation_id,
            &r.trace_id,
            &r.data,
            &r.hash
        ]
    });
    let rows = vec![Value::Rows(rows.collect())];
    batch.step("records", INSERT, rows, Expect::Rows(records.len() as u64));
    batch.step(
        "head",
        MOVE_HEAD,
        params![after.seq, &after.hash, before.seq, &before.hash],
        Expect::Rows(1),
    );
}

/// What is searched for; empty means any.
#[derive(Clone, Copy, Debug, Default)]
pub struct Search<'a> {
    pub actor: &'a str,
    pub subject: &'a str,
    pub action: &'a str,
    /// Microseconds, from this time on.
    pub from: i64,
    /// Microseconds, before this time.
    pub to: i64,
}

/// Rows, newest first, before the one of the event `after`.
pub async fn search(
    db: &Db,
    search: Search<'_>,
    after: &str,
    limit: i64,
) -> Result<Vec<Record>, DbError> {
    let Search {
        actor,
        subject,
        action,
        from,
        to,
    } = search;
    let sql = match (subject, actor, action) {
        ("", "", "") => BY_NUMBER,
        ("", "", _) => BY_ACTION,
        ("", _, _) => BY_ACTOR,
        _ => BY_SUBJECT,
    };
    let params = params![actor, subject, action, from, to, after, i64::MAX, limit];
    records(&db.query(sql, params).await?)
}

/// Rows in order behind the number `after`.
pub async fn after(db: &Db, after: i64, limit: i64) -> Result<Vec<Record>, DbError> {
    records(&db.query(AFTER, params![after, limit]).await?)
}

fn records(rows: &[Row]) -> Result<Vec<Record>, DbError> {
    rows.iter()
        .map(|row| {
            let text = |i| row.text(i).map(str::to_owned);
            Ok(Record {
                seq: row.int(0)?,
                event_id: text(1)?,
                source: text(2)?,
                action: text(3)?,
                subject: text(4)?,
                actor: text(5)?,
                occurred_at: row.int(6)?,
                recorded_at: row.int(7)?,
                correlation_id: text(8)?,
                trace_id: text(9)?,
                data: text(10)?,
                hash: text(11)?,
            })
        })
        .collect()
}
