//! Money enters a wallet from the house's cash.

use axum::extract::Path;
use innover_kit::{Answer, Body, Cx, Db, Result, amount::Amount};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{
    orders::{self, MovementView, Order},
    wallets::existing,
};
use crate::model::{self, movement::Kind};

/// Money that enters a wallet.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TopUpRequest {
    #[schema(value_type = Amount)]
    amount: Amount,
    /// The wallet's currency.
    #[schema(example = "EUR")]
    currency: String,
}

/// Top up a wallet.
#[utoipa::path(post, path = "/v1/wallets/{id}/top-ups", tag = "top-ups", request_body = TopUpRequest,
    params(("id" = String, Path), ("Idempotency-Key" = String, Header, description = "Unique to this top-up")),
    responses((status = 201, body = MovementView), (status = 404, description = "wallet_not_found"),
              (status = 422, description = "currency_mismatch or wallet_not_active")))]
pub async fn create(cx: Cx, Path(id): Path<String>, body: Body<TopUpRequest>) -> Result<Answer> {
    cx.require("ledger:write")?;
    let key = cx.require_idempotency(&body.fields)?;
    let money = orders::money(&body.value.amount, &body.value.currency)?;
    let db = Db::open().await?;
    if let Some(answer) = key.replay(&db).await? {
        return Ok(answer);
    }
    let wallet = existing(&db, &id).await?;
    drop(db);
    model::fit(&wallet, None, money)?;
    let order = Order {
        kind: Kind::TopUp,
        reference: wallet.id.clone(),
        wallet,
        other: None,
        money,
        expires_in_s: None,
        limited: false,
    };
    orders::carry_out(&cx, &key, &order).await
}
