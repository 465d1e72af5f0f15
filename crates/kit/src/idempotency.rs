//! Idempotency-Key: kept for good, in the service's own database, in the batch of the effect.
//!
//! Table `idempotency(id, fields, status, response, created_at)`. The same key and body get the
//! stored answer; another body gets 422 naming the fields that differ; concurrent twins meet at the
//! primary key: the loser's batch fails on the step `idempotency` and it reads the winner's answer.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use innover_contract::Code;
use serde_json::{Map, Value as Json};
use sha2::{Digest, Sha256};

use crate::{Answer, Batch, Cx, Db, Failure, Result, Row, db::column, ids, params};

/// The step's name in a failed batch.
pub const STEP: &str = "idempotency";

/// A key with its scope (caller, method, route) and a digest of each field of the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyKey {
    id: String,
    fields: String,
}

impl IdempotencyKey {
    /// The key `key` of `caller` for `method` and `path`, with the body's top-level fields.
    pub fn new(
        caller: &str,
        method: &str,
        path: &str,
        key: &str,
        fields: &Map<String, Json>,
    ) -> Self {
        let mut scope = Sha256::new();
        for part in [caller, method, path, key] {
            // Length-prefixed, so that no two scopes run together.
            scope.update((part.len() as u64).to_le_bytes());
            scope.update(part);
        }
        // 128 bits: a collision would answer one request with another's answer, and is as likely as
        // two equal UUIDs.
        let id = URL_SAFE_NO_PAD.encode(&scope.finalize()[..16]);
        let digests: Map<String, Json> = fields
            .iter()
            .map(|(name, value)| {
                let digest = Sha256::digest(value.to_string());
                (name.clone(), URL_SAFE_NO_PAD.encode(&digest[..9]).into())
            })
            .collect();
        IdempotencyKey {
            id,
            fields: Json::Object(digests).to_string(),
        }
    }

    /// The record's id: what a service that encrypts its stored answers binds one to.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The stored answer, if this key was used before with the same body.
    ///
    /// # Errors
    /// 422 `idempotency_key_reused` naming the fields that differ, or a database failure.
    pub async fn replay(&self, db: &Db) -> Result<Option<Answer>> {
        let rows = db
            .query(
                "SELECT fields, status, response, id FROM idempotency WHERE id = $1",
                params![&self.id],
            )
            .await?;
        rows.first().map(|row| self.stored(row)).transpose()
    }

    /// The answer in a row, if it is one to the same body.
    fn stored(&self, row: &Row) -> Result<Answer> {
        let fields = row.text(0)?;
        if fields != self.fields {
            return Err(self.reused(fields));
        }
        Ok(Answer {
            status: u16::try_from(row.int(1)?).unwrap_or(500),
            body: row.text(2)?.to_owned(),
            replayed: true,
        })
    }

    /// Adds the record of `answer` to the batch of the effect.
    pub fn record(&self, batch: &mut Batch, answer: &Answer) {
        batch.answered(params![
            &self.id,
            &self.fields,
            i64::from(answer.status),
            &answer.body,
            ids::now_us()
        ]);
    }

    fn reused(&self, stored: &str) -> Failure {
        let parse =
            |text: &str| serde_json::from_str::<Map<String, Json>>(text).unwrap_or_default();
        let (before, now) = (parse(stored), parse(&self.fields));
        let names: std::collections::BTreeSet<&String> = before.keys().chain(now.keys()).collect();
        let differing: Vec<String> = names
            .into_iter()
            .filter(|name| before.get(*name) != now.get(*name))
            .map(|name| format!("/{name}"))
            .collect();
        let mut failure = Failure::new(
            Code::IdempotencyKeyReused,
            format!(
                "this key was used for a request that differs in {}; use a new key for a new request",
                differing.join(", ")
            ),
        );
        failure.0.differing_fields = differing;
        failure
    }
}

/// What [`IdempotencyKey::replay`] says of each of these keys that was used before, by its id.
///
/// # Errors
/// A database failure.
pub async fn replay_all<'a>(
    db: &Db,
    keys: impl IntoIterator<Item = &'a IdempotencyKey>,
) -> Result<BTreeMap<&'a str, Result<Answer>>> {
    let by_id: BTreeMap<&str, &IdempotencyKey> =
        keys.into_iter().map(|key| (key.id(), key)).collect();
    if by_id.is_empty() {
        return Ok(BTreeMap::new());
    }
    let rows = db
        .query(
            "SELECT fields, status, response, id FROM idempotency
             WHERE id IN (SELECT id FROM rows($1: id TEXT))",
            vec![column(by_id.keys().copied())],
        )
        .await?;
    let mut stored = BTreeMap::new();
    for row in &rows {
        if let Some(key) = by_id.get(row.text(3)?) {
            stored.insert(key.id(), key.stored(row));
        }
    }
    Ok(stored)
}

/// Records a refusal as the answer to `key`, by a batch of its own: a decision is final for its key,
/// so the same key gets the same refusal, whatever has changed by then.
///
/// # Errors
/// A database failure.
pub async fn refuse(
    cx: &Cx,
    db: &mut Db,
    key: &IdempotencyKey,
    Failure(mut problem): Failure,
) -> Result<Answer> {
    problem.instance = Some(cx.path().to_owned());
    problem.request_id = Some(cx.request_id().to_owned());
    let answer = Answer::json(problem.status, &problem)?;
    Ok(commit(db, Batch::new(), Some(key), answer).await?)
}

/// Commits `batch` and answers with `answer`, which is recorded under `key` in the same commit.
/// When a concurrent twin won, its answer is returned instead.
///
/// # Errors
/// Whatever the batch failed on, when no twin has an answer.
pub async fn commit(
    db: &mut Db,
    mut batch: Batch,
    key: Option<&IdempotencyKey>,
    answer: Answer,
) -> Result<Answer, CommitError> {
    if let Some(key) = key {
        key.record(&mut batch, &answer);
    }
    match batch.commit(db).await {
        Ok(()) => Ok(answer),
        Err(error) => {
            // Whichever step failed first, a twin that committed meanwhile is the answer.
            if let Some(key) = key
                && let Some(twin) = key.replay(db).await.map_err(CommitError::Failure)?
            {
                return Ok(twin);
            }
            Err(CommitError::Batch(error))
        }
    }
}

/// Why [`commit`] did not answer.
#[derive(Debug)]
pub enum CommitError {
    /// A step did not affect the rows it expected, or the database failed.
    Batch(crate::BatchError),
    /// The key was reused, or the database failed while the twin was looked up.
    Failure(Failure),
}

impl From<CommitError> for Failure {
    fn from(error: CommitError) -> Failure {
        match error {
            CommitError::Batch(error) => error.into(),
            CommitError::Failure(failure) => failure,
        }
    }
}
