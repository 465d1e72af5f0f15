//! Entries: posted by finance or by a service, never changed.

use axum::extract::Path;
use innover_kit::{
    Answer, Batch, Body, Cause, Code, Cx, Db, Failure, Problem, Result,
    amount::{self, Amount},
    call,
    idempotency::{self, CommitError, IdempotencyKey},
    ids,
};
use innover_money::Money;
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{READ, invalid, line, metadata, name, trusted, views::EntryView, writer};
use crate::{
    events,
    limits::{
        CONTENTION_PAUSE_MS_MAX, CONTENTION_PAUSE_MS_MIN, CONTENTION_WAIT_US_MAX, POSTING_MINOR_MAX,
    },
    model::{AccountId, Checked, Entry, Posting, Refusal, Side},
    store::{self, EntryRow, Outcome},
};

/// Kinds that only the services that own them post.
const SERVICE_KINDS: [&str; 3] = ["payment", store::KIND_REFUND, "top_up"];
/// What a reversal is; only reversing makes one.
const REVERSAL: &str = "reversal";
/// What undoes a payment is a refund, which knows what was refunded before.
const PAYMENT: &str = "payment";

/// An entry to be posted.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EntryRequest {
    /// What kind of entry it is; `manual` when absent.
    kind: Option<String>,
    /// What it is for, up to 140 characters.
    #[serde(default)]
    reference: String,
    /// What it is made for: at most one entry ever has this id.
    external_id: Option<String>,
    /// 2 to 64 postings; per currency debits equal credits, and each account is named once.
    postings: Vec<PostingRequest>,
    /// Anything, up to 4 kB.
    #[serde(default)]
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
}

/// One posting.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PostingRequest {
    account: String,
    /// `debit` or `credit`.
    direction: String,
    #[schema(value_type = Amount)]
    amount: Amount,
    #[schema(example = "EUR")]
    currency: String,
}

impl PostingRequest {
    fn posting(&self, position: usize) -> Result<Posting> {
        let at = |field: &str| format!("/postings/{position}{field}");
        let side = Side::parse(&self.direction)
            .ok_or_else(|| invalid("`debit` or `credit`", &at("/direction")))?;
        let money = amount::money(&self.amount, &self.currency).map_err(|failure| {
            let field = at(failure.0.param.as_deref().unwrap_or_default());
            failure.param(field)
        })?;
        if money.minor() > POSTING_MINOR_MAX {
            return Err(Failure::new(
                Code::InvalidAmount,
                "the amount is larger than one posting may be",
            )
            .param(at("/amount")));
        }
        Ok(Posting {
            account: AccountId::from(self.account.as_str()),
            side,
            money,
        })
    }
}

impl EntryRequest {
    fn entry(&self) -> Result<Checked<Entry>> {
        let postings = self.postings.iter().enumerate().map(|(i, p)| p.posting(i));
        let entry = Entry {
            postings: postings.collect::<Result<_>>()?,
        };
        entry.check().map_err(|e| {
            let code = Code::parse(e.code()).unwrap_or(Code::InvalidRequest);
            Failure::new(code, e.to_string()).param(e.pointer())
        })
    }

    fn row(&self, by_service: bool, created_by: String) -> Result<EntryRow> {
        let kind = name(self.kind.as_deref().unwrap_or("manual"), "/kind")?;
        if kind == REVERSAL {
            return Err(invalid("POST /v1/entries/{id}/reverse makes one", "/kind"));
        }
        if !by_service && SERVICE_KINDS.contains(&kind) {
            return Err(invalid(
                format!("`{kind}` entries are posted by their service"),
                "/kind",
            ));
        }
        let external_id = self
            .external_id
            .as_deref()
            .map(|id| name(id, "/external_id"))
            .transpose()?;
        Ok(EntryRow {
            id: ids::new_id("ent"),
            external_id: external_id.map(str::to_owned),
            kind: kind.into(),
            reference: line(&self.reference, "/reference")?.into(),
            payment_id: None,
            reverses: None,
            metadata: metadata(&self.metadata)?,
            created_by,
            created_at: ids::now_us(),
        })
    }
}

/// A service repeats its `external_id`, which outlives its process; people send an Idempotency-Key.
fn idempotency_key(cx: &Cx, body: &Body<EntryRequest>) -> Result<IdempotencyKey> {
    match (trusted(cx), &body.value.external_id) {
        (Some(service), Some(id)) => {
            let caller = format!("service:{service}");
            Ok(IdempotencyKey::new(
                &caller,
                "POST",
                "/v1/entries",
                id,
                &body.fields,
            ))
        }
        _ => cx.require_idempotency(&body.fields),
    }
}

/// Post an entry.
///
/// All of its postings take effect or none. A refusal by the accounts (insufficient funds, a closed
/// account) is final for its key.
#[utoipa::path(post, path = "/v1/entries", tag = "entries", request_body = EntryRequest,
    params(("Idempotency-Key" = String, Header, description = "Unique to this operation")),
    responses(
        (status = 201, body = EntryView),
        (status = 404, description = "account_not_found"),
        (status = 409, description = "already_exists: another entry has the external_id"),
        (status = 422, description = "insufficient_funds, unbalanced, currency_mismatch or account_closed"),
    ))]
pub async fn create(cx: Cx, body: Body<EntryRequest>) -> Result<Answer> {
    let created_by = writer(&cx)?;
    let key = idempotency_key(&cx, &body)?;
    let entry = body.value.entry()?;
    let row = body.value.row(trusted(&cx).is_some(), created_by)?;
    while_contended(|| post(&cx, &key, &entry, &row)).await
}

/// Tries again while others move the same accounts. Every top-up of a currency moves the house's
/// cash, so writers that only try again at once would lose to each other in turn; a random pause
/// lets them pass one by one.
async fn while_contended<F>(mut attempt: impl FnMut() -> F) -> Result<Answer>
where
    F: Future<Output = Result<Answer>>,
{
    let until_us = ids::now_us() + CONTENTION_WAIT_US_MAX;
    let mut bound_ms = CONTENTION_PAUSE_MS_MIN;
    loop {
        match attempt().await {
            Err(failure) if failure.code() == Code::Conflict && ids::now_us() < until_us => {
                // The clock's microseconds differ between writers, which is all that is needed here.
                let random = ids::now_us().unsigned_abs();
                call::sleep_ms(1 + random % bound_ms).await;
                bound_ms = (bound_ms * 2).min(CONTENTION_PAUSE_MS_MAX);
            }
            done => return done,
        }
    }
}

async fn post(
    cx: &Cx,
    key: &IdempotencyKey,
    entry: &Checked<Entry>,
    row: &EntryRow,
) -> Result<Answer> {
    let mut db = Db::open().await?;
    if let Some(answer) = key.replay(&db).await? {
        return Ok(answer);
    }
    let mut book = store::book(&db, entry.postings().iter().map(|p| &p.account)).await?;
    let posted = match book.post(entry) {
        Ok(posted) => posted,
        Err(refusal) => return refuse(cx, &mut db, key, entry, row, &refusal).await,
    };
    let mut batch = Batch::new();
    batch.emit(events::posted_event(row, &posted, Cause::from(cx)));
    let answer = Answer::json(201, &EntryView::posted(row, &posted))?;
    store::post(&mut batch, &book, &[(row.clone(), posted)]);
    settle(
        &mut batch,
        row,
        Outcome::Booked {
            entry_id: row.id.clone(),
        },
    );
    idempotency::commit(&mut db, batch, Some(key), answer)
        .await
        .map_err(failed)
}

fn settle(batch: &mut Batch, row: &EntryRow, outcome: Outcome) {
    if let Some(id) = &row.external_id {
        store::settle(batch, &[(id.clone(), outcome)], row.created_at);
    }
}

fn failed(error: CommitError) -> Failure {
    match error {
        // Of new entries only a reversal can meet another: ids are new, outcomes have their own step.
        CommitError::Batch(e) if e.step() == Some(store::STEP_ENTRIES) => reversed_before(),
        CommitError::Batch(e) if e.step() == Some(store::STEP_OUTCOMES) => Failure::new(
            Code::AlreadyExists,
            "this external_id was booked or refused before, under another Idempotency-Key",
        )
        .param("/external_id"),
        error => error.into(),
    }
}

fn reversed_before() -> Failure {
    Failure::new(Code::AlreadyExists, "the entry was reversed before")
}

/// What goes with a reversal.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReverseRequest {
    /// Why, up to 140 characters.
    #[serde(default)]
    reference: String,
    /// Anything, up to 4 kB.
    #[serde(default)]
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
}

/// Reverse an entry.
///
/// A new entry with the same postings on the other sides, which names the one it reverses. Entries
/// are reversed once and never changed; a payment's is undone by a refund instead.
#[utoipa::path(post, path = "/v1/entries/{id}/reverse", tag = "entries", request_body = ReverseRequest,
    params(("id" = String, Path),
           ("Idempotency-Key" = String, Header, description = "Unique to this operation")),
    responses(
        (status = 201, body = EntryView),
        (status = 404, description = "entry_not_found"),
        (status = 409, description = "already_exists: it was reversed before; invalid_state: it is a payment's or a reversal"),
        (status = 422, description = "insufficient_funds or account_closed"),
    ))]
pub async fn reverse(cx: Cx, Path(id): Path<String>, body: Body<ReverseRequest>) -> Result<Answer> {
    let created_by = writer(&cx)?;
    let key = cx.require_idempotency(&body.fields)?;
    let db = Db::open().await?;
    if let Some(answer) = key.replay(&db).await? {
        return Ok(answer);
    }
    let original = existing(&db, &id).await?;
    let refused = match original.kind.as_str() {
        PAYMENT => Some("a payment's entry is undone by a refund of the payment"),
        store::KIND_REFUND => Some("a refund is final"),
        REVERSAL => Some("a reversal is undone by posting the original again"),
        _ => None,
    };
    if let Some(why) = refused {
        return Err(Failure::new(Code::InvalidState, why));
    }
    // Said before the accounts are asked: they may no longer hold what was taken back.
    if store::is_reversed(&db, &id).await? {
        return Err(reversed_before());
    }
    let lines = store::lines(&db, &id).await?;
    // `post` opens its own, and an instance keeps few.
    drop(db);
    let row = EntryRow {
        id: ids::new_id("ent"),
        external_id: None,
        kind: REVERSAL.into(),
        reference: line(&body.value.reference, "/reference")?.into(),
        payment_id: None,
        reverses: Some(id),
        metadata: metadata(&body.value.metadata)?,
        created_by,
        created_at: ids::now_us(),
    };
    let entry = opposite(&lines)?;
    while_contended(|| post(&cx, &key, &entry, &row)).await
}

/// The same postings on the other sides. They balance, since the original does.
fn opposite(lines: &[store::Line]) -> Result<Checked<Entry>> {
    let broken = |e: String| Failure::new(Code::Internal, e);
    let postings = lines.iter().map(|line| {
        Ok(Posting {
            account: line.account.clone(),
            side: line.side.opposite(),
            money: Money::new(line.amount, line.currency).map_err(|e| broken(e.to_string()))?,
        })
    });
    let entry = Entry {
        postings: postings.collect::<Result<_>>()?,
    };
    entry.check().map_err(|e| broken(e.to_string()))
}

async fn existing(db: &Db, id: &str) -> Result<EntryRow> {
    let missing = || Failure::new(Code::EntryNotFound, format!("entry `{id}` does not exist"));
    store::entry(db, id).await?.ok_or_else(missing)
}

/// The failed decision left nothing, so it is recorded by a batch of its own: the same key gets the
/// same refusal, even when the account is full again by then.
async fn refuse(
    cx: &Cx,
    db: &mut Db,
    key: &IdempotencyKey,
    entry: &Checked<Entry>,
    row: &EntryRow,
    refusal: &Refusal,
) -> Result<Answer> {
    let code = Code::parse(refusal.code()).unwrap_or(Code::Conflict);
    let position = entry
        .postings()
        .iter()
        .position(|p| p.account == *refusal.account());
    let mut problem = Problem::new(code, refusal.to_string())
        .param(format!("/postings/{}", position.unwrap_or_default()));
    problem.instance = Some(cx.path().to_owned());
    problem.request_id = Some(cx.request_id().to_owned());
    let answer = Answer::json(problem.status, &problem)?;
    let mut batch = Batch::new();
    settle(
        &mut batch,
        row,
        Outcome::Refused {
            code: refusal.code(),
            detail: refusal.to_string(),
        },
    );
    idempotency::commit(db, batch, Some(key), answer)
        .await
        .map_err(failed)
}

/// One entry with its postings.
#[utoipa::path(get, path = "/v1/entries/{id}", tag = "entries", params(("id" = String, Path)),
    responses((status = 200, body = EntryView), (status = 404, description = "No such entry")))]
pub async fn get(cx: Cx, Path(id): Path<String>) -> Result<Answer> {
    cx.require(READ)?;
    let db = Db::open().await?;
    let entry = existing(&db, &id).await?;
    let lines = store::lines(&db, &id).await?;
    Answer::json(200, &EntryView::read(&entry, &lines))
}
