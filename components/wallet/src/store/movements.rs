//! SQL of movements, and of what they take of their owners' limits.

use std::collections::BTreeMap;

use innover_kit::{
    Batch, Cause, Db, Expect, Row, Value,
    db::{DbError, column},
    ids, params,
};
use innover_money::Currency;

use crate::{
    events,
    model::movement::{Claim, Kind, Movement, Settling, State},
};

macro_rules! select {
    () => {
        "SELECT id, place, kind, state, version, wallet_id, other_wallet, owner, amount, moved,
                currency, reference, entry_id, code, detail, allowance, day, expires_in_s,
                expires_at, settling, settling_id, settling_minor, created_by, created_at, updated_at
         FROM movements "
    };
}

fn movement(row: &Row) -> Result<Movement, DbError> {
    let shape = |what: &str| DbError::Shape(what.into());
    let text = |i| row.text(i).map(str::to_owned);
    let optional = |i| row.opt_text(i).map(|t| t.map(str::to_owned));
    let settling = row.text(19)?;
    let claim = match Settling::parse(settling) {
        Some(what) => Some(Claim {
            what,
            id: text(20)?,
            minor: row.int(21)?,
        }),
        None if settling.is_empty() => None,
        None => return Err(shape("unknown settling")),
    };
    Ok(Movement {
        id: text(0)?,
        place: text(1)?,
        kind: Kind::parse(row.text(2)?).ok_or_else(|| shape("unknown kind"))?,
        state: State::parse(row.text(3)?).ok_or_else(|| shape("unknown state"))?,
        version: row.int(4)?,
        wallet_id: text(5)?,
        other_wallet: optional(6)?,
        owner: text(7)?,
        amount: row.int(8)?,
        moved: row.int(9)?,
        currency: Currency::parse(row.text(10)?).map_err(|e| shape(&e.to_string()))?,
        reference: text(11)?,
        entry_id: optional(12)?,
        code: text(13)?,
        detail: text(14)?,
        allowance: row.int(15)?,
        day: row.int(16)?,
        expires_in_s: row.opt_int(17)?,
        expires_at: row.opt_int(18)?,
        claim,
        created_by: text(22)?,
        created_at: row.int(23)?,
        updated_at: row.int(24)?,
    })
}

/// One movement.
pub async fn get(db: &Db, id: &str) -> Result<Option<Movement>, DbError> {
    Ok(by_ids(db, [id]).await?.pop())
}

/// Those of `ids` that exist.
pub async fn by_ids<'a>(
    db: &Db,
    ids: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<Movement>, DbError> {
    const SQL: &str = concat!(select!(), "WHERE id IN (SELECT id FROM rows($1: id TEXT))");
    let rows = db.query(SQL, vec![column(ids)]).await?;
    rows.iter().map(movement).collect()
}

/// A wallet's movements of one kind after the place `after`, oldest first.
pub async fn of_wallet(
    db: &Db,
    wallet_id: &str,
    kind: Kind,
    after: &str,
    limit: i64,
) -> Result<Vec<Movement>, DbError> {
    const SQL: &str = concat!(
        select!(),
        "WHERE wallet_id = $1 AND kind = $2 AND place > $3 ORDER BY place LIMIT $4"
    );
    let rows = db.query(SQL, params![wallet_id, kind.as_str(), after, limit]);
    rows.await?.iter().map(movement).collect()
}

/// How many movements of a wallet, on either side, the ledger may still book.
pub async fn open_count(db: &Db, wallet_id: &str) -> Result<i64, DbError> {
    const SQL: &str = "SELECT COUNT(*) FROM movements
         WHERE (wallet_id = $1 OR other_wallet = $1) AND state IN ('requested', 'held')";
    let rows = db.query(SQL, params![wallet_id]).await?;
    rows.first().map_or(Ok(0), |row| row.int(0))
}

/// What is older than it should be at `now_us`: movements of which the ledger's answer is not known,
/// holds somebody was settling, and holds that should have expired. By lot: what cannot be settled now
/// stays as it is, and must not hide the rest.
pub async fn stuck(
    db: &Db,
    asked_before_us: i64,
    settling_before_us: i64,
    expired_before_us: i64,
    limit: i64,
) -> Result<Vec<Movement>, DbError> {
    const SQL: &str = concat!(
        select!(),
        "WHERE (state = 'requested' AND updated_at < $1)
            OR (state = 'held' AND settling <> '' AND updated_at < $2)
            OR (state = 'held' AND settling = '' AND expires_at < $3)
         ORDER BY random() LIMIT $4"
    );
    let bounds = params![
        asked_before_us,
        settling_before_us,
        expired_before_us,
        limit
    ];
    db.query(SQL, bounds).await?.iter().map(movement).collect()
}

/// Records what the ledger is about to be asked for.
pub fn insert(batch: &mut Batch, m: &Movement) {
    batch.step(
        "movements",
        "INSERT INTO movements (id, place, kind, state, version, wallet_id, other_wallet, owner,
             amount, moved, currency, reference, entry_id, code, detail, allowance, day,
             expires_in_s, expires_at, settling, settling_id, settling_minor, created_by,
             created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, NULL, $13, $14, $15, $16, $17,
                 NULL, '', '', 0, $18, $19, $20)
         ON CONFLICT (id) DO NOTHING",
        params![
            &m.id,
            &m.place,
            m.kind.as_str(),
            m.state.as_str(),
            m.version,
            &m.wallet_id,
            m.other_wallet.as_ref(),
            &m.owner,
            m.amount,
            m.moved,
            m.currency.code(),
            &m.reference,
            &m.code,
            &m.detail,
            m.allowance,
            m.day,
            m.expires_in_s,
            &m.created_by,
            m.created_at,
            m.updated_at
        ],
        Expect::Rows(1),
    );
}

/// What an owner's day has taken already, in euro cents.
pub async fn used(db: &Db, owner: &str, day: i64) -> Result<i64, DbError> {
    const SQL: &str = "SELECT used FROM spending WHERE owner = $1 AND day = $2";
    let rows = db.query(SQL, params![owner, day]).await?;
    rows.first().map_or(Ok(0), |row| row.int(0))
}

/// Takes a movement's allowance off its owner's day. The one statement that does: movements at the
/// same moment meet at this row, and what no longer fits fails the batch that asks for it.
pub fn take_allowance(batch: &mut Batch, m: &Movement, ceiling: i64) {
    batch.step(
        "spending",
        "INSERT INTO spending (owner, day, used) VALUES ($1, $2, $3)
         ON CONFLICT (owner, day) DO UPDATE SET used = spending.used + excluded.used
         WHERE spending.used + excluded.used <= $4",
        params![&m.owner, m.day, m.allowance, ceiling],
        Expect::Rows(1),
    );
}

/// Collects movements that changed into one step per table.
#[derive(Default)]
pub struct Changes {
    rows: Vec<Vec<Value>>,
    given_back: BTreeMap<(String, i64), i64>,
    batch: Batch,
}

impl Changes {
    /// A movement as it was read and as it is now. What it takes less of its owner's limit is given
    /// back; only once, because its version guards the batch.
    pub fn change(&mut self, before: &Movement, after: &Movement, cause: &Cause) {
        let claim = after.claim.as_ref();
        self.rows.push(params![
            &after.id,
            before.version,
            after.state.as_str(),
            after.moved,
            after.entry_id.as_ref(),
            &after.code,
            &after.detail,
            after.allowance,
            after.expires_at,
            claim.map_or("", |c| c.what.as_str()),
            claim.map_or("", |c| c.id.as_str()),
            claim.map_or(0, |c| c.minor),
            ids::now_us()
        ]);
        let back = before.allowance - after.allowance;
        if back != 0 {
            let key = (after.owner.clone(), after.day);
            *self.given_back.entry(key).or_default() += back;
        }
        if after.kind == Kind::Hold && after.state != before.state && after.state != State::Refused
        {
            self.batch.emit(events::hold_changed(
                after,
                before.version + 1,
                cause.clone(),
            ));
        }
    }

    /// The steps and events.
    pub fn finish(self) -> Batch {
        let Changes {
            rows,
            given_back,
            mut batch,
        } = self;
        if !rows.is_empty() {
            let count = rows.len() as u64;
            batch.step(
                "movements",
                "UPDATE movements SET state = r.state, version = movements.version + 1,
                     moved = r.moved, entry_id = r.entry_id, code = r.code, detail = r.detail,
                     allowance = r.allowance, expires_at = r.expires_at, settling = r.settling,
                     settling_id = r.settling_id, settling_minor = r.settling_minor,
                     updated_at = r.at
                 FROM rows($1: id TEXT, version BIGINT, state TEXT, moved BIGINT, entry_id TEXT,
                           code TEXT, detail TEXT, allowance BIGINT, expires_at BIGINT,
                           settling TEXT, settling_id TEXT, settling_minor BIGINT, at BIGINT) r
                 WHERE movements.id = r.id AND movements.version = r.version",
                vec![Value::Rows(rows)],
                Expect::Rows(count),
            );
        }
        if !given_back.is_empty() {
            let count = given_back.len() as u64;
            let rows = given_back
                .into_iter()
                .map(|((owner, day), back)| params![owner, day, back])
                .collect();
            batch.step(
                "spending",
                "UPDATE spending SET used = spending.used - r.back
                 FROM rows($1: owner TEXT, day BIGINT, back BIGINT) r
                 WHERE spending.owner = r.owner AND spending.day = r.day",
                vec![Value::Rows(rows)],
                Expect::Rows(count),
            );
        }
        batch
    }
}
