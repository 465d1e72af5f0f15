//! Checkpoints: the heads of all accounts at one moment, signed.
//!
//! The job `ledger.checkpoint` makes one a minute, whoever may write makes one at any time. The
//! private key is this component's variable `checkpoint_key`; an auditor needs only the public one.

use std::sync::OnceLock;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use innover_journal::{CheckpointLine, Head, SigningKey, Statement, root};
use innover_kit::{
    Batch, Code, Db, Expect, Failure, Result, Row, Value, config, db::DbError, ids, params,
};
use serde::Deserialize;

use crate::store;

/// The step that writes the statement: it fails when another checkpoint was made meanwhile.
pub const STEP: &str = "checkpoint";

/// A private OKP JWK (RFC 8037).
#[derive(Deserialize)]
struct Jwk {
    d: String,
}

/// This component's key.
///
/// # Errors
/// 503 when the variable is missing or holds no key.
pub async fn key() -> Result<&'static SigningKey> {
    static KEY: OnceLock<SigningKey> = OnceLock::new();
    if let Some(key) = KEY.get() {
        return Ok(key);
    }
    let jwk = config::get("checkpoint_key").await?;
    let key = serde_json::from_str::<Jwk>(&jwk)
        .ok()
        .and_then(|jwk| URL_SAFE_NO_PAD.decode(jwk.d).ok())
        .and_then(|seed| SigningKey::from_seed(&seed));
    // The value is a secret: what is wrong with it is not said.
    let key = key.ok_or_else(|| {
        Failure::new(
            Code::NotReady,
            "the variable `checkpoint_key` holds no Ed25519 JWK; run `innover keys`",
        )
    })?;
    Ok(KEY.get_or_init(|| key))
}

/// The public half as a JWK.
pub fn public_jwk(key: &SigningKey) -> serde_json::Value {
    let x = URL_SAFE_NO_PAD.encode(key.public().as_bytes());
    serde_json::json!({"kty": "OKP", "crv": "Ed25519", "x": x, "alg": "EdDSA", "use": "sig"})
}

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
struct Current {
    account: String,
    version: i64,
    head: innover_journal::Hash,
    is_new: bool,
}

/// All heads at one moment: one statement, so one snapshot.
async fn heads(db: &Db) -> Result<Vec<Current>, DbError> {
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

/// The next checkpoint as steps of a batch; `None` when nothing happened since the newest one.
///
/// # Errors
/// 503 without a key; the database.
pub async fn next(db: &Db, batch: &mut Batch) -> Result<Option<CheckpointLine>> {
    let key = key().await?;
    let newest = newest(db).await?;
    let heads = heads(db).await?;
    if heads.iter().all(|head| !head.is_new) {
        return Ok(None);
    }
    let statement = Statement {
        number: newest.as_ref().map_or(0, |c| c.number) + 1,
        created_at: ids::now_us(),
        accounts: heads.len() as i64,
        postings: heads.iter().map(|head| head.version).sum(),
        root: root(heads.iter().map(|head| Head {
            account: &head.account,
            version: head.version,
            hash: head.head,
        })),
        previous: newest.map(|c| c.statement().hash()),
    };
    let signature = key.sign(&statement);
    let line = CheckpointLine {
        number: statement.number,
        created_at: statement.created_at,
        accounts: statement.accounts,
        postings: statement.postings,
        root: statement.root,
        previous: statement.previous,
        signature: signature.iter().map(|b| format!("{b:02x}")).collect(),
    };
    write(batch, &line, &heads);
    Ok(Some(line))
}

fn write(batch: &mut Batch, line: &CheckpointLine, heads: &[Current]) {
    batch.step(
        STEP,
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
