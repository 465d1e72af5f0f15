//! The HTTP surface of refunds.

use axum::extract::{Path, Query};
use innover_kit::{
    Answer, Batch, Body, Cause, Code, Cx, Db, Failure, FormOrJson, Result,
    amount::{self, Amount},
    batch,
    contract::time::rfc3339,
    idempotency::{self, IdempotencyKey},
    ids,
    page::{Page, PageQuery},
};
use innover_money::{Currency, Money};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, OpenApi, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    model::{Legs, Refusal, State},
    payment::Payment,
    store::{self, Capture, Refund},
};

const READ: &str = "refund:read";
const WRITE: &str = "refund:write";
/// Characters of a reason: what a bank statement carries (ISO 20022 unstructured remittance).
const REASON_CHARS_MAX: usize = 140;
/// Bytes of an id: a prefix and 32 hex digits, with room.
const ID_BYTES_MAX: usize = 64;

#[derive(OpenApi)]
#[openapi(
    info(title = "Refunds", description = "Completed payments taken back, whole or in parts."),
    servers((url = "/api/refund"))
)]
struct Document;

/// The routes and their document.
pub fn routes() -> OpenApiRouter {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(create, list))
        .routes(routes!(get))
        .routes(routes!(create_by_hand))
}

/// A refund to be made.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RefundRequest {
    /// The payment; its payee's owner is the caller, or the caller acts for the house.
    payment_id: String,
    /// What the payer gets back.
    #[schema(value_type = Amount)]
    amount: Amount,
    /// The payer's currency.
    currency: String,
    /// What it is for, up to 140 characters.
    #[serde(default)]
    reason: String,
}

/// A refund as one writes it on a command line.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RefundByHand {
    /// The payment; its payee's owner is the caller, or the caller acts for the house.
    payment_id: String,
    /// What the payer gets back.
    #[schema(value_type = Amount)]
    amount: Amount,
    /// The payer's currency, which is what it is without it.
    #[serde(default)]
    currency: Option<String>,
    /// What it is for, up to 140 characters.
    #[serde(default)]
    reason: String,
}

/// An amount with its currency.
#[derive(Debug, Serialize, ToSchema)]
struct MoneyView {
    /// Decimal string.
    amount: String,
    currency: String,
}

impl MoneyView {
    fn new(minor: i64, code: &str) -> MoneyView {
        // Both were checked when they were stored.
        let amount = Currency::parse(code)
            .and_then(|c| Money::new(minor, c))
            .map_or_else(|_| minor.to_string(), Money::to_decimal_string);
        MoneyView {
            amount,
            currency: code.to_owned(),
        }
    }
}

/// A refund.
#[derive(Debug, Serialize, ToSchema)]
struct RefundView {
    id: String,
    payment_id: String,
    #[schema(value_type = String)]
    state: State,
    /// What the payer gets back.
    source: MoneyView,
    /// What the payee gives back, at the payment's rate.
    target: MoneyView,
    /// What the house gives back of its margin, in the payer's currency.
    margin: MoneyView,
    /// The journal entry; null until it is booked.
    ledger_entry_id: Option<String>,
    reason: String,
    /// Why it failed.
    failure_code: Option<String>,
    failure_detail: Option<String>,
    /// RFC 3339.
    created_at: String,
    /// RFC 3339.
    updated_at: String,
}

impl From<&Refund> for RefundView {
    fn from(r: &Refund) -> RefundView {
        let failed = |text: &String| (r.state == State::Failed).then(|| text.clone());
        RefundView {
            id: r.id.clone(),
            payment_id: r.payment_id.clone(),
            state: r.state,
            source: MoneyView::new(r.legs.source, &r.source_currency),
            target: MoneyView::new(r.legs.target, &r.target_currency),
            margin: MoneyView::new(r.legs.margin, &r.source_currency),
            ledger_entry_id: r.entry_id.clone(),
            reason: r.reason.clone(),
            failure_code: failed(&r.failure_code),
            failure_detail: failed(&r.failure_detail),
            created_at: rfc3339(r.created_at),
            updated_at: rfc3339(r.updated_at),
        }
    }
}

/// Refund a payment, whole or in part.
///
/// Answers 202 with state `pending` and the amount taken off what is left of the payment. The ledger
/// decides whether the payee still has it: `succeeded`, or `failed`, which frees the amount again.
#[utoipa::path(post, path = "/v1/refunds", tag = "refunds", request_body = RefundRequest,
    params(("Idempotency-Key" = String, Header, description = "Unique to this refund")),
    responses((status = 202, description = "Taken on", body = RefundView),
              (status = 403, description = "not_owner: neither the payee's owner nor the house"),
              (status = 404, description = "payment_not_found"),
              (status = 409, description = "payment_not_completed; or conflict: another refund of this converted \
                                            payment is being booked, ask again with the same key"),
              (status = 422, description = "refund_exceeds_captured or currency_mismatch")))]
async fn create(cx: Cx, body: Body<RefundRequest>) -> Result<Answer> {
    cx.require(WRITE)?;
    let money = amount::money(&body.value.amount, &body.value.currency)?;
    check(&body.value.payment_id, &body.value.reason)?;
    let key = cx.require_idempotency(&body.fields)?;
    let db = Db::open().await?;
    if let Some(answer) = key.replay(&db).await? {
        return Ok(answer);
    }
    let known = load(&cx, &db, &body.value.payment_id).await?;
    take_back(&cx, &key, &body.value.reason, money, &known).await
}

/// Refund a payment by hand, by form or JSON: `payment_id=…&amount=100`.
///
/// The amount is in major units of what the payer paid in. Without an Idempotency-Key the payment
/// and the amount are the key, so that sending the same line twice refunds once; the same amount
/// once more needs a key of its own.
#[utoipa::path(post, path = "/refund", tag = "refunds", servers((url = "/")),
    request_body(content((RefundByHand = "application/x-www-form-urlencoded"),
                         (RefundByHand = "application/json"))),
    params(("Idempotency-Key" = Option<String>, Header, description = "Unique to this refund")),
    responses((status = 202, description = "Taken on", body = RefundView),
              (status = 403, description = "not_owner: neither the payee's owner nor the house"),
              (status = 404, description = "payment_not_found"),
              (status = 409, description = "payment_not_completed; or conflict: another refund of this converted \
                                            payment is being booked, ask again with the same key"),
              (status = 422, description = "refund_exceeds_captured or currency_mismatch")))]
async fn create_by_hand(cx: Cx, FormOrJson(body): FormOrJson<RefundByHand>) -> Result<Answer> {
    cx.require(WRITE)?;
    let request = body.value;
    check(&request.payment_id, &request.reason)?;
    let db = Db::open().await?;
    let known = load(&cx, &db, &request.payment_id).await?;
    let source = known.terms.source();
    let currency = request.currency.as_deref().unwrap_or(source.code());
    let money = amount::money(&request.amount, currency)?;
    let key = match cx.idempotency(&body.fields)? {
        Some(key) => key,
        None => {
            let line = format!("{}/{}", known.payment_id, money.minor());
            cx.idempotency_under(&line, &serde_json::Map::new())?
        }
    };
    if let Some(answer) = key.replay(&db).await? {
        return Ok(answer);
    }
    take_back(&cx, &key, &request.reason, money, &known).await
}

async fn take_back(
    cx: &Cx,
    key: &IdempotencyKey,
    reason: &str,
    money: Money,
    known: &Capture,
) -> Result<Answer> {
    if known.terms.source() != money.currency() {
        let what = format!(
            "the payer paid in {}; give the amount in it",
            known.terms.source()
        );
        return Err(Failure::new(Code::CurrencyMismatch, what).param("/currency"));
    }
    // Another refund of the same payment may come between the read and the commit: the part is then
    // computed anew on what that one left. One that is being booked is waited for.
    batch::with_retries(|| reserve(cx, key, reason, money, known)).await
}

fn check(id: &str, reason: &str) -> Result<()> {
    if reason.chars().count() > REASON_CHARS_MAX || reason.chars().any(char::is_control) {
        let what = format!("at most {REASON_CHARS_MAX} characters, no control characters");
        return Err(Failure::new(Code::InvalidRequest, what).param("/reason"));
    }
    // It becomes a part of a path.
    let plain = id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !id.starts_with("pay_") || id.len() > ID_BYTES_MAX || !plain {
        let what = "there is no payment with this id";
        return Err(Failure::new(Code::PaymentNotFound, what).param("/payment_id"));
    }
    Ok(())
}

/// The payment, once the caller may refund it: nobody else learns anything of it.
async fn load(cx: &Cx, db: &Db, payment_id: &str) -> Result<Capture> {
    if let Some(capture) = store::capture(db, payment_id).await? {
        cx.require_actor_for(&capture.payee_owner)?;
        return Ok(capture);
    }
    let payment = Payment::ask(cx, payment_id).await?;
    cx.require_actor_for(&payment.payee_owner)?;
    payment.capture()
}

async fn reserve(
    cx: &Cx,
    key: &IdempotencyKey,
    reason: &str,
    money: Money,
    known: &Capture,
) -> Result<Answer> {
    let mut db = Db::open().await?;
    let stored = store::capture(&db, &known.payment_id).await?;
    let capture = stored.as_ref().unwrap_or(known);
    let legs = match capture.terms.part(capture.refunded, money.minor()) {
        Ok(legs) => legs,
        Err(refusal) => return refuse(cx, &mut db, key, &refusal).await,
    };
    // Asked after the row was read: one that comes between leaves another version.
    if capture.terms.is_converted() && store::is_pending(&db, &capture.payment_id).await? {
        let what = "another refund of this payment is being booked, and parts of a converted payment go \
                    one after the other: ask again with the same key";
        return Err(Failure::new(Code::Conflict, what));
    }
    let cause = Cause::from(cx);
    let refund = new_refund(cx, capture, legs, reason, &cause)?;
    let mut batch = Batch::new();
    store::reserve(&mut batch, capture, &refund, &cause);
    let answer = Answer::json(202, &RefundView::from(&refund))?;
    Ok(idempotency::commit(&mut db, batch, Some(key), answer).await?)
}

/// A decision is final for its key, so it is recorded by a batch of its own: the same key gets the
/// same refusal, even when a failed refund has freed enough by then.
async fn refuse(cx: &Cx, db: &mut Db, key: &IdempotencyKey, refusal: &Refusal) -> Result<Answer> {
    let code = match refusal {
        Refusal::Exceeds { .. } => Code::RefundExceedsCaptured,
        Refusal::Amount(_) => Code::InvalidAmount,
    };
    let failure = Failure::new(code, refusal.to_string()).param("/amount");
    idempotency::refuse(cx, db, key, failure).await
}

fn new_refund(
    cx: &Cx,
    capture: &Capture,
    legs: Legs,
    reason: &str,
    cause: &Cause,
) -> Result<Refund> {
    let now = ids::now_us();
    Ok(Refund {
        id: ids::new_id("ref"),
        payment_id: capture.payment_id.clone(),
        state: State::Pending,
        version: 1,
        legs,
        entry_id: None,
        reason: reason.to_owned(),
        failure_code: String::new(),
        failure_detail: String::new(),
        traceparent: cause.traceparent.clone().unwrap_or_default(),
        correlation_id: cause.correlation_id.clone().unwrap_or_default(),
        created_by: cx.identity()?.sub.clone(),
        created_at: now,
        updated_at: now,
        payer_owner: capture.payer_owner.clone(),
        payee_owner: capture.payee_owner.clone(),
        source_currency: capture.terms.source().code().to_owned(),
        target_currency: capture.terms.target().code().to_owned(),
    })
}

/// Read a refund.
#[utoipa::path(get, path = "/v1/refunds/{id}", tag = "refunds",
    params(("id" = String, Path, description = "ref_…")),
    responses((status = 200, description = "The refund", body = RefundView),
              (status = 403, description = "not_owner"),
              (status = 404, description = "refund_not_found")))]
async fn get(cx: Cx, Path(id): Path<String>) -> Result<Answer> {
    cx.require(READ)?;
    let db = Db::open().await?;
    let refund = store::by_id(&db, &id)
        .await?
        .ok_or_else(|| Failure::new(Code::RefundNotFound, "there is no refund with this id"))?;
    // Both sides of the payment may read it.
    cx.require_reader_of(&refund.payer_owner)
        .or_else(|_| cx.require_reader_of(&refund.payee_owner))?;
    Answer::json(200, &RefundView::from(&refund))
}

/// Which refunds are listed.
#[derive(Debug, Deserialize, IntoParams)]
struct OfPayment {
    /// Only those of this payment.
    payment_id: Option<String>,
}

/// List refunds, newest first: of one's own payments, or everyone's for those who may read them.
#[utoipa::path(get, path = "/v1/refunds", tag = "refunds", params(OfPayment, PageQuery),
    responses((status = 200, description = "A page", body = Page<RefundView>)))]
async fn list(
    cx: Cx,
    Query(of): Query<OfPayment>,
    Query(query): Query<PageQuery>,
) -> Result<Answer> {
    let identity = cx.require(READ)?;
    let limit = query.limit()?;
    let owner = if cx.require_reader_of("").is_ok() {
        ""
    } else {
        identity.sub.as_str()
    };
    let payment_id = of.payment_id.unwrap_or_default();
    let db = Db::open().await?;
    let after = query.after()?;
    let refunds = store::page(&db, owner, &payment_id, &after, i64::from(limit) + 1).await?;
    let views = refunds.iter().map(RefundView::from).collect();
    Answer::json(200, &Page::new(views, limit, |r: &RefundView| &r.id))
}
