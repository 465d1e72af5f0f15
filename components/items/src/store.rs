//! SQL, nothing else.

use innover_kit::{Batch, Db, Expect, Row, Value, db::DbError, params};

use crate::model::{Item, Name};

const BY_ID: &str = "SELECT id, owner, name, version, created_at, updated_at FROM items
    WHERE id = $1";

const PAGE: &str = "SELECT id, owner, name, version, created_at, updated_at FROM items
    WHERE owner = $1 AND id > $2 ORDER BY id LIMIT $3";

const INSERT: &str = "INSERT INTO items (id, owner, name, version, created_at, updated_at)
    SELECT r.id, r.owner, r.name, r.version, r.created_at, r.updated_at
    FROM rows($1: id TEXT, owner TEXT, name TEXT, version BIGINT, created_at BIGINT,
              updated_at BIGINT) r WHERE true
    ON CONFLICT (id) DO NOTHING";

const UPDATE: &str = "UPDATE items SET name = $2, version = $3, updated_at = $4
    WHERE id = $1 AND version = $5";

const DELETE: &str = "DELETE FROM items WHERE id = $1 AND version = $2";

/// One item.
pub async fn by_id(db: &Db, id: &str) -> Result<Option<Item>, DbError> {
    let rows = db.query(BY_ID, params![id]).await?;
    rows.first().map(read).transpose()
}

/// Items of `owner`, oldest first, after the id `after`.
pub async fn page(db: &Db, owner: &str, after: &str, limit: i64) -> Result<Vec<Item>, DbError> {
    let rows = db.query(PAGE, params![owner, after, limit]).await?;
    rows.iter().map(read).collect()
}

/// The step that stores new items, however many.
pub fn insert(batch: &mut Batch, items: &[Item]) {
    let row = |item: &Item| {
        params![
            &item.id,
            &item.owner,
            item.name.as_str(),
            item.version,
            item.created_at,
            item.updated_at
        ]
    };
    let rows: Vec<Vec<Value>> = items.iter().map(row).collect();
    let count = rows.len() as u64;
    batch.step("items", INSERT, params![rows], Expect::Rows(count));
}

/// The step that replaces the version before; it fails the batch when somebody else did.
pub fn update(batch: &mut Batch, item: &Item) {
    let params = params![
        &item.id,
        item.name.as_str(),
        item.version,
        item.updated_at,
        item.version - 1
    ];
    batch.step("items", UPDATE, params, Expect::Rows(1));
}

/// The step that deletes this version of an item.
pub fn delete(batch: &mut Batch, item: &Item) {
    let params = params![&item.id, item.version];
    batch.step("items", DELETE, params, Expect::Rows(1));
}

fn read(row: &Row) -> Result<Item, DbError> {
    let name = row.text(2)?;
    Ok(Item {
        id: row.text(0)?.to_owned(),
        owner: row.text(1)?.to_owned(),
        name: Name::new(name).ok_or_else(|| DbError::Shape(format!("no name: {name}")))?,
        version: row.int(3)?,
        created_at: row.int(4)?,
        updated_at: row.int(5)?,
    })
}
