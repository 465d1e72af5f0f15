//! SQL of the refund service.

use std::collections::BTreeMap;

use innover_kit::{
    Batch, Cause, Db, Emit, Expect, Row, Value,
    db::{DbError, column},
    ids, params,
};
use innover_money::{Currency, MoneyError, Rate};
use serde_json::json;

use crate::model::{Legs, State, Terms};

/// A payment, and how much of it refunds have taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Capture {
    pub payment_id: String,
    /// 0 when no refund was ever asked of it.
    pub version: i64,
    pub entry_id: String,
    pub payer_wallet: String,
    pub payee_wallet: String,
    pub payer_owner: String,
    pub payee_owner: String,
    pub payer_account: String,
    pub payee_account: String,
    pub terms: Terms,
    /// By refunds that are pending or succeeded.
    pub refunded: Legs,
}

/// A refund as stored, with what its payment knows of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Refund {
    pub id: String,
    pub payment_id: String,
    pub state: State,
    pub version: i64,
    pub legs: Legs,
    pub entry_id: Option<String>,
    pub reason: String,
    pub failure_code: String,
    pub failure_detail: String,
    pub traceparent: String,
    pub correlation_id: String,
    pub created_by: String,
    pub created_at: i64,
    pub updated_at: i64,
    pub payer_owner: String,
    pub payee_owner: String,
    pub source_currency: String,
    pub target_currency: String,
}

impl Refund {
    /// The request that caused it, for what happens to it without an event.
    pub fn cause(&self) -> Cause {
        Cause {
            traceparent: Some(self.traceparent.clone()),
            correlation_id: Some(self.correlation_id.clone()),
            idempotency_key: None,
            actor: None,
        }
    }
}

const CAPTURE: &str =
    "SELECT payment_id, version, entry_id, payer_wallet, payee_wallet, payer_owner,
        payee_owner, payer_account, payee_account, source_currency, target_currency, rate,
        captured, captured_margin, captured_target, refunded, refunded_margin, refunded_target
    FROM captures WHERE payment_id = $1";

/// The one statement that takes an amount off a payment, whether it was refunded before or not. Two
/// refunds at the same moment meet at this row: the second finds another version than its part was
/// computed on and takes nothing. The sum is a condition of its own, so that it holds whatever the
/// version says.
const RESERVE: &str =
    "INSERT INTO captures (payment_id, version, entry_id, payer_wallet, payee_wallet, payer_owner,
        payee_owner, payer_account, payee_account, source_currency, target_currency, rate,
        captured, captured_margin, captured_target, refunded, refunded_margin, refunded_target)
    VALUES ($1, 1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
    ON CONFLICT (payment_id) DO UPDATE SET
        version = captures.version + 1,
        refunded = captures.refunded + excluded.refunded,
        refunded_margin = captures.refunded_margin + excluded.refunded_margin,
        refunded_target = captures.refunded_target + excluded.refunded_target
    WHERE captures.version = $18
      AND captures.refunded + excluded.refunded <= captures.captured";

/// Failed refunds give back what they took. It is relative, so it needs no version; what it frees is
/// freed once because the refunds leave `pending` in the same batch.
const RELEASE: &str = "UPDATE captures SET
        version = captures.version + 1,
        refunded = captures.refunded - r.source,
        refunded_margin = captures.refunded_margin - r.margin,
        refunded_target = captures.refunded_target - r.target
    FROM rows($1: payment_id TEXT, source BIGINT, margin BIGINT, target BIGINT) r
    WHERE captures.payment_id = r.payment_id";

const INSERT: &str =
    "INSERT INTO refunds (id, payment_id, state, version, source_minor, margin_minor,
        target_minor, entry_id, reason, failure_code, failure_detail, traceparent, correlation_id,
        created_by, created_at, updated_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
    ON CONFLICT (id) DO NOTHING";

/// One statement for any number of refunds that leave `pending`.
const CHANGE: &str = "UPDATE refunds SET
        state = r.state, version = refunds.version + 1, updated_at = r.at, entry_id = r.entry_id,
        failure_code = r.failure_code, failure_detail = r.failure_detail
    FROM rows($1: id TEXT, version BIGINT, at BIGINT, state TEXT, entry_id TEXT, failure_code TEXT,
              failure_detail TEXT) r
    WHERE refunds.id = r.id AND refunds.version = r.version AND refunds.state = 'pending'";

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT f.id, f.payment_id, f.state, f.version, f.source_minor, f.margin_minor,
                    f.target_minor, f.entry_id, f.reason, f.failure_code, f.failure_detail,
                    f.traceparent, f.correlation_id, f.created_by, f.created_at, f.updated_at,
                    c.payer_owner, c.payee_owner, c.source_currency, c.target_currency
             FROM refunds f JOIN captures c ON c.payment_id = f.payment_id ",
            $rest
        )
    };
}

const BY_IDS: &str = select!("WHERE f.id IN (SELECT id FROM rows($1: id TEXT))");

const PAGE: &str = select!(
    "WHERE (CAST($1 AS TEXT) = '' OR c.payer_owner = $1 OR c.payee_owner = $1)
       AND (CAST($2 AS TEXT) = '' OR f.payment_id = $2)
       AND (CAST($3 AS TEXT) = '' OR f.id < $3)
     ORDER BY f.id DESC LIMIT $4"
);

const STUCK: &str =
    select!("WHERE f.state = 'pending' AND f.updated_at < $1 ORDER BY f.updated_at LIMIT $2");

const PENDING: &str = "SELECT 1 FROM refunds WHERE payment_id = $1 AND state = 'pending' LIMIT 1";

/// Whether a refund of the payment is neither booked nor refused.
pub async fn is_pending(db: &Db, payment_id: &str) -> Result<bool, DbError> {
    let rows = db.query(PENDING, params![payment_id]).await?;
    Ok(!rows.is_empty())
}

/// A payment that was refunded before, in part or in vain.
pub async fn capture(db: &Db, payment_id: &str) -> Result<Option<Capture>, DbError> {
    let rows = db.query(CAPTURE, params![payment_id]).await?;
    rows.first().map(read_capture).transpose()
}

/// The refunds among `ids` that exist.
pub async fn by_ids(
    db: &Db,
    ids: impl IntoIterator<Item = String>,
) -> Result<Vec<Refund>, DbError> {
    refunds(&db.query(BY_IDS, vec![column(ids)]).await?)
}

/// One refund.
pub async fn by_id(db: &Db, id: &str) -> Result<Option<Refund>, DbError> {
    Ok(by_ids(db, [id.to_owned()]).await?.pop())
}

/// Refunds of payments `owner` paid or was paid by, newest first, after the id `after`; everyone's
/// when `owner` is empty, of all payments when `payment_id` is.
pub async fn page(
    db: &Db,
    owner: &str,
    payment_id: &str,
    after: &str,
    limit: i64,
) -> Result<Vec<Refund>, DbError> {
    let rows = db.query(PAGE, params![owner, payment_id, after, limit]);
    refunds(&rows.await?)
}

/// Pending refunds that were asked for before `before_us`, oldest first.
pub async fn stuck(db: &Db, before_us: i64, limit: i64) -> Result<Vec<Refund>, DbError> {
    refunds(&db.query(STUCK, params![before_us, limit]).await?)
}

/// Takes a new refund's legs off `capture`, stores it and announces it with what the ledger needs.
pub fn reserve(batch: &mut Batch, capture: &Capture, refund: &Refund, cause: &Cause) {
    let (legs, captured) = (refund.legs, capture.terms.captured());
    batch.step(
        "capture",
        RESERVE,
        params![
            &capture.payment_id,
            &capture.entry_id,
            &capture.payer_wallet,
            &capture.payee_wallet,
            &capture.payer_owner,
            &capture.payee_owner,
            &capture.payer_account,
            &capture.payee_account,
            &refund.source_currency,
            &refund.target_currency,
            capture.terms.rate().to_string(),
            captured.source,
            captured.margin,
            captured.target,
            legs.source,
            legs.margin,
            legs.target,
            capture.version
        ],
        Expect::Rows(1),
    );
    batch.step(
        "refund",
        INSERT,
        params![
            &refund.id,
            &refund.payment_id,
            refund.state.as_str(),
            refund.version,
            legs.source,
            legs.margin,
            legs.target,
            refund.entry_id.clone(),
            &refund.reason,
            &refund.failure_code,
            &refund.failure_detail,
            &refund.traceparent,
            &refund.correlation_id,
            &refund.created_by,
            refund.created_at,
            refund.updated_at
        ],
        Expect::Rows(1),
    );
    batch.emit(Emit {
        kind: refund.state.event(),
        key: refund.id.clone(),
        key_version: refund.version,
        data: json!({
            "refund_id": refund.id, "payment_id": refund.payment_id, "state": refund.state,
            "version": refund.version, "reverses": capture.entry_id,
            "payer_wallet": capture.payer_wallet, "payee_wallet": capture.payee_wallet,
            "payer_account": capture.payer_account, "payee_account": capture.payee_account,
            "source_minor": legs.source, "source_currency": refund.source_currency,
            "target_minor": legs.target, "target_currency": refund.target_currency,
            "margin_minor": legs.margin, "reason": refund.reason,
        }),
        cause: cause.clone(),
    });
}

/// How the ledger ended a refund.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Booked with this entry.
    Booked { entry_id: String },
    /// Refused for good.
    Refused { code: String, detail: String },
}

/// Collects the ends of any number of refunds into one batch: one modifying step per table.
#[derive(Default)]
pub struct Writer {
    changes: Vec<Vec<Value>>,
    released: BTreeMap<String, Legs>,
    batch: Batch,
}

impl Writer {
    /// Ends a pending refund and announces it. One that failed gives back what it took.
    pub fn end(&mut self, refund: &Refund, end: &End, cause: &Cause) {
        let (state, entry_id, code, detail) = match end {
            End::Booked { entry_id } => (State::Succeeded, Some(entry_id.as_str()), "", ""),
            End::Refused { code, detail } => {
                let released = self.released.entry(refund.payment_id.clone()).or_default();
                released.source += refund.legs.source;
                released.margin += refund.legs.margin;
                released.target += refund.legs.target;
                (State::Failed, None, code.as_str(), detail.as_str())
            }
        };
        self.changes.push(params![
            &refund.id,
            refund.version,
            ids::now_us(),
            state.as_str(),
            entry_id,
            code,
            detail
        ]);
        self.batch.emit(Emit {
            kind: state.event(),
            key: refund.id.clone(),
            key_version: refund.version + 1,
            data: json!({
                "refund_id": refund.id, "payment_id": refund.payment_id, "state": state,
                "version": refund.version + 1, "entry_id": entry_id,
                "source_minor": refund.legs.source, "source_currency": refund.source_currency,
                "target_minor": refund.legs.target, "target_currency": refund.target_currency,
                "failure_code": code, "failure_detail": detail,
            }),
            cause: cause.clone(),
        });
    }

    /// The batch with everything collected.
    pub fn finish(mut self) -> Batch {
        if !self.changes.is_empty() {
            let expected = self.changes.len() as u64;
            let rows = vec![Value::Rows(self.changes)];
            self.batch
                .step("refund", CHANGE, rows, Expect::Rows(expected));
        }
        if !self.released.is_empty() {
            let expected = self.released.len() as u64;
            let rows = self
                .released
                .into_iter()
                .map(|(id, legs)| params![id, legs.source, legs.margin, legs.target]);
            let rows = vec![Value::Rows(rows.collect())];
            self.batch
                .step("capture", RELEASE, rows, Expect::Rows(expected));
        }
        self.batch
    }
}

fn read_capture(row: &Row) -> Result<Capture, DbError> {
    let text = |i| row.text(i).map(str::to_owned);
    let legs = |at| -> Result<Legs, DbError> {
        Ok(Legs {
            source: row.int(at)?,
            margin: row.int(at + 1)?,
            target: row.int(at + 2)?,
        })
    };
    let shape = |e: MoneyError| DbError::Shape(e.to_string());
    let source = Currency::parse(row.text(9)?).map_err(shape)?;
    let target = Currency::parse(row.text(10)?).map_err(shape)?;
    let rate = Rate::parse(row.text(11)?).map_err(shape)?;
    Ok(Capture {
        payment_id: text(0)?,
        version: row.int(1)?,
        entry_id: text(2)?,
        payer_wallet: text(3)?,
        payee_wallet: text(4)?,
        payer_owner: text(5)?,
        payee_owner: text(6)?,
        payer_account: text(7)?,
        payee_account: text(8)?,
        terms: Terms::new(legs(12)?, source, target, rate).map_err(shape)?,
        refunded: legs(15)?,
    })
}

fn refunds(rows: &[Row]) -> Result<Vec<Refund>, DbError> {
    rows.iter().map(read_refund).collect()
}

fn read_refund(row: &Row) -> Result<Refund, DbError> {
    let text = |i| row.text(i).map(str::to_owned);
    let state = row.text(2)?;
    Ok(Refund {
        id: text(0)?,
        payment_id: text(1)?,
        state: State::parse(state)
            .ok_or_else(|| DbError::Shape(format!("unknown state {state}")))?,
        version: row.int(3)?,
        legs: Legs {
            source: row.int(4)?,
            margin: row.int(5)?,
            target: row.int(6)?,
        },
        entry_id: row.opt_text(7)?.map(str::to_owned),
        reason: text(8)?,
        failure_code: text(9)?,
        failure_detail: text(10)?,
        traceparent: text(11)?,
        correlation_id: text(12)?,
        created_by: text(13)?,
        created_at: row.int(14)?,
        updated_at: row.int(15)?,
        payer_owner: text(16)?,
        payee_owner: text(17)?,
        source_currency: text(18)?,
        target_currency: text(19)?,
    })
}
