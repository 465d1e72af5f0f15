//! The wallet service's SQL.

use innover_kit::{
    Batch, Db, Expect, Row, Value,
    db::{DbError, column},
    params,
};
use innover_money::Currency;

use crate::model::{State, Wallet};

macro_rules! select {
    () => {
        "SELECT id, owner, currency, state, account_id, posted, held, account_version, version,
                created_at
         FROM wallets "
    };
}

fn wallet(row: &Row) -> Result<Wallet, DbError> {
    let shape = |what: String| DbError::Shape(what);
    Ok(Wallet {
        id: row.text(0)?.into(),
        owner: row.text(1)?.into(),
        currency: Currency::parse(row.text(2)?).map_err(|e| shape(e.to_string()))?,
        state: State::parse(row.text(3)?).ok_or_else(|| shape("unknown state".into()))?,
        account_id: row.text(4)?.into(),
        posted: row.int(5)?,
        held: row.int(6)?,
        account_version: row.int(7)?,
        version: row.int(8)?,
        created_at: row.int(9)?,
    })
}

/// One wallet.
pub async fn get(db: &Db, id: &str) -> Result<Option<Wallet>, DbError> {
    const SQL: &str = concat!(select!(), "WHERE id = $1");
    db.query(SQL, params![id])
        .await?
        .first()
        .map(wallet)
        .transpose()
}

/// Wallets after `after` in the order of their ids, `limit` at most; of one owner, or of everyone.
pub async fn list(
    db: &Db,
    owner: Option<&str>,
    after: &str,
    limit: i64,
) -> Result<Vec<Wallet>, DbError> {
    const OF: &str = concat!(
        select!(),
        "WHERE owner = $1 AND id > $2 ORDER BY id LIMIT $3"
    );
    const ALL: &str = concat!(select!(), "WHERE id > $1 ORDER BY id LIMIT $2");
    let rows = match owner {
        Some(owner) => db.query(OF, params![owner, after, limit]).await?,
        None => db.query(ALL, params![after, limit]).await?,
    };
    rows.iter().map(wallet).collect()
}

/// Those of `ids` that exist.
pub async fn lookup<'a>(
    db: &Db,
    ids: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<Wallet>, DbError> {
    const SQL: &str = concat!(
        select!(),
        "WHERE id IN (SELECT id FROM rows($1: id TEXT)) ORDER BY id"
    );
    db.query(SQL, vec![column(ids)])
        .await?
        .iter()
        .map(wallet)
        .collect()
}

/// The wallets of these accounts.
pub async fn of_accounts<'a>(
    db: &Db,
    accounts: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<Wallet>, DbError> {
    const SQL: &str = concat!(
        select!(),
        "WHERE account_id IN (SELECT id FROM rows($1: id TEXT))"
    );
    db.query(SQL, vec![column(accounts)])
        .await?
        .iter()
        .map(wallet)
        .collect()
}

/// Adds a wallet.
pub fn insert(batch: &mut Batch, w: &Wallet) {
    batch.step(
        "wallets",
        "INSERT INTO wallets (id, owner, currency, state, account_id, posted, held,
                              account_version, version, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING",
        params![
            &w.id,
            &w.owner,
            w.currency.code(),
            w.state.as_str(),
            &w.account_id,
            w.posted,
            w.held,
            w.account_version,
            w.version,
            w.created_at
        ],
        Expect::Rows(1),
    );
}

/// Moves projections to what the ledger said. A row that is at that version or beyond stays as it
/// is: whoever moved it knew better, so any number of rows is right and nobody has to try again.
pub fn follow<'a>(batch: &mut Batch, wallets: impl IntoIterator<Item = &'a Wallet>) {
    let rows: Vec<Vec<Value>> = wallets
        .into_iter()
        .map(|w| params![&w.id, w.posted, w.held, w.account_version])
        .collect();
    if rows.is_empty() {
        return;
    }
    batch.step(
        "wallets",
        "UPDATE wallets SET posted = r.posted, held = r.held, account_version = r.account_version
         FROM rows($1: id TEXT, posted BIGINT, held BIGINT, account_version BIGINT) r
         WHERE wallets.id = r.id AND wallets.account_version < r.account_version",
        vec![Value::Rows(rows)],
        Expect::Any,
    );
}

/// A top-up that the ledger booked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopUp {
    /// `top_…`
    pub id: String,
    /// The wallet.
    pub wallet_id: String,
    /// The journal entry.
    pub entry_id: String,
    /// Minor units.
    pub amount: i64,
    /// Who made it.
    pub created_by: String,
    /// Microseconds since the epoch.
    pub created_at: i64,
}

/// Records a top-up. One that is there already is the same one: its id comes from its key.
pub fn insert_top_up(batch: &mut Batch, t: &TopUp) {
    batch.step(
        "top_ups",
        "INSERT INTO top_ups (id, wallet_id, entry_id, amount, created_by, created_at)
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (id) DO NOTHING",
        params![
            &t.id,
            &t.wallet_id,
            &t.entry_id,
            t.amount,
            &t.created_by,
            t.created_at
        ],
        Expect::Rows(1),
    );
}
