//! SQL, and what is sealed in which column.

pub mod documents;
pub mod keys;
mod writer;

use innover_kit::{Batch, Db, Expect, Row, db::DbError, params};

pub use writer::{Decision, Writer, decisions, emit_updated};

use crate::{
    model::{Details, Evidence, Profile, State},
    seal::{DataKey, Fault, Keks, Place, Wrapped},
};

/// A profile as stored: what is personal is sealed.
pub struct Stored {
    /// What is not personal.
    pub profile: Profile,
    sealed: [Option<String>; 4],
    key: Wrapped,
    /// Documents ever submitted.
    submitted: i64,
}

/// A profile, opened.
pub struct Known {
    /// What is not personal.
    pub profile: Profile,
    /// What is; empty once it is erased.
    pub details: Details,
}

const COLUMNS: [&str; 4] = ["username", "email", "display_name", "country"];

fn place<'a>(column: usize, id: &'a str) -> Place<'a> {
    Place {
        table: "profiles",
        column: COLUMNS[column],
        row: id,
    }
}

impl Stored {
    /// Its data key.
    ///
    /// # Errors
    /// A key that is not there or does not fit.
    pub fn key(&self, keks: &Keks) -> Result<DataKey, Fault> {
        keks.open(&self.key)
    }

    /// With what is personal.
    ///
    /// # Errors
    /// As [`Stored::key`]; a field that was changed or moved.
    pub fn open(self, keks: &Keks) -> Result<Known, Fault> {
        let Stored {
            profile,
            sealed,
            key,
            submitted: _,
        } = self;
        if profile.state == State::Erased {
            let details = Details {
                username: String::new(),
                email: String::new(),
                display_name: String::new(),
                country: None,
            };
            return Ok(Known { profile, details });
        }
        let key = keks.open(&key)?;
        let open = |column: usize| match &sealed[column] {
            Some(text) => key.open(place(column, &profile.id), text).map(Some),
            None => Ok(None),
        };
        let details = Details {
            username: open(0)?.unwrap_or_default(),
            email: open(1)?.unwrap_or_default(),
            display_name: open(2)?.unwrap_or_default(),
            country: open(3)?,
        };
        Ok(Known { profile, details })
    }
}

/// The four personal columns.
fn seal(key: &DataKey, id: &str, details: &Details) -> Result<[Option<String>; 4], Fault> {
    let seal = |column: usize, text: &str| key.seal(place(column, id), text);
    Ok([
        Some(seal(0, &details.username)?),
        Some(seal(1, &details.email)?),
        Some(seal(2, &details.display_name)?),
        details.country.as_ref().map(|c| seal(3, c)).transpose()?,
    ])
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT p.id, p.kyc_tier, p.tier_override, p.has_email, p.identity_documents,
                    p.address_documents, p.state, p.version, p.created_at, p.updated_at,
                    p.username, p.email, p.display_name, p.country,
                    k.owner, k.id, k.kek_id, k.wrapped, p.documents
             FROM profiles p JOIN data_keys k ON k.owner = 'person:' || p.id ",
            $rest
        )
    };
}

fn stored(row: &Row) -> Result<Stored, DbError> {
    let state = row.text(6)?;
    let text = |i| -> Result<Option<String>, DbError> { Ok(row.opt_text(i)?.map(Into::into)) };
    Ok(Stored {
        profile: Profile {
            id: row.text(0)?.into(),
            kyc_tier: row.int(1)?,
            tier_override: row.opt_int(2)?,
            evidence: Evidence {
                email: row.int(3)? != 0,
                identity_documents: row.int(4)?,
                address_documents: row.int(5)?,
            },
            state: State::parse(state)
                .ok_or_else(|| DbError::Shape(format!("no such state: {state}")))?,
            version: row.int(7)?,
            created_at: row.int(8)?,
            updated_at: row.int(9)?,
        },
        sealed: [text(10)?, text(11)?, text(12)?, text(13)?],
        key: keys::wrapped(row, 14)?,
        submitted: row.int(18)?,
    })
}

/// The profile of a subject.
pub async fn find(db: &Db, id: &str) -> Result<Option<Stored>, DbError> {
    let rows = db.query(select!("WHERE p.id = $1"), params![id]).await?;
    rows.first().map(stored).transpose()
}

/// Profiles after `after`, by id.
pub async fn page(db: &Db, after: &str, limit: i64) -> Result<Vec<Stored>, DbError> {
    let rows = db
        .query(
            select!("WHERE p.id > $1 ORDER BY p.id LIMIT $2"),
            params![after, limit],
        )
        .await?;
    rows.iter().map(stored).collect()
}

/// The step that inserts a profile; it fails the batch when the subject has one by now.
///
/// # Errors
/// No randomness.
pub fn insert(batch: &mut Batch, key: &DataKey, p: &Profile, d: &Details) -> Result<(), Fault> {
    let [username, email, display_name, country] = seal(key, &p.id, d)?;
    batch.step(
        "profiles",
        "INSERT INTO profiles (id, username, email, display_name, country, kyc_tier, tier_override,
             has_email, identity_documents, address_documents, documents, content_bytes, state,
             version, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, NULL, $7, 0, 0, 0, 0, $8, $9, $10, $11)
         ON CONFLICT (id) DO NOTHING",
        params![
            &p.id,
            username,
            email,
            display_name,
            country,
            p.kyc_tier,
            i64::from(p.evidence.email),
            p.state.as_str(),
            p.version,
            p.created_at,
            p.updated_at
        ],
        Expect::Rows(1),
    );
    Ok(())
}

/// The step that replaces what is personal in the version before; it fails the batch when someone
/// else changed that version.
///
/// # Errors
/// No randomness.
pub fn update(batch: &mut Batch, key: &DataKey, p: &Profile, d: &Details) -> Result<(), Fault> {
    let [username, email, display_name, country] = seal(key, &p.id, d)?;
    batch.step(
        "profiles",
        "UPDATE profiles SET username = $2, email = $3, display_name = $4, country = $5, kyc_tier = $6,
             has_email = $7, version = $8, updated_at = $9
         WHERE id = $1 AND version = $10",
        params![
            &p.id,
            username,
            email,
            display_name,
            country,
            p.kyc_tier,
            i64::from(p.evidence.email),
            p.version,
            p.updated_at,
            p.version - 1
        ],
        Expect::Rows(1),
    );
    Ok(())
}

/// The steps that leave the id, the decisions and the times of a profile, and destroy its data key.
/// They need no key of the environment. They fail when a document was submitted meanwhile, which leaves
/// the version alone: of its rows a statement that had begun before would see nothing.
pub fn erase(batch: &mut Batch, before: &Stored, after: &Profile) {
    keys::destroy(batch, &before.key, after.updated_at);
    batch.step(
        "profiles",
        "UPDATE profiles SET username = '', email = '', display_name = '', country = NULL, kyc_tier = 0,
             tier_override = NULL, has_email = 0, identity_documents = 0, address_documents = 0,
             content_bytes = 0, state = $2, version = $3, updated_at = $4
         WHERE id = $1 AND version = $5 AND documents = $6",
        params![
            &after.id,
            after.state.as_str(),
            after.version,
            after.updated_at,
            before.profile.version,
            before.submitted
        ],
        Expect::Rows(1),
    );
    documents::erase(batch, &after.id, after.updated_at);
}
