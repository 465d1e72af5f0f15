//! SQL, nothing else.

use innover_kit::{Batch, Db, Expect, Row, Value, db::DbError, params};

use crate::velocity::{Asked, DAY_US, HOUR_US, Velocity};

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

/// Which version runs in shadow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shadow {
    /// The change's number; 0 before the first.
    pub seq: i64,
    /// The version, if any.
    pub version: Option<i64>,
    /// When, microseconds.
    pub changed_at: i64,
}

/// The newest change.
pub async fn shadow(db: &Db) -> Result<Shadow, DbError> {
    let rows = db
        .query(
            "SELECT seq, version, changed_at FROM shadows ORDER BY seq DESC LIMIT 1",
            params![],
        )
        .await?;
    rows.first().map_or(
        Ok(Shadow {
            seq: 0,
            version: None,
            changed_at: 0,
        }),
        |row| {
            Ok(Shadow {
                seq: row.int(0)?,
                version: row.opt_int(1)?,
                changed_at: row.int(2)?,
            })
        },
    )
}

/// The step that changes what runs in shadow; it fails the batch when another change came first.
pub fn change_shadow(batch: &mut Batch, shadow: &Shadow, by: &str) {
    batch.step(
        "shadow",
        "INSERT INTO shadows (seq, version, changed_at, changed_by)
         VALUES ($1, $2, $3, $4) ON CONFLICT (seq) DO NOTHING",
        params![shadow.seq, shadow.version, shadow.changed_at, by],
        Expect::Rows(1),
    );
}

/// What a version in shadow would have decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Time-ordered.
    pub id: String,
    /// The version that decided.
    pub active_version: i64,
    /// Its outcome.
    pub active_outcome: String,
    /// Its reason codes, as JSON.
    pub active_reasons: String,
    /// The outcome of the version in shadow, empty when it failed.
    pub outcome: String,
    /// Its reason codes, as JSON.
    pub reasons: String,
    /// Why it failed, empty when it did not.
    pub error: String,
    /// What both were given, as JSON; empty where they agreed.
    pub facts: String,
    /// Microseconds.
    pub decided_at: i64,
}

/// The step that keeps what `version` would have decided on `request`, once.
pub fn keep_shadow_decision(
    batch: &mut Batch,
    version: i64,
    request: &str,
    differs: bool,
    made: &Difference,
) {
    batch.step(
        "shadow_decision",
        "INSERT INTO shadow_decisions (id, version, request, active_version, differs,
             active_outcome, active_reasons, outcome, reasons, error, facts, decided_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
         ON CONFLICT (version, request) DO NOTHING",
        params![
            &made.id,
            version,
            request,
            made.active_version,
            i64::from(differs),
            &made.active_outcome,
            &made.active_reasons,
            &made.outcome,
            &made.reasons,
            &made.error,
            &made.facts,
            made.decided_at
        ],
        Expect::Any,
    );
}

/// How often a version ran in shadow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShadowCounts {
    /// Decisions.
    pub evaluated: i64,
    /// Those that differ.
    pub differing: i64,
    /// Those it failed at.
    pub failed: i64,
}

/// Counts what is kept of a version.
pub async fn shadow_counts(db: &Db, version: i64) -> Result<ShadowCounts, DbError> {
    let rows = db
        .query(
            "SELECT COUNT(*), CAST(COALESCE(SUM(differs), 0) AS BIGINT),
                    CAST(COALESCE(SUM(CASE WHEN outcome = '' THEN 1 ELSE 0 END), 0) AS BIGINT)
             FROM shadow_decisions WHERE version = $1",
            params![version],
        )
        .await?;
    let count = |i| rows.first().map_or(Ok(0), |row| row.int(i));
    Ok(ShadowCounts {
        evaluated: count(0)?,
        differing: count(1)?,
        failed: count(2)?,
    })
}

/// Differing decisions before the id `before`, newest first; from the newest when it is empty.
pub async fn differences(
    db: &Db,
    version: i64,
    before: &str,
    limit: i64,
) -> Result<Vec<Difference>, DbError> {
    let rows = db
        .query(
            "SELECT id, active_version, active_outcome, active_reasons, outcome, reasons, error,
                    facts, decided_at
             FROM shadow_decisions
             WHERE version = $1 AND differs = 1 AND (CAST($2 AS TEXT) = '' OR id < $2)
             ORDER BY id DESC LIMIT $3",
            params![version, before, limit],
        )
        .await?;
    let read = |row: &Row| {
        let text = |i| row.text(i).map(str::to_owned);
        Ok(Difference {
            id: text(0)?,
            active_version: row.int(1)?,
            active_outcome: text(2)?,
            active_reasons: text(3)?,
            outcome: text(4)?,
            reasons: text(5)?,
            error: text(6)?,
            facts: text(7)?,
            decided_at: row.int(8)?,
        })
    };
    rows.iter().map(read).collect()
}

/// What `payer` asked for up to `now`, microseconds.
pub async fn velocity(db: &Db, payer: &str, now: i64) -> Result<Velocity, DbError> {
    let rows = db
        .query(
            "SELECT COUNT(*), CAST(COALESCE(SUM(amount_eur_minor), 0) AS BIGINT),
                    CAST(COALESCE(SUM(CASE WHEN asked_at > $3 THEN 1 ELSE 0 END), 0) AS BIGINT),
                    CAST(COALESCE(SUM(CASE WHEN asked_at > $3 THEN amount_eur_minor ELSE 0 END), 0)
                        AS BIGINT)
             FROM payments WHERE payer_owner = $1 AND asked_at > $2 AND counts = 1",
            params![payer, now - DAY_US, now - HOUR_US],
        )
        .await?;
    let number = |i| rows.first().map_or(Ok(0), |row| row.int(i));
    Ok(Velocity {
        count_24h: number(0)?,
        sum_eur_minor_24h: number(1)?,
        count_1h: number(2)?,
        sum_eur_minor_1h: number(3)?,
    })
}

/// A payment that counts.
pub async fn counted(db: &Db, payment_id: &str) -> Result<Option<Asked>, DbError> {
    let rows = db
        .query(
            "SELECT payment_id, payer_owner, asked_at, amount_eur_minor
             FROM payments WHERE payment_id = $1 AND counts = 1",
            params![payment_id],
        )
        .await?;
    let read = |row: &Row| {
        Ok(Asked {
            payment_id: row.text(0)?.to_owned(),
            payer_owner: row.text(1)?.to_owned(),
            asked_at: row.int(2)?,
            amount_eur_minor: row.opt_int(3)?,
        })
    };
    rows.first().map(read).transpose()
}

fn rows(asked: impl IntoIterator<Item = Asked>) -> Vec<Value> {
    let row = |a: Asked| params![a.payment_id, a.payer_owner, a.asked_at, a.amount_eur_minor];
    vec![Value::Rows(asked.into_iter().map(row).collect())]
}

/// The step that counts payments; one that is known already stays as it is.
pub fn count(batch: &mut Batch, asked: impl IntoIterator<Item = Asked>) {
    batch.step(
        "payments",
        "INSERT INTO payments (payment_id, payer_owner, asked_at, amount_eur_minor, counts)
         SELECT r.payment_id, r.payer_owner, r.asked_at, r.amount_eur_minor, 1
         FROM rows($1: payment_id TEXT, payer_owner TEXT, asked_at BIGINT, amount_eur_minor BIGINT) r
         WHERE true ON CONFLICT (payment_id) DO NOTHING",
        rows(asked),
        Expect::Any,
    );
}

/// The step that counts payments no more, whether they were counted before or not.
pub fn discount(batch: &mut Batch, ended: impl IntoIterator<Item = Asked>) {
    batch.step(
        "payments",
        "INSERT INTO payments (payment_id, payer_owner, asked_at, amount_eur_minor, counts)
         SELECT r.payment_id, r.payer_owner, r.asked_at, r.amount_eur_minor, 0
         FROM rows($1: payment_id TEXT, payer_owner TEXT, asked_at BIGINT, amount_eur_minor BIGINT) r
         WHERE true ON CONFLICT (payment_id) DO UPDATE SET counts = 0",
        rows(ended),
        Expect::Any,
    );
}

/// The steps that forget payments asked for before `payments_us`, and decisions in shadow made before
/// `decisions_us`.
pub fn forget(batch: &mut Batch, payments_us: i64, decisions_us: i64) {
    batch.step(
        "payments",
        "DELETE FROM payments WHERE asked_at < $1",
        params![payments_us],
        Expect::Any,
    );
    batch.step(
        "shadow_decisions",
        "DELETE FROM shadow_decisions WHERE decided_at < $1",
        params![decisions_us],
        Expect::Any,
    );
}
