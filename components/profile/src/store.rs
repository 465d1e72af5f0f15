//! SQL, nothing else.

use innover_kit::{Batch, Db, Expect, Row, db::DbError, params};

use crate::model::{Profile, State};

fn profile(row: &Row) -> Result<Profile, DbError> {
    let state = row.text(6)?;
    Ok(Profile {
        id: row.text(0)?.into(),
        username: row.text(1)?.into(),
        email: row.text(2)?.into(),
        display_name: row.text(3)?.into(),
        country: row.opt_text(4)?.map(Into::into),
        kyc_tier: row.int(5)?,
        state: State::parse(state)
            .ok_or_else(|| DbError::Shape(format!("no such state: {state}")))?,
        version: row.int(7)?,
        created_at: row.int(8)?,
        updated_at: row.int(9)?,
    })
}

/// The profile of a subject.
pub async fn find(db: &Db, id: &str) -> Result<Option<Profile>, DbError> {
    let rows = db
        .query(
            "SELECT id, username, email, display_name, country, kyc_tier, state, version, created_at,
                    updated_at
             FROM profiles WHERE id = $1",
            params![id],
        )
        .await?;
    rows.first().map(profile).transpose()
}

/// Profiles after `after`, by id.
pub async fn page(db: &Db, after: &str, limit: i64) -> Result<Vec<Profile>, DbError> {
    let rows = db
        .query(
            "SELECT id, username, email, display_name, country, kyc_tier, state, version, created_at,
                    updated_at
             FROM profiles WHERE id > $1 ORDER BY id LIMIT $2",
            params![after, limit],
        )
        .await?;
    rows.iter().map(profile).collect()
}

/// The step that inserts a profile; it fails the batch when the subject has one by now.
pub fn insert(batch: &mut Batch, p: &Profile) {
    batch.step(
        "profiles",
        "INSERT INTO profiles (id, username, email, display_name, country, kyc_tier, state, version,
             created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (id) DO NOTHING",
        params![
            &p.id,
            &p.username,
            &p.email,
            &p.display_name,
            p.country.as_ref(),
            p.kyc_tier,
            p.state.as_str(),
            p.version,
            p.created_at,
            p.updated_at
        ],
        Expect::Rows(1),
    );
}

/// The step that replaces the version before; it fails the batch when someone else did.
pub fn update(batch: &mut Batch, p: &Profile) {
    batch.step(
        "profiles",
        "UPDATE profiles SET username = $2, email = $3, display_name = $4, country = $5, kyc_tier = $6,
             state = $7, version = $8, updated_at = $9
         WHERE id = $1 AND version = $10",
        params![
            &p.id,
            &p.username,
            &p.email,
            &p.display_name,
            p.country.as_ref(),
            p.kyc_tier,
            p.state.as_str(),
            p.version,
            p.updated_at,
            p.version - 1
        ],
        Expect::Rows(1),
    );
}

/// A decision of operations.
pub struct Decision<'a> {
    /// `kyc_tier` or `state`.
    pub field: &'a str,
    /// The value before.
    pub before: &'a str,
    /// The value after.
    pub after: &'a str,
    /// Why.
    pub reason: &'a str,
    /// Who.
    pub by: &'a str,
}

/// The step that records why a version of a profile came to be.
pub fn record(batch: &mut Batch, p: &Profile, d: &Decision) {
    batch.step(
        "decisions",
        "INSERT INTO decisions (profile_id, version, field, before_value, after_value, reason,
             decided_by, decided_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (profile_id, version) DO NOTHING",
        params![
            &p.id,
            p.version,
            d.field,
            d.before,
            d.after,
            d.reason,
            d.by,
            p.updated_at
        ],
        Expect::Rows(1),
    );
}
