//! Checkpoints as stored: the signed statements, and the heads each of them changed.

use innover_journal::{CheckpointLine, Hash};
use innover_kit::{Batch, Db, Expect, Row, Value, db::DbError, params};

use crate::store;

fn line(row: &Row) -> Result<CheckpointLine, DbError> {
    Ok(CheckpointLine {
        number: row.int(0)?,
        created_at: row.int(1)?,
        accounts: row.int(2)?,
        postings: row.int(3)?,
        root: store::hash(row.text(4)?)?,
        previous: row.opt_text(5)?.map(store::hash).transpose()?,
        signature: row.text(6)?.to_owned(),
    })
}

/// Checkpoints before the number `before`, newest first.
pub async fn page(db: &Db, before: i64, limit: i64) -> Result<Vec<CheckpointLine>, DbError> {
    const SQL: &str = "SELECT number, created_at, accounts, postings, root, previous, signature
         FROM checkpoints WHERE number < $1 ORDER BY number DESC LIMIT $2";
    let rows = db.query(SQL, params![before, limit]).await?;
    rows.iter().map(line).collect()
}

/// The newest one.
pub async fn newest(db: &Db) -> Result<Option<CheckpointLine>, DbError> {
    Ok(page(db, i64::MAX, 1).await?.pop())
}

/// One of them.
pub async fn by_number(db: &Db, number: i64) -> Result<Option<CheckpointLine>, DbError> {
    let next = page(db, number.saturating_add(1), 1).await?.pop();
    Ok(next.filter(|line| line.number == number))
}

/// An account's head, and whether that is news since the newest checkpoint.
pub struct Current {
    pub account: String,
    pub version: i64,
    pub head: Hash,
    pub is_new: bool,
}

/// All heads at one moment: one statement, so one snapshot.
pub async fn heads(db: &Db) -> Result<Vec<Current>, DbError> {
    let rows = db
        .query(
            "SELECT a.id, a.version, a.head, h.version
             FROM accounts a
             LEFT JOIN checkpoint_heads h ON h.account_id = a.id
                  AND h.number = (SELECT MAX(x.number) FROM checkpoint_heads x
                                  WHERE x.account_id = a.id)
             ORDER BY a.id",
            params![],
        )
        .await?;
    let read = |row: &Row| {
        let version = row.int(1)?;
        Ok(Current {
            account: row.text(0)?.to_owned(),
            version,
            head: store::hash(row.text(2)?)?,
            is_new: row.opt_int(3)? != Some(version),
        })
    };
    let mut heads: Vec<Current> = rows.iter().map(read).collect::<Result<_, DbError>>()?;
    // By bytes, whatever the database's collation.
    heads.sort_by(|a, b| a.account.cmp(&b.account));
    Ok(heads)
}

/// Writes a checkpoint and the heads that are news in it. It fails when another one was made meanwhile.
pub fn write(batch: &mut Batch, line: &CheckpointLine, heads: &[Current]) {
    batch.step(
        "checkpoint",
        "INSERT INTO checkpoints (number, created_at, accounts, postings, root, previous, signature)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (number) DO NOTHING",
        params![
            line.number,
            line.created_at,
            line.accounts,
            line.postings,
            String::from(line.root),
            line.previous.map(String::from),
            &line.signature
        ],
        Expect::Rows(1),
    );
    let news: Vec<Vec<Value>> = heads
        .iter()
        .filter(|head| head.is_new)
        .map(|head| {
            params![
                &head.account,
                line.number,
                head.version,
                String::from(head.head)
            ]
        })
        .collect();
    let count = news.len() as u64;
    batch.step(
        "checkpoint_heads",
        "INSERT INTO checkpoint_heads (account_id, number, version, head)
         SELECT r.account_id, r.number, r.version, r.head
         FROM rows($1: account_id TEXT, number BIGINT, version BIGINT, head TEXT) r WHERE true
         ON CONFLICT DO NOTHING",
        vec![Value::Rows(news)],
        Expect::Rows(count),
    );
}
