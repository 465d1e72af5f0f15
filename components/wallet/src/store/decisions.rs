//! SQL of who froze, unfroze or closed a wallet.

use innover_kit::{Batch, Db, Expect, Row, Value, db::DbError, params};

/// A decision on a wallet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// `dec_…`
    pub id: String,
    /// The wallet.
    pub wallet_id: String,
    /// `freeze`, `unfreeze` or `close`.
    pub action: String,
    /// Why.
    pub reason: String,
    /// Who.
    pub decided_by: String,
    /// Microseconds since the epoch.
    pub decided_at: i64,
}

fn decision(row: &Row) -> Result<Decision, DbError> {
    let text = |i| row.text(i).map(str::to_owned);
    Ok(Decision {
        id: text(0)?,
        wallet_id: text(1)?,
        action: text(2)?,
        reason: text(3)?,
        decided_by: text(4)?,
        decided_at: row.int(5)?,
    })
}

/// Adds decisions.
pub fn insert(batch: &mut Batch, decisions: &[Decision]) {
    if decisions.is_empty() {
        return;
    }
    let rows = decisions.iter().map(|d| {
        params![
            &d.id,
            &d.wallet_id,
            &d.action,
            &d.reason,
            &d.decided_by,
            d.decided_at
        ]
    });
    batch.step(
        "decisions",
        "INSERT INTO decisions (id, wallet_id, action, reason, decided_by, decided_at)
         SELECT r.id, r.wallet_id, r.action, r.reason, r.decided_by, r.decided_at
         FROM rows($1: id TEXT, wallet_id TEXT, action TEXT, reason TEXT, decided_by TEXT,
                   decided_at BIGINT) r WHERE true",
        vec![Value::Rows(rows.collect())],
        Expect::Rows(decisions.len() as u64),
    );
}

/// A wallet's decisions after the id `after`, oldest first.
pub async fn of_wallet(
    db: &Db,
    wallet_id: &str,
    after: &str,
    limit: i64,
) -> Result<Vec<Decision>, DbError> {
    const SQL: &str = "SELECT id, wallet_id, action, reason, decided_by, decided_at FROM decisions
         WHERE wallet_id = $1 AND id > $2 ORDER BY id LIMIT $3";
    let rows = db.query(SQL, params![wallet_id, after, limit]).await?;
    rows.iter().map(decision).collect()
}

/// Who closed a wallet, the first first; two at most.
pub async fn closed_by(db: &Db, wallet_id: &str) -> Result<Vec<String>, DbError> {
    const SQL: &str = "SELECT decided_by FROM decisions
         WHERE wallet_id = $1 AND action = 'close' ORDER BY id LIMIT 2";
    let rows = db.query(SQL, params![wallet_id]).await?;
    rows.iter()
        .map(|row| row.text(0).map(str::to_owned))
        .collect()
}
