//! Entries: posted by finance or by a service, never changed.

use axum::extract::Path;
use innover_kit::{
    Answer, Body, Code, Cx, Db, Failure, Problem, Result,
    amount::{self, Amount},
    ids,
};
use innover_money::Money;
use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{
    READ, callers_id, invalid, line, metadata, name, settlement::TIMED_OUT, trusted,
    views::EntryView, writer,
};
use crate::{
    booking::{self, Asked, Became, Outcome, Single, What},
    limits::POSTING_MINOR_MAX,
    model::{AccountId, Checked, Entry, Posting, Side},
    store::entries::{self, EntryRow, KIND_PAYMENT, KIND_REFUND, Known, Line, Refused},
};

/// Kinds that only the services that own them post.
const SERVICE_KINDS: [&str; 3] = [KIND_PAYMENT, KIND_REFUND, "top_up"];
/// What a reversal is; only reversing makes one.
const REVERSAL: &str = "reversal";

/// An entry to be posted.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct EntryRequest {
    /// The caller's id for it: at most one entry ever has it, and whoever sends it again is answered
    /// what became of it. Needed unless there is an Idempotency-Key.
    id: Option<String>,
    /// What kind of entry it is; `manual` when absent.
    kind: Option<String>,
    /// What it is for, up to 140 characters.
    #[serde(default)]
    reference: String,
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

/// The amount of a posting or a transfer.
pub(super) fn money(amount: &Amount, currency: &str) -> Result<Money> {
    let money = amount::money(amount, currency)?;
    if money.minor() > POSTING_MINOR_MAX {
        let what = "the amount is larger than one posting may be";
        return Err(Failure::new(Code::InvalidAmount, what).param("/amount"));
    }
    Ok(money)
}

impl PostingRequest {
    fn posting(&self, position: usize) -> Result<Posting> {
        let at = |field: &str| format!("/postings/{position}{field}");
        let side = Side::parse(&self.direction)
            .ok_or_else(|| invalid("`debit` or `credit`", &at("/direction")))?;
        let money = money(&self.amount, &self.currency).map_err(|failure| {
            let field = at(failure.0.param.as_deref().unwrap_or_default());
            failure.param(field)
        })?;
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

    fn asked(&self, cx: &Cx) -> Result<Asked> {
        let created_by = writer(cx)?;
        let by_service = trusted(cx).is_some();
        let kind = kind(self.kind.as_deref().unwrap_or("manual"), by_service)?;
        let id = callers_id(self.id.as_deref(), by_service, "/id")?;
        Ok(Asked {
            callers_id: id.is_some(),
            row: EntryRow {
                id: id.map_or_else(|| ids::new_id("ent"), str::to_owned),
                kind: kind.into(),
                reference: line(&self.reference, "/reference")?.into(),
                reverses: None,
                metadata: metadata(&self.metadata)?,
                created_by,
                created_at: 0,
            },
            what: What::Entry(self.entry()?),
        })
    }
}

/// A kind that this caller may post.
pub(super) fn kind(kind: &str, by_service: bool) -> Result<&str> {
    let kind = name(kind, "/kind")?;
    if kind == REVERSAL {
        return Err(invalid("POST /v1/entries/{id}/reverse makes one", "/kind"));
    }
    if !by_service && SERVICE_KINDS.contains(&kind) {
        let what = format!("`{kind}` entries are posted by their service");
        return Err(invalid(what, "/kind"));
    }
    Ok(kind)
}

/// Post an entry.
///
/// All of its postings take effect or none. A refusal by the accounts (insufficient funds, a closed
/// account) is final for its id and its key. The request names itself by `id`, by an
/// Idempotency-Key, or both; the answer to a repetition is the first one.
#[utoipa::path(post, path = "/v1/entries", tag = "entries", request_body = EntryRequest,
    params(("Idempotency-Key" = Option<String>, Header, description = "Unique to this operation; needed when the body has no id")),
    responses(
        (status = 201, body = EntryView),
        (status = 404, description = "account_not_found"),
        (status = 422, description = "insufficient_funds, unbalanced, currency_mismatch, account_closed or idempotency_key_reused"),
    ))]
pub async fn create(cx: Cx, body: Body<EntryRequest>) -> Result<Answer> {
    let asked = body.value.asked(&cx)?;
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
    answer(cx, outcomes, |entry, lines| {
        Answer::json(201, &EntryView::new(entry, lines))
    })
}

/// The answer to a single request.
pub(super) fn answer(
    cx: &Cx,
    outcomes: &[Outcome],
    booked: impl Fn(&EntryRow, &[Line]) -> Result<Answer>,
) -> Result<Answer> {
    let [outcome] = outcomes else {
        return Err(Failure::new(
            Code::Internal,
            "one request, another number of outcomes",
        ));
    };
    outcome.same()?;
    let answer = match &outcome.became {
        Became::Booked(entry, lines) => booked(entry, lines)?,
        Became::Reserved(row) => Answer::json(201, &super::views::TransferView::reserved(row))?,
        Became::Refused(_, refused) => problem(cx, refused)?,
    };
    Ok(Answer {
        replayed: outcome.replayed,
        ..answer
    })
}

/// A refusal is an answer, not a failure: it is kept, and the same request gets it again even when
/// the account is full by then.
fn problem(cx: &Cx, refused: &Refused) -> Result<Answer> {
    let code = match &*refused.code {
        // It is over for good: a conflict would be asked again.
        TIMED_OUT => Code::InvalidState,
        code => Code::parse(code).unwrap_or(Code::Conflict),
    };
    let mut problem = Problem::new(code, &*refused.detail).param(&*refused.param);
    problem.instance = Some(cx.path().to_owned());
    problem.request_id = Some(cx.request_id().to_owned());
    Answer::json(problem.status, &problem)
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
    let (original, lines) = existing(&db, &id).await?;
    let refused = match original.kind.as_str() {
        KIND_PAYMENT => Some("a payment's entry is undone by a refund of the payment"),
        KIND_REFUND => Some("a refund is final"),
        REVERSAL => Some("a reversal is undone by posting the original again"),
        _ => None,
    };
    if let Some(why) = refused {
        return Err(Failure::new(Code::InvalidState, why));
    }
    // Said before the accounts are asked: they may no longer hold what was taken back.
    if entries::is_reversed(&db, &id).await? {
        return Err(booking::reversed_before());
    }
    // `book` opens its own, and an instance keeps few.
    drop(db);
    let asked = Asked {
        callers_id: false,
        row: EntryRow {
            id: ids::new_id("ent"),
            kind: REVERSAL.into(),
            reference: line(&body.value.reference, "/reference")?.into(),
            reverses: Some(id),
            metadata: metadata(&body.value.metadata)?,
            created_by,
            created_at: 0,
        },
        what: What::Entry(opposite(&lines)?),
    };
    let render = |outcomes: &[Outcome]| booked(&cx, outcomes);
    booking::book(&cx, &[asked], Some(&key), false, render).await
}

/// The same postings on the other sides. They balance, since the original does.
fn opposite(lines: &[Line]) -> Result<Checked<Entry>> {
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

async fn existing(db: &Db, id: &str) -> Result<(EntryRow, Vec<Line>)> {
    match entries::find(db, id).await? {
        Some(Known::Booked(entry, lines)) => Ok((entry, lines)),
        Some(Known::Refused(_, refused)) => Err(Failure::new(
            Code::EntryNotFound,
            format!("`{id}` was refused: {}", refused.detail),
        )),
        None => Err(Failure::new(
            Code::EntryNotFound,
            format!("entry `{id}` does not exist"),
        )),
    }
}

/// One entry with its postings.
#[utoipa::path(get, path = "/v1/entries/{id}", tag = "entries", params(("id" = String, Path)),
    responses((status = 200, body = EntryView), (status = 404, description = "No such entry")))]
pub async fn get(cx: Cx, Path(id): Path<String>) -> Result<Answer> {
    cx.require(READ)?;
    let db = Db::open().await?;
    let (entry, lines) = existing(&db, &id).await?;
    Answer::json(200, &EntryView::new(&entry, &lines))
}
