//! What a caller pays with, and whom, when a request does not say.

use innover_kit::{Answer, Batch, Body, Code, Cx, Db, Failure, Result, amount, idempotency};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{READ, WRITE, order};
use crate::store::{self, Defaults};

/// A caller's defaults; what is absent or null is not set.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DefaultsView {
    /// The wallet that pays.
    #[serde(default)]
    payer_wallet: Option<String>,
    /// The wallet that is paid.
    #[serde(default)]
    payee_wallet: Option<String>,
    /// The currency of a bare amount: the payer wallet's.
    #[serde(default)]
    #[schema(example = "EUR")]
    currency: Option<String>,
}

impl From<Defaults> for DefaultsView {
    fn from(d: Defaults) -> DefaultsView {
        DefaultsView {
            payer_wallet: d.payer_wallet,
            payee_wallet: d.payee_wallet,
            currency: d.currency,
        }
    }
}

/// Read your defaults.
#[utoipa::path(get, path = "/v1/defaults", tag = "defaults",
    responses((status = 200, body = DefaultsView)))]
pub(super) async fn get(cx: Cx) -> Result<Answer> {
    cx.require(READ)?;
    let db = Db::open().await?;
    let defaults = store::defaults(&db, &order::caller(&cx)?).await?;
    Answer::json(200, &DefaultsView::from(defaults))
}

/// Set your defaults for `/pay` and `/pay-dynamic`, all of them at once.
#[utoipa::path(put, path = "/v1/defaults", tag = "defaults", request_body = DefaultsView,
    responses((status = 200, body = DefaultsView),
              (status = 403, description = "not_owner: the payer wallet is someone else's"),
              (status = 404, description = "wallet_not_found"),
              (status = 422, description = "currency_mismatch")))]
pub(super) async fn set(cx: Cx, body: Body<DefaultsView>) -> Result<Answer> {
    cx.require(WRITE)?;
    let key = cx.idempotency(&body.fields)?;
    let mut db = Db::open().await?;
    if let Some(key) = &key
        && let Some(answer) = key.replay(&db).await?
    {
        return Ok(answer);
    }
    let view = body.value;
    check(&cx, &view).await?;
    let answer = Answer::json(200, &view)?;
    let defaults = Defaults {
        payer_wallet: view.payer_wallet,
        payee_wallet: view.payee_wallet,
        currency: view.currency,
    };
    let mut batch = Batch::new();
    store::set_defaults(&mut batch, &order::caller(&cx)?, &defaults);
    Ok(idempotency::commit(&mut db, batch, key.as_ref(), answer).await?)
}

/// A default that could never be used is refused now, not at the first payment.
async fn check(cx: &Cx, view: &DefaultsView) -> Result<()> {
    if let Some(code) = &view.currency {
        amount::currency(code, "/currency")?;
    }
    let named = [
        (&view.payer_wallet, "/payer_wallet"),
        (&view.payee_wallet, "/payee_wallet"),
    ];
    let wanted: Vec<(&str, &str)> = named
        .iter()
        .filter_map(|(id, param)| Some((id.as_deref()?, *param)))
        .collect();
    if wanted.is_empty() {
        return Ok(());
    }
    if view.payer_wallet.is_some() && view.payer_wallet == view.payee_wallet {
        let what = "payer and payee are the same wallet";
        return Err(Failure::new(Code::InvalidRequest, what).param("/payee_wallet"));
    }
    let wallets = order::lookup(cx, &wanted).await?;
    let Some(payer) = wallets
        .iter()
        .find(|w| view.payer_wallet.as_ref() == Some(&w.id))
    else {
        return Ok(());
    };
    cx.require_actor_for(&payer.owner)?;
    if view
        .currency
        .as_ref()
        .is_some_and(|code| *code != payer.currency)
    {
        let what = format!("the payer's wallet holds {}", payer.currency);
        return Err(Failure::new(Code::CurrencyMismatch, what).param("/currency"));
    }
    Ok(())
}
