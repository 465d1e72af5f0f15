//! SQL of comparisons with the ledger.

use innover_kit::{Batch, Db, Expect, Row, Value, db::DbError, ids, params};

use crate::model::{AccountState, comparison::Finding};

/// A comparison of every wallet with the ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rebuild {
    /// `reb_…`
    pub id: String,
    /// Whether it is through.
    pub done: bool,
    /// How many steps it took; 0 before it is stored.
    pub version: i64,
    /// Who asked for it.
    pub requested_by: String,
    /// The ledger's cursor of the next page; empty at first.
    pub cursor: String,
    /// The last account it compared.
    pub after_account: String,
    /// Wallets' accounts compared.
    pub checked: i64,
    /// Differences found.
    pub differing: i64,
    /// Those repaired.
    pub repaired: i64,
    /// Microseconds since the epoch.
    pub started_at: i64,
    /// Microseconds since the epoch.
    pub updated_at: i64,
}

/// A difference it found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its place in lists.
    pub id: String,
    /// What differs.
    pub kind: String,
    /// The account.
    pub account_id: String,
    /// The wallet; empty when the account has none.
    pub wallet_id: String,
    /// What the wallet showed, as JSON.
    pub shown: String,
    /// What the ledger has, as JSON.
    pub ledger: String,
    /// Whether it was repaired.
    pub repaired: bool,
}

/// One rebuild.
pub async fn get(db: &Db, id: &str) -> Result<Option<Rebuild>, DbError> {
    const SQL: &str = "SELECT id, state, version, requested_by, cursor, after_account, checked,
             differing, repaired, started_at, updated_at FROM rebuilds WHERE id = $1";
    let rows = db.query(SQL, params![id]).await?;
    rows.first().map(rebuild).transpose()
}

fn rebuild(row: &Row) -> Result<Rebuild, DbError> {
    Ok(Rebuild {
        id: row.text(0)?.into(),
        done: row.text(1)? == "done",
        version: row.int(2)?,
        requested_by: row.text(3)?.into(),
        cursor: row.text(4)?.into(),
        after_account: row.text(5)?.into(),
        checked: row.int(6)?,
        differing: row.int(7)?,
        repaired: row.int(8)?,
        started_at: row.int(9)?,
        updated_at: row.int(10)?,
    })
}

/// Differences of a rebuild after the place `after`.
pub async fn differences(
    db: &Db,
    rebuild_id: &str,
    after: &str,
    limit: i64,
) -> Result<Vec<Difference>, DbError> {
    const SQL: &str = "SELECT id, kind, account_id, wallet_id, shown, ledger, repaired
         FROM differences WHERE rebuild_id = $1 AND id > $2 ORDER BY id LIMIT $3";
    let rows = db.query(SQL, params![rebuild_id, after, limit]).await?;
    let difference = |row: &Row| {
        Ok(Difference {
            id: row.text(0)?.into(),
            kind: row.text(1)?.into(),
            account_id: row.text(2)?.into(),
            wallet_id: row.text(3)?.into(),
            shown: row.text(4)?.into(),
            ledger: row.text(5)?.into(),
            repaired: row.int(6)? != 0,
        })
    };
    rows.iter().map(difference).collect()
}

/// Stores a rebuild as it is now; it was at the version before. Two jobs of one rebuild meet here.
pub fn save(batch: &mut Batch, r: &Rebuild) {
    batch.step(
        "rebuilds",
        "INSERT INTO rebuilds (id, state, version, requested_by, cursor, after_account, checked,
                               differing, repaired, started_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
         ON CONFLICT (id) DO UPDATE SET
             state = excluded.state, version = excluded.version,
             cursor = excluded.cursor, after_account = excluded.after_account, checked = excluded.checked,
             differing = excluded.differing, repaired = excluded.repaired,
             updated_at = excluded.updated_at
         WHERE rebuilds.version = excluded.version - 1",
        params![
            &r.id,
            if r.done { "done" } else { "running" },
            r.version,
            &r.requested_by,
            &r.cursor,
            &r.after_account,
            r.checked,
            r.differing,
            r.repaired,
            r.started_at,
            r.updated_at
        ],
        Expect::Rows(1),
    );
}

/// Keeps what was found.
pub fn insert_differences(batch: &mut Batch, rebuild_id: &str, found: &[Finding]) {
    if found.is_empty() {
        return;
    }
    let rows = found.iter().map(|f| {
        let shown = f.wallet.as_ref().map(|w| AccountState {
            account_id: w.account_id.clone(),
            posted_minor: w.posted,
            held_minor: w.held,
            version: w.account_version,
        });
        params![
            ids::new_uuid(),
            rebuild_id,
            f.what.as_str(),
            &f.account_id,
            f.wallet.as_ref().map_or("", |w| w.id.as_str()),
            json(shown.as_ref()),
            json(f.ledger.as_ref()),
            i64::from(f.repaired.is_some())
        ]
    });
    batch.step(
        "differences",
        "INSERT INTO differences (id, rebuild_id, kind, account_id, wallet_id, shown, ledger, repaired)
         SELECT r.id, r.rebuild_id, r.kind, r.account_id, r.wallet_id, r.shown, r.ledger, r.repaired
         FROM rows($1: id TEXT, rebuild_id TEXT, kind TEXT, account_id TEXT, wallet_id TEXT,
                   shown TEXT, ledger TEXT, repaired BIGINT) r WHERE true",
        vec![Value::Rows(rows.collect())],
        Expect::Rows(found.len() as u64),
    );
}

fn json(state: Option<&AccountState>) -> String {
    state.map_or_else(
        || "null".into(),
        |s| {
            serde_json::json!({"posted_minor": s.posted_minor, "held_minor": s.held_minor, "version": s.version})
                .to_string()
        },
    )
}
