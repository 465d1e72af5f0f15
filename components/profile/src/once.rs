//! Idempotency where request and answer are personal: the record holds digests under the person's
//! data key and the answer sealed with it, so that it says nothing to anyone else, and nothing to
//! anyone once the key is destroyed.

use innover_kit::{
    Answer, Batch, Cx, Db, Result,
    idempotency::{self, CommitError, IdempotencyKey},
};
use serde_json::{Map, Value};

use crate::seal::{DataKey, Place};

/// A request of or about one person, and its Idempotency-Key if it has one.
pub struct Once<'a> {
    key: Option<IdempotencyKey>,
    data_key: &'a DataKey,
}

impl<'a> Once<'a> {
    /// With the key the caller may have sent.
    ///
    /// # Errors
    /// 400 when the key is no key.
    pub fn new(cx: &Cx, fields: &Map<String, Value>, data_key: &'a DataKey) -> Result<Once<'a>> {
        let key = cx.idempotency(&digests(fields, data_key))?;
        Ok(Once { key, data_key })
    }

    fn place(key: &IdempotencyKey) -> Place<'_> {
        Place {
            table: "idempotency",
            column: "response",
            row: key.id(),
        }
    }

    fn open(&self, key: &IdempotencyKey, mut answer: Answer) -> Result<Answer> {
        answer.body = self.data_key.open(Self::place(key), &answer.body)?;
        Ok(answer)
    }

    /// The answer to the same request before.
    ///
    /// # Errors
    /// 422 when the key was used for another one.
    pub async fn replay(&self, db: &Db) -> Result<Option<Answer>> {
        let Some(key) = &self.key else {
            return Ok(None);
        };
        let stored = key.replay(db).await?;
        stored.map(|answer| self.open(key, answer)).transpose()
    }

    /// Commits `batch` and answers with `answer`, or as a twin was answered that was faster.
    ///
    /// # Errors
    /// Whatever the batch failed on.
    pub async fn commit(
        &self,
        db: &mut Db,
        batch: Batch,
        answer: Answer,
    ) -> Result<Answer, CommitError> {
        let Some(key) = &self.key else {
            return idempotency::commit(db, batch, None, answer).await;
        };
        let sealed = self
            .data_key
            .seal(Self::place(key), &answer.body)
            .map_err(|fault| CommitError::Failure(fault.into()))?;
        let record = Answer {
            body: sealed,
            ..answer.clone()
        };
        let done = idempotency::commit(db, batch, Some(key), record).await?;
        match done.replayed {
            true => self.open(key, done).map_err(CommitError::Failure),
            false => Ok(answer),
        }
    }
}

/// What the record compares requests by. A plain digest of a document's number or of a country could
/// be found by trying them all.
fn digests(fields: &Map<String, Value>, key: &DataKey) -> Map<String, Value> {
    fields
        .iter()
        .map(|(name, value)| {
            let digest = key.digest(&["idempotency", name, &value.to_string()]);
            (name.clone(), digest.into())
        })
        .collect()
}
