//! The HTTP surface of payments.

use axum::extract::{Path, Query};
use innover_kit::{
    Answer, Body, Code, Cx, Db, Failure, Result,
    amount::{self, Amount},
    idempotency,
    page::{Page, PageQuery},
};
use innover_money::{Currency, Money};
use serde::{Deserialize, Serialize};
use utoipa::{OpenApi, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use self::order::{Order, Standing};
use crate::{
    capture,
    model::{Signal, State, next},
    store::{self, Change, Payment, TimelineRow, Writer},
};

mod cancel;
mod defaults;
mod dynamic;
pub(crate) mod order;
mod pay;

const READ: &str = "payment:read";
const WRITE: &str = "payment:write";
/// Whoever works on cases, through the service `cases`, decides on their payments.
const DECIDE_CASES: &str = "case:write";
/// The service that decides on payments on behalf of people.
const CASES: &str = "cases";

#[derive(OpenApi)]
#[openapi(
    info(title = "Payments", description = "Payments between wallets, their states and their timeline."),
    servers((url = "/api/payment"))
)]
struct Document;

/// The routes and their document.
pub fn routes() -> OpenApiRouter {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(process))
        .routes(routes!(list))
        .routes(routes!(get))
        .routes(routes!(timeline))
        .routes(routes!(capture::get))
        .routes(routes!(decide))
        .routes(routes!(cancel::cancel))
        .routes(routes!(defaults::get, defaults::set))
        .routes(routes!(pay::pay))
        .routes(routes!(dynamic::pay_dynamic))
}

/// A payment to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ProcessRequest {
    /// The wallet that pays; its owner is the caller, or the caller acts for the house.
    payer_wallet: String,
    /// The wallet that is paid; its currency is what the payee gets.
    payee_wallet: String,
    /// What leaves the payer's wallet.
    #[schema(value_type = Amount)]
    amount: Amount,
    /// The payer's currency.
    currency: String,
    /// What the payment is for, up to 140 characters.
    #[serde(default)]
    reference: String,
    /// A quote of the caller's for exactly this amount and pair: the payment is converted at it or
    /// fails. A quote is used once.
    #[serde(default)]
    quote_id: Option<String>,
}

/// An amount with its currency.
#[derive(Debug, Serialize, ToSchema)]
struct MoneyView {
    /// Decimal string; null while it is not known.
    amount: Option<String>,
    currency: String,
}

impl From<Money> for MoneyView {
    fn from(money: Money) -> MoneyView {
        MoneyView {
            amount: Some(money.to_decimal_string()),
            currency: money.currency().code().to_owned(),
        }
    }
}

/// A payment.
#[derive(Debug, Serialize, ToSchema)]
struct PaymentView {
    id: String,
    #[schema(value_type = String)]
    state: State,
    payer_wallet: String,
    payee_wallet: String,
    /// What leaves the payer's wallet.
    source: MoneyView,
    /// What the payee gets; the amount is null until it is converted.
    target: MoneyView,
    /// The house's margin, in the payer's currency.
    margin: MoneyView,
    /// Target units per source unit, exact.
    rate: Option<String>,
    /// The date of the rates used; null within one currency.
    rate_date: Option<String>,
    /// The exact product in the target currency, before it was rounded towards the house.
    exact_product: Option<String>,
    /// The quote it is converted at, where one was named.
    quote_id: Option<String>,
    /// The journal entry.
    ledger_entry_id: Option<String>,
    reference: String,
    /// Why it was declined, put under review, or failed.
    reason_codes: Vec<String>,
    reason_detail: String,
    /// RFC 3339.
    created_at: String,
    /// RFC 3339.
    updated_at: String,
}

impl From<&Payment> for PaymentView {
    fn from(p: &Payment) -> PaymentView {
        let view = |minor: Option<i64>, code: &str| MoneyView {
            amount: minor.map(|m| decimal(m, code)),
            currency: code.to_owned(),
        };
        PaymentView {
            id: p.id.clone(),
            state: p.state,
            payer_wallet: p.payer_wallet.clone(),
            payee_wallet: p.payee_wallet.clone(),
            source: view(Some(p.source_minor), &p.source_currency),
            target: view(p.target_minor, &p.target_currency),
            margin: view(p.margin_minor, &p.source_currency),
            rate: p.rate.clone(),
            rate_date: p.rate_date.clone(),
            exact_product: p.exact.clone(),
            quote_id: p.quote_id.clone(),
            ledger_entry_id: p.entry_id.clone(),
            reference: p.reference.clone(),
            reason_codes: p.reason_codes.clone(),
            reason_detail: p.reason_detail.clone(),
            created_at: innover_kit::contract::time::rfc3339(p.created_at),
            updated_at: innover_kit::contract::time::rfc3339(p.updated_at),
        }
    }
}

fn decimal(minor: i64, code: &str) -> String {
    // Both were checked when they were stored.
    Currency::parse(code)
        .and_then(|c| Money::new(minor, c))
        .map_or_else(|_| minor.to_string(), |m| m.to_decimal_string())
}

/// Make a payment.
///
/// Answers 202 at once: `initiated`, or `review` or `declined` with reason codes. What follows is
/// read from the payment and its timeline.
#[utoipa::path(post, path = "/v1/process", tag = "payments",
    request_body = ProcessRequest,
    params(("Idempotency-Key" = String, Header, description = "Unique to this payment")),
    responses((status = 202, description = "Taken on", body = PaymentView),
              (status = 404, description = "No such wallet"), (status = 403, description = "Someone else's wallet")))]
async fn process(cx: Cx, body: Body<ProcessRequest>) -> Result<Answer> {
    cx.require(WRITE)?;
    let request = body.value;
    let money = amount::money(&request.amount, &request.currency)?;
    order::check_reference(&request.reference, "/reference")?;
    let key = cx.require_idempotency(&body.fields)?;
    let mut db = Db::open().await?;
    if let Some(answer) = key.replay(&db).await? {
        return Ok(answer);
    }
    let (payer, payee) = order::wallets(&cx, &request.payer_wallet, &request.payee_wallet).await?;
    let order = Order::new(payer, payee, money, request.reference, request.quote_id)?;
    order::take_on(&cx, &mut db, &key, order).await
}

async fn load(cx: &Cx, db: &Db, id: &str) -> Result<Payment> {
    let payment = store::by_id(db, id)
        .await?
        .ok_or_else(|| Failure::new(Code::PaymentNotFound, "there is no payment with this id"))?;
    // Both sides of a payment may read it.
    cx.require_reader_of(&payment.payer_owner)
        .or_else(|_| cx.require_reader_of(&payment.payee_owner))?;
    Ok(payment)
}

/// Read a payment.
#[utoipa::path(get, path = "/v1/payments/{id}", tag = "payments",
    params(("id" = String, Path, description = "pay_…")),
    responses((status = 200, description = "The payment", body = PaymentView),
              (status = 404, description = "No such payment")))]
async fn get(cx: Cx, Path(id): Path<String>) -> Result<Answer> {
    cx.require(READ)?;
    let db = Db::open().await?;
    Answer::json(200, &PaymentView::from(&load(&cx, &db, &id).await?))
}

/// List payments, newest first: one's own, or everyone's for those who may read them.
#[utoipa::path(get, path = "/v1/payments", tag = "payments", params(PageQuery),
    responses((status = 200, description = "A page", body = Page<PaymentView>)))]
async fn list(cx: Cx, Query(query): Query<PageQuery>) -> Result<Answer> {
    let identity = cx.require(READ)?;
    let limit = query.limit()?;
    let owner = if cx.require_reader_of("").is_ok() {
        ""
    } else {
        identity.sub.as_str()
    };
    let db = Db::open().await?;
    let payments = store::page(&db, owner, &query.after()?, i64::from(limit) + 1).await?;
    let views = payments.iter().map(PaymentView::from).collect();
    Answer::json(200, &Page::new(views, limit, |p: &PaymentView| &p.id))
}

/// A step on a payment's way.
#[derive(Debug, Serialize, ToSchema)]
struct StepView {
    /// RFC 3339.
    time: String,
    /// decision, state, event, entry or job.
    kind: String,
    name: String,
    trace_id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    detail: String,
}

impl From<TimelineRow> for StepView {
    fn from(row: TimelineRow) -> StepView {
        StepView {
            time: innover_kit::contract::time::rfc3339(row.at),
            kind: row.kind,
            name: row.name,
            trace_id: row.trace_id,
            detail: row.detail,
        }
    }
}

/// Everything that happened to a payment, in order.
#[derive(Debug, Serialize, ToSchema)]
struct TimelineView {
    payment_id: String,
    data: Vec<StepView>,
}

/// Read a payment's timeline: every decision, state, event, entry and job with time and trace id.
#[utoipa::path(get, path = "/v1/payments/{id}/timeline", tag = "payments",
    params(("id" = String, Path, description = "pay_…")),
    responses((status = 200, description = "The steps in order", body = TimelineView),
              (status = 404, description = "No such payment")))]
async fn timeline(cx: Cx, Path(id): Path<String>) -> Result<Answer> {
    cx.require(READ)?;
    let db = Db::open().await?;
    let payment = load(&cx, &db, &id).await?;
    let data = store::timeline(&db, &payment.id)
        .await?
        .into_iter()
        .map(StepView::from)
        .collect();
    Answer::json(
        200,
        &TimelineView {
            payment_id: payment.id,
            data,
        },
    )
}

/// What a person decides on a payment under review.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct DecisionRequest {
    /// approve or decline.
    decision: Verdict,
    /// Why, for the timeline.
    #[serde(default)]
    reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Approve,
    Decline,
}

/// Finance and admin decide here; whoever may write cases decides through the service `cases`.
fn may_decide(cx: &Cx) -> Result<()> {
    if cx.claims().is_some_and(|claims| claims.caller == CASES) {
        return cx.require(DECIDE_CASES).map(drop);
    }
    cx.require(WRITE)?;
    if cx.acts_for_house()? {
        return Ok(());
    }
    Err(Failure::new(
        Code::NotOwner,
        "only finance and admin decide on payments",
    ))
}

/// Decide on a payment under review.
///
/// Approved, it goes on as if the rules had approved it, if both wallets are still active; declined,
/// nothing was booked and nothing will be. Only those who act for the house decide, and whoever decides on its case.
#[utoipa::path(post, path = "/v1/payments/{id}/decision", tag = "payments",
    request_body = DecisionRequest,
    params(("id" = String, Path, description = "pay_…"),
           ("Idempotency-Key" = String, Header, description = "Unique to this decision")),
    responses((status = 200, description = "Decided", body = PaymentView),
              (status = 409, description = "Not under review, or one of the wallets was closed meanwhile: \
                                            the payment is declined then"),
              (status = 422, description = "wallet_not_active: one of the wallets was frozen meanwhile")))]
async fn decide(cx: Cx, Path(id): Path<String>, body: Body<DecisionRequest>) -> Result<Answer> {
    may_decide(&cx)?;
    let key = cx.require_idempotency(&body.fields)?;
    let mut db = Db::open().await?;
    if let Some(answer) = key.replay(&db).await? {
        return Ok(answer);
    }
    let payment = load(&cx, &db, &id).await?;
    let signal = match body.value.decision {
        Verdict::Approve => Signal::Approved,
        Verdict::Decline => Signal::Declined,
    };
    let to = next(payment.state, signal).ok_or_else(|| {
        let what = format!(
            "the payment is `{}`, not under review",
            payment.state.as_str()
        );
        Failure::new(Code::InvalidState, what)
    })?;
    let standing = match body.value.decision {
        Verdict::Approve => order::standing(&cx, &payment).await?,
        Verdict::Decline => Standing::Active,
    };
    // The payment's own trace goes on, so that its timeline stays one.
    let cause = payment.cause();
    let mut writer = Writer::default();
    let who = &cx.identity()?.preferred_username;
    let detail = format!("{who}: {}", body.value.reason);
    match standing {
        Standing::Active => {}
        Standing::Frozen(failure) => return Err(failure),
        Standing::Closed(failure) => {
            // It could wait for ever. Without the key: nothing of what was asked is decided.
            let why = format!("{detail}; {}", failure.0.detail);
            writer.note(&payment.id, "decision", "declined", &cause, &why);
            let mut reasons = payment.reason_codes.clone();
            reasons.push(failure.0.code);
            let change = Change {
                reason_codes: Some(reasons.join(",")),
                reason_detail: Some(failure.0.detail.clone()),
                ..Change::default()
            };
            writer.change(&payment, State::Declined, change, &cause);
            writer.finish().commit(&mut db).await?;
            let what = format!("{}; the payment is declined", failure.0.detail);
            return Err(Failure::new(Code::InvalidState, what));
        }
    }
    writer.note(&payment.id, "decision", to.as_str(), &cause, &detail);
    writer.change(&payment, to, Change::default(), &cause);
    let after = Payment {
        state: to,
        version: payment.version + 1,
        ..payment
    };
    let answer = Answer::json(200, &PaymentView::from(&after))?;
    Ok(idempotency::commit(&mut db, writer.finish(), Some(&key), answer).await?)
}
