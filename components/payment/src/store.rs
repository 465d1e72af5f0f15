//! SQL of the payment service.

use innover_kit::{
    Batch, Cause, Db, Emit, Expect, Result, Row, Value,
    db::{DbError, column},
    ids, params,
};
use serde_json::json;

use crate::model::{Decision, RULES_UNAVAILABLE, State};

/// A payment as stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Payment {
    pub id: String,
    pub state: State,
    pub version: i64,
    pub payer_wallet: String,
    pub payee_wallet: String,
    pub payer_owner: String,
    pub payee_owner: String,
    pub payer_account: String,
    pub payee_account: String,
    pub source_minor: i64,
    pub source_currency: String,
    pub target_minor: Option<i64>,
    pub target_currency: String,
    pub margin_minor: Option<i64>,
    pub rate: Option<String>,
    pub rate_date: Option<String>,
    pub exact: Option<String>,
    pub entry_id: Option<String>,
    pub quote_id: Option<String>,
    pub reference: String,
    pub reason_codes: Vec<String>,
    pub reason_detail: String,
    pub rules_version: Option<i64>,
    pub traceparent: String,
    pub correlation_id: String,
    pub created_by: String,
    pub withdrawn_by: Option<String>,
    pub created_at: i64,
    pub updated_at: i64,
}

impl Payment {
    /// The request that caused it, for what happens to it without an event.
    pub fn cause(&self) -> Cause {
        Cause {
            traceparent: Some(self.traceparent.clone()),
            correlation_id: Some(self.correlation_id.clone()),
            idempotency_key: None,
            actor: None,
        }
    }

    /// Whether it is under review only because the rules could not be asked.
    pub fn awaits_rules(&self) -> bool {
        self.state == State::Review && self.reason_codes == [RULES_UNAVAILABLE]
    }
}

macro_rules! columns {
    () => {
        "id, state, version, payer_wallet, payee_wallet, payer_owner, payee_owner, payer_account,
         payee_account, source_minor, source_currency, target_minor, target_currency, margin_minor,
         rate, rate_date, exact, entry_id, reference, reason_codes, reason_detail, rules_version,
         traceparent, correlation_id, created_by, created_at, updated_at, quote_id, withdrawn_by"
    };
}

const BY_IDS: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM payments WHERE id IN (SELECT id FROM rows($1: id TEXT))"
);

/// After every id: what follows `pay_` in one are hexadecimal digits.
const AFTER_ALL: &str = "pay_g";

const PAGE: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM payments WHERE id < $1 ORDER BY id DESC LIMIT $2"
);

/// One range of an index for each side: an OR over both reads the whole table.
const PAGE_OF: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM payments WHERE id IN (
          SELECT id FROM (SELECT id FROM payments WHERE payer_owner = $1 AND id < $2
                          ORDER BY id DESC LIMIT $3) paid
          UNION
          SELECT id FROM (SELECT id FROM payments WHERE payee_owner = $1 AND id < $2
                          ORDER BY id DESC LIMIT $3) received)
      ORDER BY id DESC LIMIT $3"
);

/// By lot: those that wait for somebody else stay here, and must not hide the rest.
const STUCK: &str = concat!(
    "SELECT ",
    columns!(),
    " FROM payments
      WHERE state IN ('initiated', 'converting', 'posting', 'processing') AND updated_at < $1
      ORDER BY random() LIMIT $2"
);

const INSERT: &str = concat!(
    "INSERT INTO payments (",
    columns!(),
    ") SELECT ",
    columns!(),
    " FROM rows($1: id TEXT, state TEXT, version BIGINT, payer_wallet TEXT, payee_wallet TEXT,
          payer_owner TEXT, payee_owner TEXT, payer_account TEXT, payee_account TEXT,
          source_minor BIGINT, source_currency TEXT, target_minor BIGINT, target_currency TEXT,
          margin_minor BIGINT, rate TEXT, rate_date TEXT, exact TEXT, entry_id TEXT,
          reference TEXT, reason_codes TEXT, reason_detail TEXT, rules_version BIGINT,
          traceparent TEXT, correlation_id TEXT, created_by TEXT, created_at BIGINT,
          updated_at BIGINT, quote_id TEXT, withdrawn_by TEXT) r WHERE true
      ON CONFLICT (id) DO NOTHING"
);

/// One statement for every change of any number of payments: what a change does not name stays.
const CHANGE: &str = "UPDATE payments SET
        state = r.state, version = payments.version + 1, updated_at = r.at,
        target_minor = COALESCE(r.target_minor, payments.target_minor),
        margin_minor = COALESCE(r.margin_minor, payments.margin_minor),
        rate = COALESCE(r.rate, payments.rate),
        rate_date = COALESCE(r.rate_date, payments.rate_date),
        exact = COALESCE(r.exact, payments.exact),
        entry_id = COALESCE(r.entry_id, payments.entry_id),
        reason_codes = COALESCE(r.reason_codes, payments.reason_codes),
        reason_detail = COALESCE(r.reason_detail, payments.reason_detail),
        rules_version = COALESCE(r.rules_version, payments.rules_version),
        withdrawn_by = COALESCE(r.withdrawn_by, payments.withdrawn_by)
    FROM rows($1: id TEXT, version BIGINT, at BIGINT, state TEXT, target_minor BIGINT,
              margin_minor BIGINT, rate TEXT, rate_date TEXT, exact TEXT, entry_id TEXT,
              reason_codes TEXT, reason_detail TEXT, rules_version BIGINT, withdrawn_by TEXT) r
    WHERE payments.id = r.id AND payments.version = r.version";

const TIMELINE_INSERT: &str =
    "INSERT INTO timeline (id, payment_id, at, kind, name, trace_id, detail)
    SELECT r.id, r.payment_id, r.at, r.kind, r.name, r.trace_id, r.detail
    FROM rows($1: id TEXT, payment_id TEXT, at BIGINT, kind TEXT, name TEXT, trace_id TEXT,
              detail TEXT) r WHERE true";

const TIMELINE: &str = "SELECT at, kind, name, trace_id, detail FROM timeline
    WHERE payment_id = $1 ORDER BY id";

/// The payments among `ids` that exist.
pub async fn by_ids(
    db: &Db,
    ids: impl IntoIterator<Item = String>,
) -> Result<Vec<Payment>, DbError> {
    db.query(BY_IDS, vec![column(ids)])
        .await?
        .iter()
        .map(payment)
        .collect()
}

/// One payment.
pub async fn by_id(db: &Db, id: &str) -> Result<Option<Payment>, DbError> {
    Ok(by_ids(db, [id.to_owned()]).await?.pop())
}

/// Payments `owner` pays or is paid by, newest first, after the id `after`; everyone's when `owner`
/// is empty.
pub async fn page(db: &Db, owner: &str, after: &str, limit: i64) -> Result<Vec<Payment>, DbError> {
    let after = if after.is_empty() { AFTER_ALL } else { after };
    let rows = match owner {
        "" => db.query(PAGE, params![after, limit]).await?,
        _ => db.query(PAGE_OF, params![owner, after, limit]).await?,
    };
    rows.iter().map(payment).collect()
}

/// Payments on their way whose last change is before `before_us`.
pub async fn stuck(db: &Db, before_us: i64, limit: i64) -> Result<Vec<Payment>, DbError> {
    db.query(STUCK, params![before_us, limit])
        .await?
        .iter()
        .map(payment)
        .collect()
}

/// A line of a payment's timeline.
#[derive(Clone, Debug, PartialEq)]
pub struct TimelineRow {
    pub at: i64,
    pub kind: String,
    pub name: String,
    pub trace_id: String,
    pub detail: String,
}

/// Everything that happened to a payment, in order.
pub async fn timeline(db: &Db, payment_id: &str) -> Result<Vec<TimelineRow>, DbError> {
    let rows = db.query(TIMELINE, params![payment_id]).await?;
    rows.iter()
        .map(|row| {
            Ok(TimelineRow {
                at: row.int(0)?,
                kind: row.text(1)?.to_owned(),
                name: row.text(2)?.to_owned(),
                trace_id: row.text(3)?.to_owned(),
                detail: row.text(4)?.to_owned(),
            })
        })
        .collect()
}

/// What someone pays with, and whom, when they do not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Defaults {
    pub payer_wallet: Option<String>,
    pub payee_wallet: Option<String>,
    pub currency: Option<String>,
}

/// The defaults of `owner`; empty ones when none were set.
pub async fn defaults(db: &Db, owner: &str) -> Result<Defaults, DbError> {
    let sql = "SELECT payer_wallet, payee_wallet, currency FROM defaults WHERE owner = $1";
    let rows = db.query(sql, params![owner]).await?;
    let Some(row) = rows.first() else {
        return Ok(Defaults::default());
    };
    let opt = |i| row.opt_text(i).map(|t| t.map(str::to_owned));
    Ok(Defaults {
        payer_wallet: opt(0)?,
        payee_wallet: opt(1)?,
        currency: opt(2)?,
    })
}

/// The step that sets the defaults of `owner`: what is `None` is unset.
pub fn set_defaults(batch: &mut Batch, owner: &str, d: &Defaults) {
    batch.step(
        "defaults",
        "INSERT INTO defaults (owner, payer_wallet, payee_wallet, currency, updated_at)
         VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (owner) DO UPDATE SET payer_wallet = excluded.payer_wallet,
             payee_wallet = excluded.payee_wallet, currency = excluded.currency,
             updated_at = excluded.updated_at",
        params![
            owner,
            d.payer_wallet.clone(),
            d.payee_wallet.clone(),
            d.currency.clone(),
            ids::now_us()
        ],
        Expect::Rows(1),
    );
}

/// A change of one payment, decided on `version`. What is `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Change {
    pub target_minor: Option<i64>,
    pub margin_minor: Option<i64>,
    pub rate: Option<String>,
    pub rate_date: Option<String>,
    pub exact: Option<String>,
    pub entry_id: Option<String>,
    pub reason_codes: Option<String>,
    pub reason_detail: Option<String>,
    pub rules_version: Option<i64>,
    pub withdrawn_by: Option<String>,
}

/// Collects changes, timeline lines and events of any number of payments into one batch: one
/// modifying step per table.
pub struct Writer {
    now: i64,
    inserts: Vec<Vec<Value>>,
    changes: Vec<Vec<Value>>,
    timeline: Vec<Vec<Value>>,
    pub batch: Batch,
}

impl Default for Writer {
    fn default() -> Writer {
        Writer {
            now: ids::now_us(),
            inserts: Vec::new(),
            changes: Vec::new(),
            timeline: Vec::new(),
            batch: Batch::new(),
        }
    }
}

impl Writer {
    /// Adds a line to the timeline of a payment. Lines keep the order they are added in.
    pub fn note(&mut self, payment_id: &str, kind: &str, name: &str, cause: &Cause, detail: &str) {
        self.timeline.push(params![
            ids::new_uuid(),
            payment_id,
            self.now,
            kind,
            name,
            cause.trace_id(),
            detail
        ]);
    }

    /// Adds what the rules said to the timeline of a payment.
    pub fn note_decision(&mut self, payment_id: &str, decision: &Decision, cause: &Cause) {
        let reasons = decision.reason_codes.join(",");
        self.note(payment_id, "decision", decision.name(), cause, &reasons);
    }

    /// Stores a new payment and announces its state. `amount_eur_minor` is what the rules decided on;
    /// who counts payments counts that.
    pub fn insert(&mut self, p: &Payment, amount_eur_minor: Option<i64>, cause: &Cause) {
        self.inserts.push(params![
            &p.id,
            p.state.as_str(),
            p.version,
            &p.payer_wallet,
            &p.payee_wallet,
            &p.payer_owner,
            &p.payee_owner,
            &p.payer_account,
            &p.payee_account,
            p.source_minor,
            &p.source_currency,
            p.target_minor,
            &p.target_currency,
            p.margin_minor,
            p.rate.clone(),
            p.rate_date.clone(),
            p.exact.clone(),
            p.entry_id.clone(),
            &p.reference,
            p.reason_codes.join(","),
            &p.reason_detail,
            p.rules_version,
            &p.traceparent,
            &p.correlation_id,
            &p.created_by,
            p.created_at,
            p.updated_at,
            p.quote_id.clone(),
            p.withdrawn_by.clone()
        ]);
        self.announce(p, p.state, p.version, amount_eur_minor, cause);
    }

    /// Moves a payment to `to` and announces it.
    pub fn change(&mut self, p: &Payment, to: State, change: Change, cause: &Cause) {
        self.update(p, to, change);
        self.announce(p, to, p.version + 1, None, cause);
    }

    /// Notes that someone withdraws a payment that is on its way. It stays where it is: whether it
    /// is cancelled or was booked is the ledger's to say.
    pub fn withdraw(&mut self, p: &Payment, who: &str) {
        let change = Change {
            withdrawn_by: Some(who.to_owned()),
            ..Change::default()
        };
        self.amend(p, change);
    }

    /// Changes a payment that stays in its state, which nobody needs to hear of.
    pub fn amend(&mut self, p: &Payment, change: Change) {
        self.update(p, p.state, change);
    }

    fn update(&mut self, p: &Payment, to: State, change: Change) {
        self.changes.push(params![
            &p.id,
            p.version,
            self.now,
            to.as_str(),
            change.target_minor,
            change.margin_minor,
            change.rate,
            change.rate_date,
            change.exact,
            change.entry_id,
            change.reason_codes,
            change.reason_detail,
            change.rules_version,
            change.withdrawn_by
        ]);
    }

    /// Timeline and outbox of a state. Every event carries what a subscriber acts on, so that none
    /// need ask back; `schemas/payment.*/v1.json` describe it.
    fn announce(
        &mut self,
        p: &Payment,
        state: State,
        version: i64,
        amount_eur_minor: Option<i64>,
        cause: &Cause,
    ) {
        self.note(&p.id, "state", state.as_str(), cause, "");
        let mut data = json!({
            "payment_id": p.id, "state": state, "version": version,
            "payer_wallet": p.payer_wallet, "payee_wallet": p.payee_wallet,
            "payer_account": p.payer_account, "payee_account": p.payee_account,
            "payer_owner": p.payer_owner, "payee_owner": p.payee_owner,
            "source_minor": p.source_minor, "source_currency": p.source_currency,
            "target_currency": p.target_currency, "reference": p.reference,
            "quote_id": p.quote_id, "created_by": p.created_by,
        });
        if let Some(minor) = amount_eur_minor {
            data["amount_eur_minor"] = minor.into();
        }
        self.batch.emit(Emit {
            kind: state.event(),
            key: p.id.clone(),
            key_version: version,
            data,
            cause: cause.clone(),
        });
    }

    /// The batch with everything collected.
    pub fn finish(mut self) -> Batch {
        if !self.inserts.is_empty() {
            let expected = self.inserts.len() as u64;
            let rows = vec![Value::Rows(self.inserts)];
            self.batch
                .step("payment", INSERT, rows, Expect::Rows(expected));
        }
        if !self.changes.is_empty() {
            let expected = self.changes.len() as u64;
            let rows = vec![Value::Rows(self.changes)];
            self.batch
                .step("payment", CHANGE, rows, Expect::Rows(expected));
        }
        if !self.timeline.is_empty() {
            let expected = self.timeline.len() as u64;
            let rows = vec![Value::Rows(self.timeline)];
            self.batch
                .step("timeline", TIMELINE_INSERT, rows, Expect::Rows(expected));
        }
        self.batch
    }
}

fn payment(row: &Row) -> Result<Payment, DbError> {
    let text = |i| row.text(i).map(str::to_owned);
    let opt = |i| row.opt_text(i).map(|t| t.map(str::to_owned));
    Ok(Payment {
        id: text(0)?,
        state: State::parse(row.text(1)?)
            .ok_or_else(|| DbError::Shape(format!("unknown state {:?}", row.text(1))))?,
        version: row.int(2)?,
        payer_wallet: text(3)?,
        payee_wallet: text(4)?,
        payer_owner: text(5)?,
        payee_owner: text(6)?,
        payer_account: text(7)?,
        payee_account: text(8)?,
        source_minor: row.int(9)?,
        source_currency: text(10)?,
        target_minor: row.opt_int(11)?,
        target_currency: text(12)?,
        margin_minor: row.opt_int(13)?,
        rate: opt(14)?,
        rate_date: opt(15)?,
        exact: opt(16)?,
        entry_id: opt(17)?,
        reference: text(18)?,
        reason_codes: row
            .text(19)?
            .split(',')
            .filter(|c| !c.is_empty())
            .map(str::to_owned)
            .collect(),
        reason_detail: text(20)?,
        rules_version: row.opt_int(21)?,
        traceparent: text(22)?,
        correlation_id: text(23)?,
        created_by: text(24)?,
        created_at: row.int(25)?,
        updated_at: row.int(26)?,
        quote_id: opt(27)?,
        withdrawn_by: opt(28)?,
    })
}
