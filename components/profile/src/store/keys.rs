//! Data keys: one per person, and the house's for digests of numbers.

use innover_kit::{Batch, Code, Db, Expect, Failure, Result, Row, Value, db::DbError, ids, params};

use crate::{
    model::Refusal,
    seal::{DataKey, Keks, Wrapped},
};

/// Owner of the key that digests of documents' numbers are made with: the same for everyone, so that
/// equal numbers are found.
const NUMBERS: &str = "house:numbers";

/// The owner's name of a person's key.
fn of_person(id: &str) -> String {
    format!("person:{id}")
}

/// Columns owner, id, kek_id, wrapped from column `at` on.
pub(super) fn wrapped(row: &Row, at: usize) -> Result<Wrapped, DbError> {
    Ok(Wrapped {
        owner: row.text(at)?.into(),
        id: row.text(at + 1)?.into(),
        kek_id: row.text(at + 2)?.into(),
        wrapped: row.text(at + 3)?.into(),
    })
}

/// The key of a person, made when there is none.
///
/// # Errors
/// 410 when it was destroyed; a key of the environment that is not there.
pub async fn person(db: &mut Db, keks: &Keks, id: &str) -> Result<DataKey> {
    ensure(db, keks, &of_person(id)).await
}

/// The house's key for numbers, made when there is none.
///
/// # Errors
/// A key of the environment that is not there.
pub async fn numbers(db: &mut Db, keks: &Keks) -> Result<DataKey> {
    ensure(db, keks, NUMBERS).await
}

/// A key by itself says nothing, so it is committed before what it seals: whatever comes after works
/// with a key that is stored, also when two requests of a new person meet.
async fn ensure(db: &mut Db, keks: &Keks, owner: &str) -> Result<DataKey> {
    if let Some(key) = find(db, owner).await? {
        return Ok(keks.open(&key)?);
    }
    prove(db, keks).await?;
    let (_, new) = keks.create(owner, &ids::new_id("dk"))?;
    let mut batch = Batch::new();
    batch.step(
        "data_keys",
        "INSERT INTO data_keys (owner, id, kek_id, wrapped, destroyed, updated_at)
         VALUES ($1, $2, $3, $4, 0, $5) ON CONFLICT (owner) DO NOTHING",
        params![
            &new.owner,
            &new.id,
            &new.kek_id,
            &new.wrapped,
            ids::now_us()
        ],
        Expect::Any,
    );
    batch.commit(db).await?;
    match find(db, owner).await? {
        Some(key) => Ok(keks.open(&key)?),
        None => Err(Failure::from(Code::Conflict)),
    }
}

/// That the newest key of the environment is the one that wrapped under its id before: under another
/// one nothing may be wrapped, or it would be lost with the mistake that brought the key here.
///
/// # Errors
/// 503 when it is not.
pub async fn prove(db: &Db, keks: &Keks) -> Result<()> {
    let rows = db
        .query(
            "SELECT owner, id, kek_id, wrapped FROM data_keys WHERE kek_id = $1 AND destroyed = 0 LIMIT 1",
            params![keks.newest()],
        )
        .await?;
    match rows.first() {
        Some(row) => Ok(keks.open(&wrapped(row, 0)?).map(drop)?),
        None => Ok(()),
    }
}

async fn find(db: &Db, owner: &str) -> Result<Option<Wrapped>> {
    let rows = db
        .query(
            "SELECT owner, id, kek_id, wrapped, destroyed FROM data_keys WHERE owner = $1",
            params![owner],
        )
        .await?;
    match rows.first() {
        Some(row) if row.int(4)? != 0 => Err(Refusal::Erased.into()),
        Some(row) => Ok(Some(wrapped(row, 0)?)),
        None => Ok(None),
    }
}

/// Keys that are not wrapped under `newest`, after `after`, by owner.
pub async fn outdated(
    db: &Db,
    newest: &str,
    after: &str,
    limit: i64,
) -> Result<Vec<Wrapped>, DbError> {
    let rows = db
        .query(
            "SELECT owner, id, kek_id, wrapped FROM data_keys
             WHERE kek_id <> $1 AND owner > $2 AND destroyed = 0 ORDER BY owner LIMIT $3",
            params![newest, after, limit],
        )
        .await?;
    rows.iter().map(|row| wrapped(row, 0)).collect()
}

/// How many keys are wrapped under which key of the environment.
pub async fn counts(db: &Db) -> Result<Vec<(String, i64)>, DbError> {
    let rows = db
        .query(
            "SELECT kek_id, COUNT(*) FROM data_keys WHERE destroyed = 0 GROUP BY kek_id ORDER BY kek_id",
            params![],
        )
        .await?;
    rows.iter()
        .map(|row| Ok((row.text(0)?.to_owned(), row.int(1)?)))
        .collect()
}

/// The step that replaces wrapped keys by the same keys wrapped anew. One that was destroyed or
/// rewrapped meanwhile is left as it is.
pub fn replace(batch: &mut Batch, changes: &[(Wrapped, Wrapped)], now_us: i64) {
    let rows: Vec<Vec<Value>> = changes
        .iter()
        .map(|(was, is)| params![&was.owner, &was.wrapped, &is.kek_id, &is.wrapped])
        .collect();
    batch.step(
        "data_keys",
        "UPDATE data_keys SET kek_id = r.kek_id, wrapped = r.wrapped, updated_at = $2
         FROM rows($1: owner TEXT, was TEXT, kek_id TEXT, wrapped TEXT) r
         WHERE data_keys.owner = r.owner AND data_keys.wrapped = r.was AND data_keys.destroyed = 0",
        vec![Value::Rows(rows), now_us.into()],
        Expect::Any,
    );
}

/// The step that overwrites a key. Nothing in the row changes its length.
pub(super) fn destroy(batch: &mut Batch, key: &Wrapped, now_us: i64) {
    batch.step(
        "data_keys",
        "UPDATE data_keys SET wrapped = $2, destroyed = 1, updated_at = $3
         WHERE owner = $1 AND wrapped = $4 AND destroyed = 0",
        params![&key.owner, key.filler(), now_us, &key.wrapped],
        Expect::Rows(1),
    );
}
