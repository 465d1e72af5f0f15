//! SQL, nothing else.

use innover_kit::{Batch, Db, Expect, Row, db::DbError, params};

/// Which version decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Active {
    /// The activation's number, 1 and up.
    pub seq: i64,
    /// The version.
    pub version: i64,
    /// When, microseconds.
    pub activated_at: i64,
}

/// The newest activation.
pub async fn active(db: &Db) -> Result<Option<Active>, DbError> {
    let rows = db
        .query(
            "SELECT seq, version, activated_at FROM activations ORDER BY seq DESC LIMIT 1",
            params![],
        )
        .await?;
    rows.first()
        .map(|row| {
            Ok(Active {
                seq: row.int(0)?,
                version: row.int(1)?,
                activated_at: row.int(2)?,
            })
        })
        .transpose()
}

/// A stored version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetRow {
    /// 1 and up.
    pub version: i64,
    /// For people.
    pub description: String,
    /// The rules as JSON.
    pub rules: String,
    /// What the engine made of them.
    pub compiled: String,
    /// Microseconds.
    pub created_at: i64,
    /// A subject.
    pub created_by: String,
}

fn set(row: &Row) -> Result<SetRow, DbError> {
    Ok(SetRow {
        version: row.int(0)?,
        description: row.text(1)?.into(),
        rules: row.text(2)?.into(),
        compiled: row.text(3)?.into(),
        created_at: row.int(4)?,
        created_by: row.text(5)?.into(),
    })
}

/// One version.
pub async fn version(db: &Db, version: i64) -> Result<Option<SetRow>, DbError> {
    let rows = db
        .query(
            "SELECT version, description, rules, compiled, created_at, created_by FROM rule_sets WHERE version = $1",
            params![version],
        )
        .await?;
    rows.first().map(set).transpose()
}

/// The newest version's number, 0 when there is none.
pub async fn newest(db: &Db) -> Result<i64, DbError> {
    let rows = db
        .query("SELECT COALESCE(MAX(version), 0) FROM rule_sets", params![])
        .await?;
    rows.first().map_or(Ok(0), |row| row.int(0))
}

/// Versions below `before`, newest first.
pub async fn page(db: &Db, before: i64, limit: i64) -> Result<Vec<SetRow>, DbError> {
    let rows = db
        .query(
            "SELECT version, description, rules, compiled, created_at, created_by FROM rule_sets
             WHERE version < $1 ORDER BY version DESC LIMIT $2",
            params![before, limit],
        )
        .await?;
    rows.iter().map(set).collect()
}

/// The step that inserts a version; it fails the batch when another request took the number.
pub fn insert(batch: &mut Batch, set: &SetRow) {
    batch.step(
        "rule_sets",
        "INSERT INTO rule_sets (version, description, rules, compiled, created_at, created_by)
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (version) DO NOTHING",
        params![
            set.version,
            &set.description,
            &set.rules,
            &set.compiled,
            set.created_at,
            &set.created_by
        ],
        Expect::Rows(1),
    );
}

/// The step that activates a version; it fails the batch when another activation came first.
pub fn activate(batch: &mut Batch, active: &Active, by: &str) {
    batch.step(
        "activations",
        "INSERT INTO activations (seq, version, activated_at, activated_by)
         VALUES ($1, $2, $3, $4) ON CONFLICT (seq) DO NOTHING",
        params![active.seq, active.version, active.activated_at, by],
        Expect::Rows(1),
    );
}
