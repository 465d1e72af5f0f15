//! The wallet service's SQL: wallets and their tiers here, the rest by table.

pub mod decisions;
pub mod movements;
pub mod rebuilds;

use std::collections::BTreeMap;

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

/// Holds wallets at their state: the batch fails when one of them is not active any more. Whatever
/// is begun is begun before a freeze or not at all.
pub fn while_active<'a>(batch: &mut Batch, ids: impl IntoIterator<Item = &'a str>) {
    let ids: Vec<Vec<Value>> = ids.into_iter().map(|id| params![id]).collect();
    let count = ids.len() as u64;
    batch.step(
        "wallets",
        "UPDATE wallets SET state = 'active'
         WHERE id IN (SELECT id FROM rows($1: id TEXT)) AND state = 'active'",
        vec![Value::Rows(ids)],
        Expect::Rows(count),
    );
}

/// Gives a wallet the state it has now; it was at the version before.
pub fn change_state(batch: &mut Batch, w: &Wallet) {
    batch.step(
        "wallets",
        "UPDATE wallets SET state = $1, version = $2 WHERE id = $3 AND version = $4",
        params![w.state.as_str(), w.version, &w.id, w.version - 1],
        Expect::Rows(1),
    );
}

/// Sets wallets to what a comparison found, unless they moved since. That any number of rows is right
/// has a reason: one that moved is compared again by the next rebuild.
pub fn repair<'a>(batch: &mut Batch, wallets: impl IntoIterator<Item = (&'a Wallet, &'a Wallet)>) {
    let rows: Vec<Vec<Value>> = wallets
        .into_iter()
        .map(|(seen, w)| {
            params![
                &w.id,
                seen.account_version,
                seen.version,
                w.posted,
                w.held,
                w.account_version,
                w.state.as_str(),
                w.version
            ]
        })
        .collect();
    if rows.is_empty() {
        return;
    }
    batch.step(
        "wallets",
        "UPDATE wallets SET posted = r.posted, held = r.held, account_version = r.account_version,
                            state = r.state, version = r.version
         FROM rows($1: id TEXT, seen_account_version BIGINT, seen_version BIGINT, posted BIGINT,
                   held BIGINT, account_version BIGINT, state TEXT, version BIGINT) r
         WHERE wallets.id = r.id AND wallets.account_version = r.seen_account_version
           AND wallets.version = r.seen_version",
        vec![Value::Rows(rows)],
        Expect::Any,
    );
}

/// The wallets whose accounts come after `after`, up to and including `last`; all of them after it
/// when there is no last one.
pub async fn of_account_range(
    db: &Db,
    after: &str,
    last: Option<&str>,
) -> Result<Vec<Wallet>, DbError> {
    const TO: &str = concat!(select!(), "WHERE account_id > $1 AND account_id <= $2");
    const REST: &str = concat!(select!(), "WHERE account_id > $1");
    let rows = match last {
        Some(last) => db.query(TO, params![after, last]).await?,
        None => db.query(REST, params![after]).await?,
    };
    rows.iter().map(wallet).collect()
}

/// The KYC tier of an owner: the lowest when profiles never spoke of it.
pub async fn tier(db: &Db, owner: &str) -> Result<i64, DbError> {
    const SQL: &str = "SELECT tier FROM tiers WHERE owner = $1";
    let rows = db.query(SQL, params![owner]).await?;
    rows.first().map_or(Ok(0), |row| row.int(0))
}

/// Takes over tiers by owner, as (tier, version of the profile), where they are newer.
pub fn follow_tiers(batch: &mut Batch, tiers: BTreeMap<String, (i64, i64)>) {
    if tiers.is_empty() {
        return;
    }
    let rows = tiers
        .into_iter()
        .map(|(owner, (tier, version))| params![owner, tier, version])
        .collect();
    batch.step(
        "tiers",
        "INSERT INTO tiers (owner, tier, version)
         SELECT r.owner, r.tier, r.version
         FROM rows($1: owner TEXT, tier BIGINT, version BIGINT) r WHERE true
         ON CONFLICT (owner) DO UPDATE SET tier = excluded.tier, version = excluded.version
         WHERE tiers.version < excluded.version",
        vec![Value::Rows(rows)],
        Expect::Any,
    );
}
