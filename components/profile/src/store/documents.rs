//! Documents and their files.

use innover_kit::{Batch, Db, Expect, Row, Value, db::DbError, params};

use super::keys;
use crate::{
    model::documents::{
        CONTENT_BYTES_PER_PERSON_MAX, DOCUMENTS_PER_PERSON_MAX, Finding, Kind, Standing,
        Submission, media_type,
    },
    seal::{DataKey, Fault, Keks, Place, Wrapped},
};

/// The step that counts a new document against its owner's bounds.
pub const QUOTA: &str = "quota";

/// A document, without what is personal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Its id.
    pub id: String,
    /// Whose it is.
    pub profile_id: String,
    /// What it is.
    pub kind: Kind,
    /// Its last day.
    pub expires_on: Option<String>,
    /// What its file is.
    pub media_type: Option<String>,
    /// Bytes of its file.
    pub content_bytes: i64,
    /// Where it stands.
    pub standing: Standing,
    /// What its check found.
    pub findings: Vec<Finding>,
    /// 1 and up.
    pub version: i64,
    /// Microseconds.
    pub created_at: i64,
    /// Microseconds.
    pub updated_at: i64,
}

/// A document as stored.
pub struct Stored {
    /// What is not personal.
    pub document: Document,
    /// By which equal numbers are found.
    pub number_digest: Option<String>,
    country: String,
    number: Option<String>,
    key: Wrapped,
}

/// A document, opened.
pub struct Opened {
    /// What is not personal.
    pub document: Document,
    /// Who issued it; empty once it is withdrawn or erased.
    pub country: String,
    /// Its number.
    pub number: Option<String>,
}

fn place<'a>(column: &'static str, id: &'a str) -> Place<'a> {
    Place {
        table: "documents",
        column,
        row: id,
    }
}

fn content_place(id: &str) -> Place<'_> {
    Place {
        table: "document_contents",
        column: "content",
        row: id,
    }
}

impl Stored {
    /// The data key of its owner.
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
    pub fn open(self, keks: &Keks) -> Result<Opened, Fault> {
        if self.country.is_empty() {
            return Ok(Opened {
                document: self.document,
                country: String::new(),
                number: None,
            });
        }
        let key = self.key(keks)?;
        let id = &self.document.id;
        let country = key.open(place("country", id), &self.country)?;
        let number = match &self.number {
            Some(number) => Some(key.open(place("number", id), number)?),
            None => None,
        };
        Ok(Opened {
            document: self.document,
            country,
            number,
        })
    }
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT d.id, d.profile_id, d.type, d.expires_on, d.media_type, d.content_bytes, d.state,
                    d.findings, d.version, d.created_at, d.updated_at, d.number_digest, d.country,
                    d.number, k.owner, k.id, k.kek_id, k.wrapped
             FROM documents d JOIN data_keys k ON k.owner = 'person:' || d.profile_id ",
            $rest
        )
    };
}

fn stored(row: &Row) -> Result<Stored, DbError> {
    let text = |i| -> Result<Option<String>, DbError> { Ok(row.opt_text(i)?.map(Into::into)) };
    let (kind, state) = (row.text(2)?, row.text(6)?);
    let findings = row.text(7)?.split(',').filter(|word| !word.is_empty());
    let shape = |what: &str, word: &str| DbError::Shape(format!("no such {what}: {word}"));
    Ok(Stored {
        document: Document {
            id: row.text(0)?.into(),
            profile_id: row.text(1)?.into(),
            kind: Kind::parse(kind).ok_or_else(|| shape("type", kind))?,
            expires_on: text(3)?,
            media_type: text(4)?,
            content_bytes: row.int(5)?,
            standing: Standing::parse(state).ok_or_else(|| shape("state", state))?,
            findings: findings
                .map(|word| Finding::parse(word).ok_or_else(|| shape("finding", word)))
                .collect::<Result<_, _>>()?,
            version: row.int(8)?,
            created_at: row.int(9)?,
            updated_at: row.int(10)?,
        },
        number_digest: text(11)?,
        country: row.text(12)?.into(),
        number: text(13)?,
        key: keys::wrapped(row, 14)?,
    })
}

fn all(rows: &[Row]) -> Result<Vec<Stored>, DbError> {
    rows.iter().map(stored).collect()
}

/// The document with this id.
pub async fn find(db: &Db, id: &str) -> Result<Option<Stored>, DbError> {
    let rows = db.query(select!("WHERE d.id = $1"), params![id]).await?;
    rows.first().map(stored).transpose()
}

/// Documents of one person, or of all when `profile_id` is empty; in one state, or in any; after
/// `after`, by id.
pub async fn page(
    db: &Db,
    profile_id: &str,
    state: &str,
    after: &str,
    limit: i64,
) -> Result<Vec<Stored>, DbError> {
    let sql = select!(
        "WHERE (CAST($1 AS TEXT) = '' OR d.profile_id = $1) AND (CAST($2 AS TEXT) = '' OR d.state = $2)
           AND d.id > $3 ORDER BY d.id LIMIT $4"
    );
    all(&db
        .query(sql, params![profile_id, state, after, limit])
        .await?)
}

/// Verified documents whose last day is before `today`, after `after`, by id.
pub async fn past(db: &Db, today: &str, after: &str, limit: i64) -> Result<Vec<Stored>, DbError> {
    let sql = select!(
        "WHERE d.state = 'verified' AND d.expires_on < $1 AND d.id > $2 ORDER BY d.id LIMIT $3"
    );
    all(&db.query(sql, params![today, after, limit]).await?)
}

/// Ids of documents that wait for their check since before `before_us`.
pub async fn waiting(db: &Db, before_us: i64, limit: i64) -> Result<Vec<String>, DbError> {
    let rows = db
        .query(
            "SELECT id FROM documents WHERE state = 'submitted' AND updated_at < $1 ORDER BY id LIMIT $2",
            params![before_us, limit],
        )
        .await?;
    rows.iter().map(|row| Ok(row.text(0)?.to_owned())).collect()
}

/// Whether someone else has a document with this number that is not rejected.
pub async fn is_taken(db: &Db, digest: &str, profile_id: &str) -> Result<bool, DbError> {
    let rows = db
        .query(
            "SELECT id FROM documents WHERE number_digest = $1 AND profile_id <> $2
               AND state <> 'rejected' LIMIT 1",
            params![digest, profile_id],
        )
        .await?;
    Ok(!rows.is_empty())
}

/// The digest by which equal numbers are found.
pub fn digest(numbers: &DataKey, submission: &Submission) -> Option<String> {
    let number = submission.number.as_ref()?;
    Some(numbers.digest(&[submission.kind.as_str(), &submission.country, number]))
}

/// The steps that store a new document and its file, and count them against the owner's bounds: the
/// step [`QUOTA`] affects no row when one is reached or the owner may not act any more.
///
/// # Errors
/// No randomness.
pub fn insert(
    batch: &mut Batch,
    key: &DataKey,
    document: &Document,
    submission: &Submission,
    digest: Option<String>,
) -> Result<(), Fault> {
    let id = &document.id;
    let country = key.seal(place("country", id), &submission.country)?;
    let number = submission.number.as_ref();
    let number = number.map(|number| key.seal(place("number", id), number));
    batch.step(
        "documents",
        "INSERT INTO documents (id, profile_id, type, country, number, number_digest, expires_on,
             media_type, content_bytes, state, findings, version, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, '', $11, $12, $13) ON CONFLICT (id) DO NOTHING",
        params![
            id,
            &document.profile_id,
            document.kind.as_str(),
            country,
            number.transpose()?,
            digest,
            document.expires_on.as_ref(),
            document.media_type.as_ref(),
            document.content_bytes,
            document.standing.as_str(),
            document.version,
            document.created_at,
            document.updated_at
        ],
        Expect::Rows(1),
    );
    if let Some(content) = &submission.content {
        batch.step(
            "document_contents",
            "INSERT INTO document_contents (document_id, profile_id, content) VALUES ($1, $2, $3)
             ON CONFLICT (document_id) DO NOTHING",
            params![
                id,
                &document.profile_id,
                key.seal_bytes(content_place(id), content)?
            ],
            Expect::Rows(1),
        );
    }
    batch.step(
        QUOTA,
        "UPDATE profiles SET documents = documents + 1, content_bytes = content_bytes + $2
         WHERE id = $1 AND state = 'active' AND documents < $3 AND content_bytes + $2 <= $4",
        params![
            &document.profile_id,
            document.content_bytes,
            DOCUMENTS_PER_PERSON_MAX,
            CONTENT_BYTES_PER_PERSON_MAX
        ],
        Expect::Rows(1),
    );
    Ok(())
}

/// A new document of `profile_id`.
pub fn new(id: String, profile_id: &str, submission: &Submission, now_us: i64) -> Document {
    let content = submission.content.as_deref();
    Document {
        id,
        profile_id: profile_id.to_owned(),
        kind: submission.kind,
        expires_on: submission.expires_on.clone(),
        media_type: content.and_then(media_type).map(Into::into),
        content_bytes: content.map_or(0, |c| c.len() as i64),
        standing: Standing::Submitted,
        findings: Vec::new(),
        version: 1,
        created_at: now_us,
        updated_at: now_us,
    }
}

/// The file of a document.
///
/// # Errors
/// The database; a file that was changed or moved.
pub async fn content(db: &Db, key: &DataKey, id: &str) -> innover_kit::Result<Option<Vec<u8>>> {
    let rows = db
        .query(
            "SELECT content FROM document_contents WHERE document_id = $1",
            params![id],
        )
        .await?;
    match rows.first() {
        Some(row) => Ok(Some(key.open_bytes(content_place(id), row.text(0)?)?)),
        None => Ok(None),
    }
}

/// The step that deletes the file of a withdrawn document.
pub fn delete_content(batch: &mut Batch, document: &Document) {
    if document.media_type.is_some() {
        batch.step(
            "document_contents",
            "DELETE FROM document_contents WHERE document_id = $1",
            params![&document.id],
            Expect::Rows(1),
        );
    }
}

/// A document's change, as the row of a set.
pub(super) fn change(
    document: &Document,
    to: Standing,
    findings: &[Finding],
    forget: bool,
    now_us: i64,
) -> Vec<Value> {
    let words: Vec<&str> = findings.iter().map(|f| f.as_str()).collect();
    params![
        &document.id,
        document.version,
        to.as_str(),
        words.join(","),
        i64::from(forget),
        now_us
    ]
}

/// The step for any number of changes; one that someone else changed fails the batch.
pub(super) fn apply(batch: &mut Batch, changes: Vec<Vec<Value>>) {
    let expected = changes.len() as u64;
    batch.step(
        "documents",
        "UPDATE documents SET state = r.state, findings = r.findings, version = documents.version + 1,
             updated_at = r.at,
             country = CASE WHEN r.forget = 1 THEN '' ELSE documents.country END,
             number = CASE WHEN r.forget = 1 THEN NULL ELSE documents.number END,
             number_digest = CASE WHEN r.forget = 1 THEN NULL ELSE documents.number_digest END,
             expires_on = CASE WHEN r.forget = 1 THEN NULL ELSE documents.expires_on END,
             media_type = CASE WHEN r.forget = 1 THEN NULL ELSE documents.media_type END,
             content_bytes = CASE WHEN r.forget = 1 THEN 0 ELSE documents.content_bytes END
         FROM rows($1: id TEXT, version BIGINT, state TEXT, findings TEXT, forget BIGINT, at BIGINT) r
         WHERE documents.id = r.id AND documents.version = r.version",
        vec![Value::Rows(changes)],
        Expect::Rows(expected),
    );
}

/// The steps that leave ids, kinds, decisions and times of a person's documents.
pub(super) fn erase(batch: &mut Batch, profile_id: &str, now_us: i64) {
    batch.step(
        "documents",
        "UPDATE documents SET country = '', number = NULL, number_digest = NULL, expires_on = NULL,
             media_type = NULL, content_bytes = 0, version = version + 1, updated_at = $2,
             state = CASE WHEN state IN ('submitted', 'verifying', 'verified') THEN 'withdrawn'
                          ELSE state END
         WHERE profile_id = $1",
        params![profile_id, now_us],
        Expect::Any,
    );
    batch.step(
        "document_contents",
        "DELETE FROM document_contents WHERE profile_id = $1",
        params![profile_id],
        Expect::Any,
    );
}
