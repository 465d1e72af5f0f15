//! Quotes and conversions.

use axum::extract::{
    Path, Query,
    rejection::{PathRejection, QueryRejection},
};
use innover_kit::{
    Answer, Batch, Body, Code, Cx, Db, Failure, Result, contract::time::rfc3339, idempotency, ids,
};
use innover_money::{Currency, Money, MoneyError, Rate};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Amount, READ, currency, id, query};
use crate::{
    events,
    limits::QUOTE_LIFE_US,
    model::{self, Refusal, Side, Triangulation},
    rates::{self, Policy},
    store::{self, ConversionRow, QuoteRow, Terms},
};

/// Whoever may start a payment may ask for its price.
const PAY: &str = "payment:write";

/// What to price.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct QuoteRequest {
    /// Source currency.
    #[schema(example = "EUR")]
    from: String,
    /// Target currency.
    #[schema(example = "USD")]
    to: String,
    /// A decimal string, or an integer of major units, in the currency of the fixed side.
    #[schema(value_type = String, example = "33.33")]
    amount: serde_json::Value,
    /// Which amount is fixed: `source`, what is paid (the default), or `target`, what arrives.
    #[serde(default)]
    #[schema(value_type = String, example = "source")]
    amount_side: Side,
}

/// A price that holds until it expires, and can be used once.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct QuoteView {
    id: String,
    /// `open`, `used` or `expired`.
    state: &'static str,
    /// Which amount was fixed: `source` or `target`.
    #[schema(value_type = String, example = "source")]
    amount_side: Side,
    /// What is paid, margin included.
    source: Amount,
    /// The house's part of it.
    margin: Amount,
    margin_bps: i64,
    /// What arrives.
    target: Amount,
    /// The mid rate to ten significant digits.
    #[schema(example = "1.1172")]
    rate: String,
    /// The mid rate, exact: a decimal or a fraction.
    #[schema(example = "1.1172")]
    rate_exact: String,
    #[schema(example = "2026-10-30")]
    rate_date: String,
    /// `direct` or `via EUR`.
    triangulation: &'static str,
    /// The exact product, in major units of the target.
    #[schema(example = "37.236276")]
    exact: String,
    created_at: String,
    expires_at: String,
    /// The conversion that used it.
    conversion_id: Option<String>,
    /// Set when the rates are older than they should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<String>,
}

impl QuoteView {
    fn new(quote: &QuoteRow, now_us: i64, warning: Option<String>) -> Result<QuoteView> {
        let t = &quote.terms;
        Ok(QuoteView {
            id: quote.id.clone(),
            state: match &quote.conversion_id {
                Some(_) => "used",
                None if quote.expires_at < now_us => "expired",
                None => "open",
            },
            amount_side: quote.amount_side,
            source: Amount::new(t.source_minor, &t.source_currency)?,
            margin: Amount::new(t.margin_minor, &t.source_currency)?,
            margin_bps: quote.margin_bps,
            target: Amount::new(t.target_minor, &t.target_currency)?,
            rate: readable(&t.rate),
            rate_exact: t.rate.clone(),
            rate_date: t.rate_date.clone(),
            triangulation: Triangulation::between(&t.source_currency, &t.target_currency).as_str(),
            exact: t.exact.clone(),
            created_at: rfc3339(quote.created_at),
            expires_at: rfc3339(quote.expires_at),
            conversion_id: quote.conversion_id.clone(),
            warning,
        })
    }
}

fn readable(rate: &str) -> String {
    Rate::parse(rate).map_or_else(|_| rate.to_owned(), model::readable)
}

/// What something costs now.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PriceView {
    /// Which amount was fixed: `source` or `target`.
    #[schema(value_type = String, example = "source")]
    amount_side: Side,
    /// What is paid, margin included.
    source: Amount,
    /// The house's part of it.
    margin: Amount,
    margin_bps: i64,
    /// What arrives.
    target: Amount,
    /// The mid rate to ten significant digits.
    #[schema(example = "1.1172")]
    rate: String,
    /// The mid rate, exact: a decimal or a fraction.
    #[schema(example = "1.1172")]
    rate_exact: String,
    #[schema(example = "2026-10-30")]
    rate_date: String,
    /// `direct` or `via EUR`.
    triangulation: &'static str,
    /// The exact product, in major units of the target.
    #[schema(example = "37.236276")]
    exact: String,
}

/// What to price.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct PriceQuery {
    /// Source currency.
    #[param(example = "EUR")]
    from: String,
    /// Target currency.
    #[param(example = "USD")]
    to: String,
    /// Major units, in the currency of the fixed side.
    #[param(example = "33.33")]
    amount: String,
    /// Which amount is fixed: `source` (the default) or `target`.
    #[serde(default)]
    #[param(value_type = Option<String>)]
    amount_side: Side,
}

/// What a conversion would cost now. Nothing is stored and nothing is promised: a quote is.
#[utoipa::path(get, path = "/v1/prices", params(PriceQuery), tag = "quotes",
    responses((status = 200, body = PriceView), (status = 400), (status = 422)))]
pub(super) async fn get_price(
    cx: Cx,
    asked: Result<Query<PriceQuery>, QueryRejection>,
) -> Result<Answer> {
    quoting(&cx)?;
    let asked = query(asked)?;
    let wanted = Wanted::read(
        &asked.from,
        &asked.to,
        &asked.amount.into(),
        asked.amount_side,
    )?;
    let (t, policy, _) = wanted.price(&Db::open().await?).await?;
    Answer::json(
        200,
        &PriceView {
            amount_side: wanted.side,
            source: Amount::new(t.source_minor, &t.source_currency)?,
            margin: Amount::new(t.margin_minor, &t.source_currency)?,
            margin_bps: i64::from(policy.margin_bps),
            target: Amount::new(t.target_minor, &t.target_currency)?,
            rate: readable(&t.rate),
            rate_exact: t.rate,
            rate_date: t.rate_date,
            triangulation: Triangulation::between(&t.source_currency, &t.target_currency).as_str(),
            exact: t.exact,
        },
    )
}

/// An amount on one side of a pair of currencies.
struct Wanted {
    side: Side,
    fixed: Money,
    other: Currency,
}

impl Wanted {
    fn read(from: &str, to: &str, sent: &serde_json::Value, side: Side) -> Result<Wanted> {
        let (from, to) = (currency(from, "/from")?, currency(to, "/to")?);
        let (fixed, other) = match side {
            Side::Source => (amount(sent, from)?, to),
            Side::Target => (amount(sent, to)?, from),
        };
        if from == to {
            let why = "from and to are the same currency: nothing to convert";
            return Err(Failure::new(Code::InvalidRequest, why).param("/to"));
        }
        Ok(Wanted { side, fixed, other })
    }

    /// Its price in the rates in force, unless they are too old.
    async fn price(&self, db: &Db) -> Result<(Terms, Policy, Option<String>)> {
        let (table, policy) = (rates::newest(db).await?, Policy::read().await?);
        table.check_age(policy.today, policy.max_age_days)?;
        let bps = policy.margin_bps;
        let price = match self.side {
            Side::Source => model::price(self.fixed, self.other, &table, bps)?,
            Side::Target => model::price_target(self.fixed, self.other, &table, bps)?,
        };
        let terms = events::terms(&price, &table);
        Ok((terms, policy, table.warning(policy.today)))
    }
}

/// Prices an amount. With the source side fixed, what arrives is rounded down; with the target side
/// fixed, what is paid is rounded up. For those who read forex and those who pay.
#[utoipa::path(post, path = "/v1/quotes", request_body = QuoteRequest, tag = "quotes",
    responses((status = 201, body = QuoteView), (status = 400), (status = 422)))]
pub(super) async fn create_quote(cx: Cx, body: Body<QuoteRequest>) -> Result<Answer> {
    let owner = quoting(&cx)?;
    let key = cx.idempotency(&body.fields)?;
    let asked = &body.value;
    let wanted = Wanted::read(&asked.from, &asked.to, &asked.amount, asked.amount_side)?;
    let mut db = Db::open().await?;
    if let Some(key) = &key
        && let Some(answer) = key.replay(&db).await?
    {
        return Ok(answer);
    }
    let (terms, policy, warning) = wanted.price(&db).await?;
    let now = ids::now_us();
    let quote = QuoteRow {
        id: ids::new_id("quo"),
        owner,
        terms,
        amount_side: wanted.side,
        margin_bps: i64::from(policy.margin_bps),
        created_at: now,
        expires_at: now + QUOTE_LIFE_US,
        conversion_id: None,
    };
    let answer = Answer::json(201, &QuoteView::new(&quote, now, warning)?)?;
    let mut batch = Batch::new();
    store::insert_quote(&mut batch, &quote);
    Ok(idempotency::commit(&mut db, batch, key.as_ref(), answer).await?)
}

/// Who gets a quote: whoever may pay needs to know the price, whatever else they may read.
fn quoting(cx: &Cx) -> Result<String> {
    let who = cx.identity()?;
    let who = if who.has_scope(PAY) {
        who
    } else {
        cx.require(READ)?
    };
    // A client's own token may have no subject.
    Ok(if who.sub.is_empty() {
        who.client_id.clone()
    } else {
        who.sub.clone()
    })
}

/// An amount of major units as sent: a decimal string or an integer, never a float.
fn amount(sent: &serde_json::Value, currency: Currency) -> Result<Money> {
    let refuse = |why: String| Failure::new(Code::InvalidAmount, why).param("/amount");
    let text = match sent {
        serde_json::Value::String(text) => text.clone(),
        serde_json::Value::Number(n) if n.is_i64() || n.is_u64() => n.to_string(),
        _ => {
            return Err(refuse(
                "send the amount as a decimal string, e.g. \"33.33\"".into(),
            ));
        }
    };
    let money = Money::parse(&text, currency).map_err(|e| match e {
        MoneyError::TooManyDigits { max } => refuse(format!(
            "{currency} has {max} digits after the point, the amount has more"
        )),
        other => refuse(other.to_string()),
    })?;
    if money.is_positive() {
        Ok(money)
    } else {
        Err(refuse("the amount must be above zero".into()))
    }
}

/// A quote, by its owner or anyone who may read everything.
#[utoipa::path(get, path = "/v1/quotes/{id}", params(("id" = String, Path)), tag = "quotes",
    responses((status = 200, body = QuoteView), (status = 403), (status = 404)))]
pub(super) async fn get_quote(cx: Cx, path: Result<Path<String>, PathRejection>) -> Result<Answer> {
    quoting(&cx)?;
    let id = id(path)?;
    let db = Db::open().await?;
    let quotes = store::quotes(&db, [id.as_str()].into_iter()).await?;
    let quote = quotes
        .first()
        .ok_or_else(|| Refusal::QuoteNotFound(id.clone()))?;
    cx.require_reader_of(&quote.owner)?;
    Answer::json(200, &QuoteView::new(quote, ids::now_us(), None)?)
}

/// What a payment was converted at.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ConversionView {
    id: String,
    payment_id: String,
    /// The quote it used; null when it was priced as it came.
    quote_id: Option<String>,
    source: Amount,
    margin: Amount,
    target: Amount,
    /// The mid rate to ten significant digits.
    rate: String,
    /// The mid rate, exact.
    rate_exact: String,
    rate_date: String,
    rate_revision: i64,
    triangulation: &'static str,
    /// The exact product, so that what rounding cut off is known.
    #[schema(example = "37.236276")]
    exact: String,
    created_at: String,
}

impl ConversionView {
    fn new(conversion: &ConversionRow) -> Result<ConversionView> {
        let t: &Terms = &conversion.terms;
        Ok(ConversionView {
            id: conversion.id.clone(),
            payment_id: conversion.payment_id.clone(),
            quote_id: conversion.quote_id.clone(),
            source: Amount::new(t.source_minor, &t.source_currency)?,
            margin: Amount::new(t.margin_minor, &t.source_currency)?,
            target: Amount::new(t.target_minor, &t.target_currency)?,
            rate: readable(&t.rate),
            rate_exact: t.rate.clone(),
            rate_date: t.rate_date.clone(),
            rate_revision: t.rate_revision,
            triangulation: Triangulation::between(&t.source_currency, &t.target_currency).as_str(),
            exact: t.exact.clone(),
            created_at: rfc3339(conversion.created_at),
        })
    }
}

/// A conversion. Its owner is the payment's, whom only payment knows: people read it there, this is
/// for those who may read everything.
#[utoipa::path(get, path = "/v1/conversions/{id}", params(("id" = String, Path)), tag = "quotes",
    responses((status = 200, body = ConversionView), (status = 403), (status = 404)))]
pub(super) async fn get_conversion(
    cx: Cx,
    path: Result<Path<String>, PathRejection>,
) -> Result<Answer> {
    cx.require(READ)?;
    cx.require_reader_of("")?;
    let id = id(path)?;
    let db = Db::open().await?;
    let found = store::conversion_by_id(&db, &id).await?;
    let conversion = found
        .ok_or_else(|| Failure::new(Code::NotFound, format!("conversion `{id}` does not exist")))?;
    Answer::json(200, &ConversionView::new(&conversion)?)
}
