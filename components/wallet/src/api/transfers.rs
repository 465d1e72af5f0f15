//! Money goes from one wallet into another of the same currency.

use axum::extract::Path;
use innover_kit::{Answer, Body, Cx, Db, Result, amount::Amount};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{
    WRITE,
    orders::{self, MovementView, Order},
    wallets::existing,
};
use crate::model::{self, movement::Kind};

/// Money that goes into another wallet.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TransferRequest {
    /// The payee's wallet, in the same currency.
    to_wallet: String,
    #[schema(value_type = Amount)]
    amount: Amount,
    /// The wallets' currency.
    #[schema(example = "EUR")]
    currency: String,
    /// What it is for, up to 140 characters.
    #[serde(default)]
    reference: String,
}

/// Transfer to another wallet of the same currency. Its owner does, or the house.
#[utoipa::path(post, path = "/v1/wallets/{id}/transfers", tag = "transfers", request_body = TransferRequest,
    params(("id" = String, Path), ("Idempotency-Key" = String, Header, description = "Unique to this transfer")),
    responses((status = 201, body = MovementView), (status = 403, description = "not_owner"),
              (status = 404, description = "wallet_not_found"),
              (status = 422, description = "insufficient_funds, limit_exceeded, no_rate, currency_mismatch (make a payment, which converts) or wallet_not_active")))]
pub async fn create(cx: Cx, Path(id): Path<String>, body: Body<TransferRequest>) -> Result<Answer> {
    cx.require(WRITE)?;
    let key = cx.require_idempotency(&body.fields)?;
    let request = body.value;
    let money = orders::money(&request.amount, &request.currency)?;
    let reference = orders::line(&request.reference, "/reference")?;
    let db = Db::open().await?;
    if let Some(answer) = key.replay(&db).await? {
        return Ok(answer);
    }
    let wallet = existing(&db, &id).await?;
    cx.require_actor_for(&wallet.owner)?;
    let other = existing(&db, &request.to_wallet)
        .await
        .map_err(|failure| failure.param("/to_wallet"))?;
    drop(db);
    model::fit(&wallet, Some(&other), money)?;
    let order = Order {
        kind: Kind::Transfer,
        limited: orders::is_limited(&cx, &wallet)?,
        wallet,
        other: Some(other),
        money,
        reference,
        expires_in_s: None,
    };
    orders::carry_out(&cx, &key, &order).await
}
