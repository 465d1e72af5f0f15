//! What the rules are asked about a payment. They decide; this neither stores nor changes anything.

use http::Method;
use innover_kit::{Cx, Result, call, log};
use innover_money::{Currency, Money};
use serde::Deserialize;
use serde_json::json;

use crate::model::Decision;

/// What the rules are asked about.
pub struct Facts<'a> {
    /// A payment that is stored: it is not one of those its payer made before.
    pub payment_id: Option<&'a str>,
    /// What is paid.
    pub money: Money,
    /// What the payee gets.
    pub target_currency: &'a str,
    /// Whether anything of it is converted.
    pub cross_currency: bool,
    pub payer_owner: &'a str,
    pub payee_owner: &'a str,
}

#[derive(Deserialize)]
struct Equivalent {
    minor: Option<i64>,
}

/// What the rules say; a person decides when they cannot be asked.
pub async fn decide(cx: &Cx, facts: &Facts<'_>) -> Decision {
    let mut amount_eur_minor = None;
    let decision = match equivalent(cx, facts.money).await {
        Ok(minor) => {
            amount_eur_minor = minor;
            evaluate(cx, facts, minor).await
        }
        Err(failure) => Err(failure),
    };
    let decision = decision.unwrap_or_else(|failure| {
        log::error(
            cx,
            "the rules could not be asked",
            &[("error", failure.to_string().into())],
        );
        Decision::fallback()
    });
    Decision {
        amount_eur_minor,
        ..decision
    }
}

/// What the rules say.
///
/// # Errors
/// The problem of rules or forex: 422 is their last word on these facts.
pub async fn ask(cx: &Cx, facts: &Facts<'_>) -> Result<Decision> {
    let minor = equivalent(cx, facts.money).await?;
    evaluate(cx, facts, minor).await
}

/// Euro cents; `None` where there is no rate.
async fn equivalent(cx: &Cx, money: Money) -> Result<Option<i64>> {
    if money.currency() == Currency::EUR {
        return Ok(Some(money.minor()));
    }
    let path = format!(
        "/v1/equivalent?minor={}&currency={}&to=EUR",
        money.minor(),
        money.currency().code()
    );
    let found: Equivalent = call::json(cx, Method::GET, "forex", &path, None::<&()>, true).await?;
    Ok(found.minor)
}

async fn evaluate(cx: &Cx, facts: &Facts<'_>, eur_minor: Option<i64>) -> Result<Decision> {
    let money = facts.money;
    let digits = u32::from(money.minor_digits());
    let mut known = json!({
        "amount_minor": money.minor(),
        "amount_major": money.minor() / 10_i64.pow(digits),
        "currency": money.currency().code(),
        "target_currency": facts.target_currency,
        "cross_currency": facts.cross_currency,
        "payer_owner": facts.payer_owner,
        "payee_owner": facts.payee_owner,
        "same_owner": facts.payer_owner == facts.payee_owner,
    });
    if let Some(minor) = eur_minor {
        known["amount_eur_minor"] = minor.into();
    }
    let mut question = json!({ "facts": known });
    if let Some(id) = facts.payment_id {
        question["payment_id"] = id.into();
    }
    // Evaluating changes nothing, so it may be repeated.
    call::json(
        cx,
        Method::POST,
        "rules",
        "/v1/evaluate",
        Some(&question),
        true,
    )
    .await
}
