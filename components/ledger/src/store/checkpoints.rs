//! Checkpoints as stored: the signed statements, and the heads each of them changed.

use std::collections::HashSet;

use innover_journal::{CheckpointLine, Hash};
use innover_kit::{Batch, Db, Expect, Row, Value, db::DbError, params};

use super::{hash, hash_text};

/// A digest as a checkpoint shows it.
fn hex(text: &str) -> Result<Hash, DbError> {
    text.parse()
        .map_err(|_| DbError::Shape(format!("`{text}` is no hash")))
}

fn line(row: &Row) -> Result<CheckpointLine, DbError> {
    Ok(CheckpointLine {
        number: row.int(0)?,
        created_at: row.int(1)?,
        accounts: row.int(2)?,
        postings: row.int(3)?,
        root: hex(row.text(4)?)?,
        previous: row.opt_text(5)?.map(hex).transpose()?,
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
    pub account_no: i64,
    pub postings: i64,
    pub head: Hash,
    pub is_new: bool,
}

/// Accounts of one page of heads that are not news.
const PAGE: i64 = 5_000;

/// All heads at one moment, by the bytes of their accounts' ids: those that are news since the
/// checkpoint `newest` (0 for none) in one statement, so in one snapshot; the others are of that
/// checkpoint and never change, so they may come page by page, however many there are.
pub async fn heads(db: &Db, newest: i64) -> Result<Vec<Current>, DbError> {
    const NEWS: &str = "SELECT a.id, a.no, a.postings, a.head
         FROM accounts a
         LEFT JOIN checkpoint_heads h ON h.account_no = a.no
              AND h.number = (SELECT MAX(x.number) FROM checkpoint_heads x
                              WHERE x.account_no = a.no)
         WHERE h.postings IS NULL OR h.postings <> a.postings";
    const KNOWN: &str = "SELECT a.id, a.no, h.postings, h.head
         FROM accounts a
         JOIN checkpoint_heads h ON h.account_no = a.no
              AND h.number = (SELECT MAX(x.number) FROM checkpoint_heads x
                              WHERE x.account_no = a.no AND x.number <= $1)
         WHERE a.id > $2 ORDER BY a.id LIMIT $3";
    let current = |row: &Row, is_new| -> Result<Current, DbError> {
        Ok(Current {
            account: row.text(0)?.to_owned(),
            account_no: row.int(1)?,
            postings: row.int(2)?,
            head: hash(row.text(3)?)?,
            is_new,
        })
    };
    let rows = db.query(NEWS, params![]).await?;
    let mut all: Vec<Current> = rows
        .iter()
        .map(|row| current(row, true))
        .collect::<Result<_, _>>()?;
    // Nothing to sign.
    if all.is_empty() {
        return Ok(all);
    }
    let news: HashSet<i64> = all.iter().map(|head| head.account_no).collect();
    let mut after = String::new();
    loop {
        let rows = db.query(KNOWN, params![newest, &after, PAGE]).await?;
        let Some(last) = rows.last() else { break };
        after = last.text(0)?.to_owned();
        for row in &rows {
            let head = current(row, false)?;
            if !news.contains(&head.account_no) {
                all.push(head);
            }
        }
    }
    // By bytes, whatever the database's collation.
    all.sort_by(|a, b| a.account.cmp(&b.account));
    Ok(all)
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
                head.account_no,
                line.number,
                head.postings,
                hash_text(head.head)
            ]
        })
        .collect();
    let count = news.len() as u64;
    batch.step(
        "checkpoint_heads",
        "INSERT INTO checkpoint_heads (account_no, number, postings, head)
         SELECT r.account_no, r.number, r.postings, r.head
         FROM rows($1: account_no BIGINT, number BIGINT, postings BIGINT, head TEXT) r WHERE true
         ON CONFLICT DO NOTHING",
        vec![Value::Rows(news)],
        Expect::Rows(count),
    );
}
