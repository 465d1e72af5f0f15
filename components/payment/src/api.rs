//! The HTTP surface of payments.

use axum::extract::{Path, Query};
use http::Method;
use innover_kit::{
    Answer, Body, Cause, Code, Cx, Db, Failure, Result,
    amount::{self, Amount},
    call, idempotency, ids, log,
    page::{Page, PageQuery},
};
use innover_money::{Currency, Money};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{OpenApi, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    capture,
    model::{Decision, Outcome, Signal, State, next},
    store::{self, Change, Payment, TimelineRow, Writer},
};

/// Characters of a reference: what a bank statement carries (ISO 20022 unstructured remittance).
const REFERENCE_CHARS_MAX: usize = 140;

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
}

/// An amount with its currency.
#[derive(Debug, Serialize, ToSchema)]
struct MoneyView {
    /// Decimal string; null while it is not known.
    amount: Option<String>,
    currency: String,
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

/// A wallet as the wallet service tells other services.
#[derive(Clone, Debug, Deserialize)]
struct Wallet {
    id: String,
    owner: String,
    currency: String,
    state: String,
    account_id: String,
}

#[derive(Deserialize)]
struct Wallets {
    data: Vec<Wallet>,
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
    cx.require("payment:write")?;
    let money = amount::money(&body.value.amount, &body.value.currency)?;
    check_reference(&body.value)?;
    let key = cx.require_idempotency(&body.fields)?;
    let mut db = Db::open().await?;
    if let Some(answer) = key.replay(&db).await? {
        return Ok(answer);
    }
    let (payer, payee) = wallets(&cx, &body.value).await?;
    check_wallets(&payer, &payee, money)?;
    let (decision, amount_eur_minor) = ask_rules(&cx, &payer, &payee, money).await;
    let cause = Cause::from(&cx);
    let payment = new_payment(&cx, body.value, money, &payer, &payee, &decision, &cause)?;
    let mut writer = Writer::default();
    let outcome = format!("rules.{}", outcome_name(decision.outcome));
    writer.note(
        &payment.id,
        "decision",
        &outcome,
        &cause,
        &decision.reason_codes.join(","),
    );
    writer.insert(&payment, amount_eur_minor, &cause);
    let answer = Answer::json(202, &PaymentView::from(&payment))?;
    Ok(idempotency::commit(&mut db, writer.finish(), Some(&key), answer).await?)
}

fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Approve => "approve",
        Outcome::Review => "review",
        Outcome::Decline => "decline",
    }
}

fn check_reference(request: &ProcessRequest) -> Result<()> {
    let chars = request.reference.chars().count();
    if chars > REFERENCE_CHARS_MAX || request.reference.chars().any(char::is_control) {
        let what = format!("at most {REFERENCE_CHARS_MAX} characters, no control characters");
        return Err(Failure::new(Code::InvalidRequest, what).param("/reference"));
    }
    if request.payer_wallet == request.payee_wallet {
        let what = "payer and payee are the same wallet";
        return Err(Failure::new(Code::InvalidRequest, what).param("/payee_wallet"));
    }
    for (id, param) in [
        (&request.payer_wallet, "/payer_wallet"),
        (&request.payee_wallet, "/payee_wallet"),
    ] {
        let plain = id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !id.starts_with("wal_") || id.len() > 64 || !plain {
            return Err(no_wallet(id, param));
        }
    }
    Ok(())
}

fn no_wallet(id: &str, param: &str) -> Failure {
    let shown: String = id.chars().filter(|c| !c.is_control()).take(64).collect();
    Failure::new(
        Code::WalletNotFound,
        format!("there is no wallet `{shown}`"),
    )
    .param(param)
}

async fn wallets(cx: &Cx, request: &ProcessRequest) -> Result<(Wallet, Wallet)> {
    let path = format!(
        "/v1/wallets/lookup?ids={},{}",
        request.payer_wallet, request.payee_wallet
    );
    let found: Wallets = call::json(cx, Method::GET, "wallet", &path, None::<&()>, true).await?;
    let take = |id: &str| found.data.iter().find(|w| w.id == id).cloned();
    let payer = take(&request.payer_wallet)
        .ok_or_else(|| no_wallet(&request.payer_wallet, "/payer_wallet"))?;
    cx.require_actor_for(&payer.owner)?;
    let payee = take(&request.payee_wallet)
        .ok_or_else(|| no_wallet(&request.payee_wallet, "/payee_wallet"))?;
    Ok((payer, payee))
}

fn check_wallets(payer: &Wallet, payee: &Wallet, money: Money) -> Result<()> {
    for (wallet, param) in [(payer, "/payer_wallet"), (payee, "/payee_wallet")] {
        if wallet.state != "active" {
            let what = format!("the wallet `{}` is {}", wallet.id, wallet.state);
            return Err(Failure::new(Code::WalletNotActive, what).param(param));
        }
    }
    if payer.currency != money.currency().code() {
        let what = format!(
            "the payer's wallet holds {}; give the amount in {}",
            payer.currency, payer.currency
        );
        return Err(Failure::new(Code::CurrencyMismatch, what).param("/currency"));
    }
    Ok(())
}

#[derive(Deserialize)]
struct Equivalent {
    minor: Option<i64>,
}

/// What the rules say, and the equivalent in euro cents they were given, where there is one; a person
/// decides when they cannot be asked.
async fn ask_rules(
    cx: &Cx,
    payer: &Wallet,
    payee: &Wallet,
    money: Money,
) -> (Decision, Option<i64>) {
    let mut amount_eur_minor = None;
    let asked = async {
        amount_eur_minor = if money.currency() == Currency::EUR {
            Some(money.minor())
        } else {
            let path = format!(
                "/v1/equivalent?minor={}&currency={}&to=EUR",
                money.minor(),
                money.currency().code()
            );
            let found: Equivalent =
                call::json(cx, Method::GET, "forex", &path, None::<&()>, true).await?;
            found.minor
        };
        let digits = u32::from(money.minor_digits());
        let mut facts = json!({
            "amount_minor": money.minor(),
            "amount_major": money.minor() / 10_i64.pow(digits),
            "currency": payer.currency,
            "target_currency": payee.currency,
            "cross_currency": payer.currency != payee.currency,
            "payer_owner": payer.owner,
            "payee_owner": payee.owner,
            "same_owner": payer.owner == payee.owner,
        });
        if let Some(minor) = amount_eur_minor {
            facts["amount_eur_minor"] = minor.into();
        }
        // Evaluating changes nothing, so it may be repeated.
        call::json(
            cx,
            Method::POST,
            "rules",
            "/v1/evaluate",
            Some(&json!({ "facts": facts })),
            true,
        )
        .await
    };
    let decision = match asked.await {
        Ok(decision) => decision,
        Err(failure) => {
            let failure: Failure = failure;
            log::error(
                cx,
                "the rules could not be asked",
                &[("error", failure.to_string().into())],
            );
            Decision::fallback()
        }
    };
    (decision, amount_eur_minor)
}

fn new_payment(
    cx: &Cx,
    request: ProcessRequest,
    money: Money,
    payer: &Wallet,
    payee: &Wallet,
    decision: &Decision,
    cause: &Cause,
) -> Result<Payment> {
    let now = ids::now_us();
    Ok(Payment {
        id: ids::new_id("pay"),
        state: decision.first_state(),
        version: 1,
        payer_wallet: request.payer_wallet,
        payee_wallet: request.payee_wallet,
        payer_owner: payer.owner.clone(),
        payee_owner: payee.owner.clone(),
        payer_account: payer.account_id.clone(),
        payee_account: payee.account_id.clone(),
        source_minor: money.minor(),
        source_currency: payer.currency.clone(),
        target_minor: None,
        target_currency: payee.currency.clone(),
        margin_minor: None,
        rate: None,
        rate_date: None,
        exact: None,
        entry_id: None,
        reference: request.reference,
        reason_codes: decision.reason_codes.clone(),
        reason_detail: String::new(),
        rules_version: decision.version,
        traceparent: cause.traceparent.clone().unwrap_or_default(),
        correlation_id: cause.correlation_id.clone().unwrap_or_default(),
        created_by: cx.identity()?.sub.clone(),
        created_at: now,
        updated_at: now,
    })
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
    cx.require("payment:read")?;
    let db = Db::open().await?;
    Answer::json(200, &PaymentView::from(&load(&cx, &db, &id).await?))
}

/// List payments, newest first: one's own, or everyone's for those who may read them.
#[utoipa::path(get, path = "/v1/payments", tag = "payments", params(PageQuery),
    responses((status = 200, description = "A page", body = Page<PaymentView>)))]
async fn list(cx: Cx, Query(query): Query<PageQuery>) -> Result<Answer> {
    let identity = cx.require("payment:read")?;
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
    cx.require("payment:read")?;
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

/// Decide on a payment under review.
///
/// Approved, it goes on as if the rules had approved it; declined, nothing was booked and nothing
/// will be. Only those who act for the house decide.
#[utoipa::path(post, path = "/v1/payments/{id}/decision", tag = "payments",
    request_body = DecisionRequest,
    params(("id" = String, Path, description = "pay_…"),
           ("Idempotency-Key" = String, Header, description = "Unique to this decision")),
    responses((status = 200, description = "Decided", body = PaymentView),
              (status = 409, description = "Not under review")))]
async fn decide(cx: Cx, Path(id): Path<String>, body: Body<DecisionRequest>) -> Result<Answer> {
    cx.require("payment:write")?;
    if !cx.acts_for_house()? {
        return Err(Failure::new(
            Code::NotOwner,
            "only finance and admin decide on payments",
        ));
    }
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
    // The payment's own trace goes on, so that its timeline stays one.
    let cause = payment.cause();
    let mut writer = Writer::default();
    let who = &cx.identity()?.preferred_username;
    let detail = format!("{who}: {}", body.value.reason);
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
