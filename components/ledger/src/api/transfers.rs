//! Transfers: entries of two postings, at once or in two phases, one by one or thousands together.

use std::collections::HashMap;

use axum::extract::{FromRequest, Path, Request};
use bytes::Bytes;
use innover_kit::{
    Answer, Body, Code, Cx, Db, Failure, Result, amount::Amount,
    contract::limits::LEDGER_BODY_BYTES_MAX, ids,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{
    READ, callers_id, entries, invalid, line, metadata, trusted,
    views::{AccountBalanceView, TransferView},
    writer,
};
use crate::{
    booking::{self, Asked, Became, Outcome, Single, What},
    limits::{BATCH_MAX, RESERVED_S_DEFAULT, RESERVED_S_MAX},
    model::{AccountId, Reservation, Standing},
    settling::{self, End},
    store::{
        entries::{self as stored, EntryRow, Known, Line},
        pending,
    },
};

/// A transfer: money moves from one account to another.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TransferRequest {
    /// The caller's id for it: at most one transfer or entry ever has it, and whoever sends it again
    /// is answered what became of it. Needed unless there is an Idempotency-Key.
    id: Option<String>,
    /// Where it comes from.
    debit_account: String,
    /// Where it goes.
    credit_account: String,
    #[schema(value_type = Amount)]
    amount: Amount,
    #[schema(example = "EUR")]
    currency: String,
    /// Reserve it only: it is posted, voided or expires later.
    #[serde(default)]
    pending: bool,
    /// How long a reservation lasts, in seconds: 1 to 7,776,000 (90 days); a week when absent.
    expires_in_s: Option<i64>,
    /// What kind of entry it is; `transfer` when absent.
    kind: Option<String>,
    /// What it is for, up to 140 characters.
    #[serde(default)]
    reference: String,
    /// Anything, up to 4 kB.
    #[serde(default)]
    #[schema(value_type = Object)]
    metadata: Map<String, Value>,
}

impl TransferRequest {
    fn asked(&self, by_service: bool, created_by: &str) -> Result<Asked> {
        let kind = entries::kind(self.kind.as_deref().unwrap_or("transfer"), by_service)?;
        let id = callers_id(self.id.as_deref(), by_service, "/id")?;
        let reservation = Reservation {
            debit: self.debit_account.as_str().into(),
            credit: self.credit_account.as_str().into(),
            money: entries::money(&self.amount, &self.currency)?,
        };
        let entry = reservation.entry(reservation.money).map_err(|e| {
            let code = Code::parse(e.code()).unwrap_or(Code::InvalidRequest);
            let param = match code {
                Code::InvalidAmount => "/amount",
                _ => "/credit_account",
            };
            Failure::new(code, e.to_string()).param(param)
        })?;
        let what = match (self.pending, self.expires_in_s) {
            (false, None) => What::Transfer(entry),
            (false, Some(_)) => {
                return Err(invalid("only what is `pending` expires", "/expires_in_s"));
            }
            (true, life) => {
                let life = life.unwrap_or(RESERVED_S_DEFAULT);
                if !(1..=RESERVED_S_MAX).contains(&life) {
                    let what = format!("1 to {RESERVED_S_MAX} seconds");
                    return Err(invalid(what, "/expires_in_s"));
                }
                What::Reserve(reservation, life * 1_000_000)
            }
        };
        Ok(Asked {
            callers_id: id.is_some(),
            row: EntryRow {
                id: id.map_or_else(|| ids::new_id("ent"), str::to_owned),
                kind: kind.into(),
                reference: line(&self.reference, "/reference")?.into(),
                reverses: None,
                metadata: metadata(&self.metadata)?,
                created_by: created_by.to_owned(),
                created_at: 0,
            },
            what,
        })
    }
}

/// Transfer money between two accounts, or reserve it.
///
/// What is `pending` is reserved on both accounts: the debited one can no longer spend it, and
/// neither has it. It is then posted (whole or in part, the rest is released), voided, or expires.
#[utoipa::path(post, path = "/v1/transfers", tag = "transfers", request_body = TransferRequest,
    params(("Idempotency-Key" = Option<String>, Header, description = "Unique to this operation; needed when the body has no id")),
    responses(
        (status = 201, body = TransferView),
        (status = 404, description = "account_not_found"),
        (status = 422, description = "insufficient_funds, currency_mismatch, account_closed or idempotency_key_reused"),
    ))]
pub async fn create(cx: Cx, body: Body<TransferRequest>) -> Result<Answer> {
    let created_by = writer(&cx)?;
    let asked = body.value.asked(trusted(&cx).is_some(), &created_by)?;
    let key = match asked.callers_id {
        true => cx.idempotency(&body.fields)?,
        false => Some(cx.require_idempotency(&body.fields)?),
    };
    let render = booked;
    booking::book_single(Single {
        cx,
        asked,
        key,
        render,
    })
    .await
}

fn booked(cx: &Cx, outcomes: &[Outcome]) -> Result<Answer> {
    entries::answer(cx, outcomes, |entry, lines| {
        Answer::json(201, &TransferView::booked(entry, lines))
    })
}

/// A transfer as it stands.
#[utoipa::path(get, path = "/v1/transfers/{id}", tag = "transfers", params(("id" = String, Path)),
    responses((status = 200, body = TransferView), (status = 404, description = "No such transfer")))]
pub async fn get(cx: Cx, Path(id): Path<String>) -> Result<Answer> {
    if trusted(&cx).is_none() {
        cx.require(READ)?;
    }
    let db = Db::open().await?;
    if let Some(row) = pending::find(&db, &id).await? {
        return Answer::json(200, &TransferView::current(&row));
    }
    let missing = match stored::find(&db, &id).await? {
        Some(Known::Booked(entry, lines)) if lines.len() == 2 => {
            return Answer::json(200, &TransferView::booked(&entry, &lines));
        }
        Some(Known::Refused(_, refused)) => format!("`{id}` was refused: {}", refused.detail),
        _ => format!("transfer `{id}` does not exist"),
    };
    Err(Failure::new(Code::NotFound, missing))
}

/// How much of a reservation is posted.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PostRequest {
    /// All of it when absent.
    #[schema(value_type = Option<Amount>)]
    amount: Option<Amount>,
    /// The transfer's; needed with an amount.
    #[schema(example = "EUR")]
    currency: Option<String>,
}

/// Post a reservation, whole or in part; what is left of it is released.
///
/// A reservation ends once. The same request again is answered the same; another end is 409 and says
/// how it ended. So it needs no Idempotency-Key.
#[utoipa::path(post, path = "/v1/transfers/{id}/post", tag = "transfers", request_body = PostRequest,
    params(("id" = String, Path)),
    responses((status = 200, body = TransferView), (status = 404, description = "No such transfer"),
              (status = 409, description = "invalid_state: it ended otherwise")))]
pub async fn post(cx: Cx, Path(id): Path<String>, body: Body<PostRequest>) -> Result<Answer> {
    let by = writer(&cx)?;
    let part = match (&body.value.amount, &body.value.currency) {
        (None, _) => None,
        (Some(amount), Some(currency)) => Some(entries::money(amount, currency)?),
        (Some(_), None) => return Err(invalid("an amount needs its currency", "/currency")),
    };
    let row = settling::end(&cx, &id, End::Post(part), &by).await?;
    Answer::json(200, &TransferView::current(&row))
}

/// Void a reservation: all of it is released, nothing is booked.
///
/// As for posting, it needs no Idempotency-Key.
#[utoipa::path(post, path = "/v1/transfers/{id}/void", tag = "transfers", params(("id" = String, Path)),
    responses((status = 200, body = TransferView), (status = 404, description = "No such transfer"),
              (status = 409, description = "invalid_state: it ended otherwise")))]
pub async fn void(cx: Cx, Path(id): Path<String>) -> Result<Answer> {
    let by = writer(&cx)?;
    let row = settling::end(&cx, &id, End::Void, &by).await?;
    Answer::json(200, &TransferView::current(&row))
}

/// Many transfers at once.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchRequest {
    /// All of them or none.
    #[serde(default)]
    atomic: bool,
    /// 1 to 8,190, each with an id. They take effect in their order.
    transfers: Vec<TransferRequest>,
}

/// What became of a transfer of a batch.
#[derive(Debug, Serialize, ToSchema)]
struct ResultView {
    id: String,
    /// `posted`, `pending` or `refused`.
    state: &'static str,
    /// Whether it was that before this request.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    replayed: bool,
    /// Why it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    /// Where it differs from what its id was used for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    differing_fields: Vec<String>,
}

impl From<&Outcome> for ResultView {
    fn from(outcome: &Outcome) -> ResultView {
        let (id, state, refused) = match &outcome.became {
            Became::Booked(entry, _) => (&entry.id, "posted", None),
            Became::Reserved(row) => (&row.id, "pending", None),
            Became::Refused(entry, refused) => (&entry.id, "refused", Some(refused)),
        };
        let mut view = ResultView {
            id: id.clone(),
            state,
            replayed: outcome.replayed,
            code: refused.map(|r| r.code.clone()),
            detail: refused.map(|r| r.detail.clone()),
            differing_fields: outcome.differing.clone(),
        };
        if !outcome.differing.is_empty() {
            view.state = "refused";
            view.code = Some(Code::IdempotencyKeyReused.as_str().into());
            view.detail = Some("the id was used for another request".into());
        }
        view
    }
}

/// What became of a batch.
#[derive(Debug, Serialize, ToSchema)]
pub struct BatchView {
    /// How many were booked, now or before.
    posted: usize,
    /// How many are reserved, now or before.
    pending: usize,
    /// How many were refused, now or before.
    refused: usize,
    /// In the order of the request.
    results: Vec<ResultView>,
    /// What every account that was changed holds after all of them.
    balances: Vec<AccountBalanceView>,
}

/// A batch as it was sent: larger than other bodies, and read once.
pub struct BatchBody(BatchRequest);

impl<S: Send + Sync> FromRequest<S> for BatchBody {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<BatchBody> {
        let kind = request.headers().get(http::header::CONTENT_TYPE);
        let kind = kind.and_then(|v| v.to_str().ok()).map(str::to_owned);
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|e| Failure::new(Code::MalformedJson, e.to_string()))?;
        Body::typed(kind.as_deref(), &bytes, LEDGER_BODY_BYTES_MAX).map(BatchBody)
    }
}

/// Transfer many times in one commit.
///
/// Each transfer has a result of its own, in the order of the request; with `atomic` all of them take
/// effect or none does. Their ids make the request repeatable, so it needs no Idempotency-Key: what
/// was decided before is answered again, also a refusal. A batch that is refused whole (422) leaves
/// nothing behind and uses up no id.
#[utoipa::path(post, path = "/v1/transfers/batch", tag = "transfers", request_body = BatchRequest,
    responses((status = 200, body = BatchView), (status = 413, description = "More than 4 MiB"),
              (status = 422, description = "With `atomic`: the first transfer that was refused")))]
pub async fn batch(cx: Cx, body: BatchBody) -> Result<Answer> {
    let created_by = writer(&cx)?;
    let by_service = trusted(&cx).is_some();
    let BatchRequest { atomic, transfers } = body.0;
    if !(1..=BATCH_MAX).contains(&transfers.len()) {
        let what = format!(
            "{} transfers; a batch has 1 to {BATCH_MAX}",
            transfers.len()
        );
        return Err(invalid(what, "/transfers"));
    }
    let asked = transfers.iter().enumerate().map(|(i, transfer)| {
        let at = |failure: Failure| {
            let field = failure.0.param.clone().unwrap_or_default();
            failure.param(format!("/transfers/{i}{field}"))
        };
        if transfer.id.is_none() {
            return Err(at(invalid("a transfer of a batch has an id", "/id")));
        }
        transfer.asked(by_service, &created_by).map_err(at)
    });
    let asked: Vec<Asked> = asked.collect::<Result<_>>()?;
    booking::book(&cx, &asked, None, false, |outcomes| {
        if atomic {
            all_or_nothing(outcomes)?;
        }
        Answer::json(200, &view(outcomes))
    })
    .await
}

/// The first refusal is that of the whole batch.
fn all_or_nothing(outcomes: &[Outcome]) -> Result<()> {
    for (i, outcome) in outcomes.iter().enumerate() {
        let at =
            |failure: Failure, field: &str| Err(failure.param(format!("/transfers/{i}{field}")));
        if let Err(failure) = outcome.same() {
            return at(failure, "");
        }
        if let Became::Refused(_, refused) = &outcome.became {
            let code = Code::parse(&refused.code).unwrap_or(Code::Conflict);
            return at(Failure::new(code, refused.detail.clone()), &refused.param);
        }
    }
    Ok(())
}

fn view(outcomes: &[Outcome]) -> BatchView {
    let results: Vec<ResultView> = outcomes.iter().map(ResultView::from).collect();
    let count = |state| results.iter().filter(|r| r.state == state).count();
    BatchView {
        posted: count("posted"),
        pending: count("pending"),
        refused: count("refused"),
        balances: last_standings(outcomes)
            .iter()
            .map(AccountBalanceView::from)
            .collect(),
        results,
    }
}

/// How each account stands after the last transfer that changed it, in the order of their ids.
fn last_standings(outcomes: &[Outcome]) -> Vec<Standing> {
    let mut last: HashMap<&AccountId, Last<'_>> = HashMap::new();
    for outcome in outcomes.iter().filter(|o| !o.replayed) {
        match &outcome.became {
            Became::Booked(_, lines) => {
                last.extend(lines.iter().map(|line| (&line.account, Last::Posted(line))));
            }
            Became::Reserved(row) => {
                let standings = row.standings.iter();
                last.extend(standings.map(|s| (&s.account, Last::Reserved(s))));
            }
            Became::Refused(..) => {}
        }
    }
    let mut last: Vec<Standing> = last
        .into_values()
        .map(|last| match last {
            Last::Posted(line) => line.standing(),
            Last::Reserved(standing) => standing.clone(),
        })
        .collect();
    last.sort_by(|a, b| a.account.cmp(&b.account));
    last
}

/// What changed an account last.
enum Last<'a> {
    Posted(&'a Line),
    Reserved(&'a Standing),
}
