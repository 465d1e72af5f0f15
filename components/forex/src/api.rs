//! The HTTP surface: rates, quotes, conversions, loading of rate sets.

use std::collections::BTreeMap;

use axum::extract::{
    Path, Query,
    rejection::{PathRejection, QueryRejection},
};
use innover_kit::{
    Answer, Batch, Body, Code, Cx, Db, Failure, Result, batch,
    contract::time::rfc3339,
    idempotency, ids,
    page::{Page, PageQuery},
};
use innover_money::{Currency, Money, MoneyError, Rate, ecb::DailyRates};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, OpenApi, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    events,
    limits::{QUOTE_LIFE_US, RATE_SETS_MAX, SOURCE_BYTES_MAX},
    model::{self, Refusal, Triangulation},
    rates::{self, Policy},
    sets::{self, PlanError},
    store::{self, ConversionRow, QuoteRow, SetRow, Terms},
};

const READ: &str = "forex:read";
const WRITE: &str = "forex:write";
const PAY: &str = "payment:write";

#[derive(OpenApi)]
#[openapi(
    info(title = "forex", description = "Rates, quotes and conversions"),
    servers((url = "/api/forex"))
)]
struct Doc;

/// The routes and their document.
pub fn routes() -> OpenApiRouter {
    OpenApiRouter::with_openapi(Doc::openapi())
        .routes(routes!(get_rates))
        .routes(routes!(create_quote))
        .routes(routes!(get_quote))
        .routes(routes!(get_conversion))
        .routes(routes!(load_rate_sets, list_rate_sets))
        .routes(routes!(get_equivalent))
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Failure {
        let code = match &refusal {
            Refusal::NoRate { .. } => Code::NoRate,
            Refusal::Stale { .. } => Code::RatesStale,
            Refusal::TooSmall { .. } => Code::AmountTooSmall,
            Refusal::Amount(_) => Code::InvalidAmount,
            Refusal::Currency(_) => Code::UnsupportedCurrency,
            Refusal::QuoteUsed(_) => Code::QuoteUsed,
            Refusal::QuoteExpired(_) => Code::QuoteExpired,
            Refusal::QuoteNotFound(_) => Code::QuoteNotFound,
            Refusal::QuoteMismatch { .. } => Code::InvalidState,
        };
        Failure::new(code, refusal.to_string())
    }
}

fn query<T>(query: Result<Query<T>, QueryRejection>) -> Result<T> {
    query
        .map(|Query(value)| value)
        .map_err(|e| Failure::new(Code::InvalidRequest, e.body_text()))
}

/// An id in a path; one that is no text names nothing.
fn id(path: Result<Path<String>, PathRejection>) -> Result<String> {
    path.map(|Path(id)| id)
        .map_err(|e| Failure::new(Code::NotFound, e.body_text()))
}

fn currency(code: &str, param: &str) -> Result<Currency> {
    Currency::parse(code)
        .and_then(Currency::payable)
        .map_err(|e| Failure::new(Code::UnsupportedCurrency, e.to_string()).param(param))
}

/// An amount of money.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Amount {
    /// Major units with all minor digits.
    #[schema(example = "33.33")]
    amount: String,
    /// ISO 4217.
    #[schema(example = "EUR")]
    currency: String,
}

impl Amount {
    fn new(minor: i64, code: &str) -> Result<Amount> {
        let money = Currency::parse(code).and_then(|currency| Money::new(minor, currency));
        let money = money.map_err(|e| Failure::new(Code::Internal, e.to_string()))?;
        Ok(Amount {
            amount: money.to_decimal_string(),
            currency: code.into(),
        })
    }
}

/// Which rates.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct RatesQuery {
    /// The currency one unit of which is priced; the euro when absent.
    #[param(example = "EUR")]
    base: Option<String>,
    /// A day with rates; the newest when absent.
    #[param(example = "2026-10-30")]
    date: Option<String>,
}

/// The rates of one day.
#[derive(Debug, Serialize, ToSchema)]
struct RatesView {
    base: String,
    /// The day the rates were fixed.
    #[schema(example = "2026-10-30")]
    date: String,
    /// 1, or more when the day's set was corrected.
    revision: i64,
    #[schema(example = "ECB")]
    source: String,
    /// `direct` from the euro, `via EUR` when two published rates are crossed.
    triangulation: &'static str,
    /// Units of each currency for one unit of the base: as published from the euro, else the exact
    /// cross rounded to ten significant digits. Conversions use the exact fraction.
    #[schema(example = json!({"USD": "1.1172"}))]
    rates: BTreeMap<String, String>,
    /// Set when the newest rates are older than they should be.
    #[serde(skip_serializing_if = "Option::is_none")]
    warning: Option<String>,
}

/// Rates of a day, or the newest, for anyone with a token: they are public. A day without rates (a
/// weekend, a holiday) is 404 and the answer names the nearest days that have some: which of the two
/// is meant is the caller's decision.
#[utoipa::path(get, path = "/v1/rates", params(RatesQuery), tag = "rates",
    responses((status = 200, body = RatesView), (status = 400), (status = 404), (status = 422)))]
async fn get_rates(cx: Cx, asked: Result<Query<RatesQuery>, QueryRejection>) -> Result<Answer> {
    cx.identity()?;
    let RatesQuery { base, date } = query(asked)?;
    let base = base.unwrap_or_else(|| model::PIVOT.into());
    innover_money::RateCurrency::parse(&base)
        .map_err(|e| Failure::new(Code::UnsupportedCurrency, e.to_string()).param("base"))?;
    let db = Db::open().await?;
    let newest = rates::newest(&db).await?;
    let (table, warning) = match date {
        None => {
            let today = Policy::read().await?.today;
            let warning = newest.warning(today);
            (newest, warning)
        }
        Some(date) => (table_of(&db, &date).await?.into(), None),
    };
    let rates = table.from_base(&base).ok_or_else(|| {
        Failure::new(
            Code::NoRate,
            format!("the rates of {} have none for {base}", table.date),
        )
        .param("base")
    })?;
    Answer::json(
        200,
        &RatesView {
            triangulation: match base.as_str() {
                model::PIVOT => Triangulation::Direct.as_str(),
                _ => Triangulation::ViaEur.as_str(),
            },
            base,
            date: table.date.clone(),
            revision: table.revision,
            source: table.source.clone(),
            rates,
            warning,
        },
    )
}

async fn table_of(db: &Db, date: &str) -> Result<model::RateTable> {
    if model::date(date).is_none() {
        return Err(
            Failure::new(Code::InvalidRequest, "date is a day like 2026-10-30").param("date"),
        );
    }
    match store::of_day(db, date).await? {
        Some(set) => rates::table(db, &set).await,
        None => {
            let nearest = match store::neighbours(db, date).await? {
                (Some(before), Some(after)) => {
                    format!("the nearest days with rates are {before} and {after}")
                }
                (Some(one), None) | (None, Some(one)) => {
                    format!("the nearest day with rates is {one}")
                }
                (None, None) => "no rates are loaded".into(),
            };
            Err(Failure::new(
                Code::NotFound,
                format!("there are no rates of {date}; {nearest}"),
            )
            .param("date"))
        }
    }
}

/// What to price.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct QuoteRequest {
    /// Source currency.
    #[schema(example = "EUR")]
    from: String,
    /// Target currency.
    #[schema(example = "USD")]
    to: String,
    /// What is paid, in the source currency: a decimal string, or an integer of major units.
    #[schema(value_type = String, example = "33.33")]
    amount: serde_json::Value,
}

/// A price that holds until it expires, and can be used once.
#[derive(Debug, Serialize, ToSchema)]
struct QuoteView {
    id: String,
    /// `open`, `used` or `expired`.
    state: &'static str,
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

/// Prices an amount; the source side is fixed. For those who read forex and those who pay.
#[utoipa::path(post, path = "/v1/quotes", request_body = QuoteRequest, tag = "quotes",
    responses((status = 201, body = QuoteView), (status = 400), (status = 422)))]
async fn create_quote(cx: Cx, body: Body<QuoteRequest>) -> Result<Answer> {
    let owner = quoting(&cx)?;
    let key = cx.idempotency(&body.fields)?;
    let source = amount(&body.value.amount, currency(&body.value.from, "/from")?)?;
    let target = currency(&body.value.to, "/to")?;
    if source.currency() == target {
        return Err(Failure::new(
            Code::InvalidRequest,
            "from and to are the same currency: nothing to convert",
        )
        .param("/to"));
    }
    let mut db = Db::open().await?;
    if let Some(key) = &key
        && let Some(answer) = key.replay(&db).await?
    {
        return Ok(answer);
    }
    let (table, policy) = (rates::newest(&db).await?, Policy::read().await?);
    table.check_age(policy.today, policy.max_age_days)?;
    let price = model::price(source, target, &table, policy.margin_bps)?;
    let now = ids::now_us();
    let quote = QuoteRow {
        id: ids::new_id("quo"),
        owner,
        terms: events::terms(&price, &table),
        margin_bps: i64::from(policy.margin_bps),
        created_at: now,
        expires_at: now + QUOTE_LIFE_US,
        conversion_id: None,
    };
    let answer = Answer::json(
        201,
        &QuoteView::new(&quote, now, table.warning(policy.today))?,
    )?;
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
    Ok(who.sub.clone())
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
async fn get_quote(cx: Cx, path: Result<Path<String>, PathRejection>) -> Result<Answer> {
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
struct ConversionView {
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
async fn get_conversion(cx: Cx, path: Result<Path<String>, PathRejection>) -> Result<Answer> {
    cx.require(READ)?;
    cx.require_reader_of("")?;
    let id = id(path)?;
    let db = Db::open().await?;
    let found = store::conversion_by_id(&db, &id).await?;
    let conversion = found
        .ok_or_else(|| Failure::new(Code::NotFound, format!("conversion `{id}` does not exist")))?;
    Answer::json(200, &ConversionView::new(&conversion)?)
}

/// Daily sets to store.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RateSetsRequest {
    /// Who published them.
    #[schema(example = "ECB")]
    source: String,
    sets: Vec<RateSet>,
    /// Whether a day that has other rates gets another revision; without it that is 409.
    #[serde(default)]
    replace: bool,
}

/// The rates of one day.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RateSet {
    #[schema(example = "2026-10-30")]
    date: String,
    /// Units per euro. A currency without a rate that day is left out.
    #[schema(example = json!({"USD": "1.1172"}))]
    rates: BTreeMap<String, String>,
}

/// What became of them.
#[derive(Debug, Serialize, ToSchema)]
struct RateSetsView {
    /// Days that were new.
    added: usize,
    /// Days that got another revision.
    replaced: usize,
    /// Days that were there with the same rates.
    unchanged: usize,
}

/// Stores daily sets: all of them or none. A day that is there with the same rates is left alone;
/// one with other rates is 409 unless `replace` is set, and then both are kept. A set that would be
/// priced with must hold every currency of the configured list.
#[utoipa::path(post, path = "/v1/rate-sets", request_body = RateSetsRequest, tag = "rates",
    responses((status = 200, body = RateSetsView), (status = 201, body = RateSetsView),
              (status = 400), (status = 409), (status = 422)))]
async fn load_rate_sets(cx: Cx, body: Body<RateSetsRequest>) -> Result<Answer> {
    let who = cx.require(WRITE)?;
    let loaded_by = if who.sub.is_empty() {
        &who.client_id
    } else {
        &who.sub
    };
    let key = cx.idempotency(&body.fields)?;
    let days = checked(&body.value)?;
    let required = required_currencies().await?;
    let request = &body.value;
    batch::with_retries(|| async {
        let mut db = Db::open().await?;
        if let Some(key) = &key
            && let Some(answer) = key.replay(&db).await?
        {
            return Ok(answer);
        }
        let newest = rates::newest(&db).await?;
        let stored = store::of_days(&db, days.iter().map(|d| d.date.as_str())).await?;
        let plan = sets::plan(
            &days,
            &request.source,
            &stored,
            Some(&newest.date),
            &required,
            request.replace,
            ids::now_us(),
        )
        .map_err(refuse_plan)?;
        let changed = !plan.insert.is_empty();
        let view = RateSetsView {
            added: plan.added,
            replaced: plan.replaced,
            unchanged: plan.unchanged,
        };
        let answer = Answer::json(if changed { 201 } else { 200 }, &view)?;
        let mut batch = Batch::new();
        if changed {
            let sets = plan
                .insert
                .iter()
                .map(|(set, rates)| (set, rates.as_slice()));
            store::insert_sets(&mut batch, sets, loaded_by);
        }
        Ok(idempotency::commit(&mut db, batch, key.as_ref(), answer).await?)
    })
    .await
}

fn checked(request: &RateSetsRequest) -> Result<Vec<DailyRates>> {
    let refuse = |param: String, why: String| Failure::new(Code::InvalidRequest, why).param(param);
    let printable = request.source.bytes().all(|b| b.is_ascii_graphic());
    if request.source.is_empty() || request.source.len() > SOURCE_BYTES_MAX || !printable {
        let why = format!("source is 1 to {SOURCE_BYTES_MAX} printable characters, e.g. ECB");
        return Err(refuse("/source".into(), why));
    }
    if request.sets.is_empty() || request.sets.len() > RATE_SETS_MAX {
        return Err(refuse(
            "/sets".into(),
            format!("send 1 to {RATE_SETS_MAX} daily sets at once"),
        ));
    }
    let mut days: Vec<DailyRates> = Vec::with_capacity(request.sets.len());
    let mut seen = std::collections::BTreeSet::new();
    for (at, set) in request.sets.iter().enumerate() {
        let day = sets::check(at, &set.date, &set.rates)
            .map_err(|e| refuse(format!("/sets/{}/{}", e.set, e.field), e.fault))?;
        if !seen.insert(set.date.as_str()) {
            return Err(refuse(
                format!("/sets/{at}/date"),
                format!("{} is listed twice", set.date),
            ));
        }
        days.push(day);
    }
    Ok(days)
}

/// `fx_currencies` where the platform sets it, else what the ECB quotes today.
async fn required_currencies() -> Result<Vec<innover_money::RateCurrency>> {
    let configured = innover_kit::config::get("fx_currencies").await.ok();
    let codes = configured.as_deref().unwrap_or(sets::REQUIRED_DEFAULT);
    sets::required(codes).map_err(|e| Failure::new(Code::NotReady, format!("`fx_currencies`: {e}")))
}

fn refuse_plan(error: PlanError) -> Failure {
    let text = error.to_string();
    match error {
        PlanError::Incomplete { set, .. } => {
            let mut failure =
                Failure::new(Code::InvalidRequest, text).param(format!("/sets/{set}/rates"));
            failure.0.status = 422;
            failure
        }
        PlanError::Differs { .. } => Failure::new(Code::AlreadyExists, text),
    }
}

/// One stored set.
#[derive(Debug, Serialize, ToSchema)]
struct RateSetView {
    date: String,
    revision: i64,
    source: String,
    loaded_at: String,
}

/// The days that have rates, newest first.
#[utoipa::path(get, path = "/v1/rate-sets", params(PageQuery), tag = "rates",
    responses((status = 200, body = Page<RateSetView>), (status = 400)))]
async fn list_rate_sets(cx: Cx, page: Result<Query<PageQuery>, QueryRejection>) -> Result<Answer> {
    cx.require(READ)?;
    let page = query(page)?;
    let (limit, before) = (page.limit()?, page.after()?);
    let db = Db::open().await?;
    rates::newest(&db).await?;
    let sets = store::page(&db, &before, i64::from(limit) + 1).await?;
    let views = sets
        .into_iter()
        .map(
            |SetRow {
                 date,
                 revision,
                 source,
                 loaded_at,
                 ..
             }| RateSetView {
                date,
                revision,
                source,
                loaded_at: rfc3339(loaded_at),
            },
        )
        .collect();
    Answer::json(
        200,
        &Page::new(views, limit, |set: &RateSetView| set.date.as_str()),
    )
}

/// What to restate.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct EquivalentQuery {
    /// Minor units.
    minor: i64,
    /// Their currency.
    #[param(example = "USD")]
    currency: String,
    /// The currency to restate in.
    #[param(example = "EUR")]
    to: String,
}

/// An amount restated at mid, for limits.
#[derive(Debug, Serialize, ToSchema)]
struct EquivalentView {
    /// Minor units of `to`, rounded up; null when there is no rate.
    minor: Option<i64>,
    /// The day of the rates; null when none was needed or there is none.
    rate_date: Option<String>,
}

/// What an amount is worth in another currency at mid, rounded up so that rounding never slips it
/// under a limit. Rates of any age are used: for a limit an old rate says more than none.
#[utoipa::path(get, path = "/v1/equivalent", params(EquivalentQuery), tag = "rates",
    responses((status = 200, body = EquivalentView), (status = 400), (status = 403)))]
async fn get_equivalent(
    cx: Cx,
    asked: Result<Query<EquivalentQuery>, QueryRejection>,
) -> Result<Answer> {
    if cx.claims().is_none_or(|claims| claims.caller != "payment") {
        cx.require(READ)?;
    }
    let asked = query(asked)?;
    let (from, to) = (
        currency(&asked.currency, "currency")?,
        currency(&asked.to, "to")?,
    );
    let money = Money::new(asked.minor, from)
        .ok()
        .filter(|money| !money.is_negative())
        .ok_or_else(|| Failure::new(Code::InvalidAmount, "minor is zero or more").param("minor"))?;
    if from == to {
        return Answer::json(
            200,
            &EquivalentView {
                minor: Some(asked.minor),
                rate_date: None,
            },
        );
    }
    let db = Db::open().await?;
    let table = rates::newest(&db).await?;
    let view = match model::equivalent(money, to, &table) {
        Ok(minor) => EquivalentView {
            minor: Some(minor),
            rate_date: Some(table.date.clone()),
        },
        Err(Refusal::NoRate { .. }) => EquivalentView {
            minor: None,
            rate_date: None,
        },
        Err(refusal) => return Err(Failure::from(refusal).param("minor")),
    };
    Answer::json(200, &view)
}
