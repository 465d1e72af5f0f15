//! The HTTP surface: rates here, quotes and conversions in `quotes`, loading in `rate_sets`.

use std::collections::BTreeMap;

use axum::extract::{
    Path, Query,
    rejection::{PathRejection, QueryRejection},
};
use innover_kit::{Answer, Code, Cx, Db, Failure, Result};
use innover_money::{Currency, Money};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, OpenApi, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    model::{self, Refusal, Triangulation},
    rates::{self, Policy},
    store,
};

mod quotes;
pub(crate) mod rate_sets;

const READ: &str = "forex:read";

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
        .routes(routes!(quotes::create_quote))
        .routes(routes!(quotes::get_quote))
        .routes(routes!(quotes::get_price))
        .routes(routes!(quotes::get_conversion))
        .routes(routes!(
            rate_sets::load_rate_sets,
            rate_sets::list_rate_sets
        ))
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
            Refusal::QuoteMismatch { .. } => Code::QuoteMismatch,
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
    let by_service = |caller: &str| matches!(caller, "payment" | "wallet");
    if cx.claims().is_none_or(|claims| !by_service(&claims.caller)) {
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
