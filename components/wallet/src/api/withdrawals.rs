//! Money leaves a wallet for the house's cash.

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

/// Money that leaves a wallet.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WithdrawalRequest {
    #[schema(value_type = Amount)]
    amount: Amount,
    /// The wallet's currency.
    #[schema(example = "EUR")]
    currency: String,
    /// What it is for, up to 140 characters.
    #[serde(default)]
    reference: String,
}

/// Withdraw from a wallet. Its owner does, or the house.
#[utoipa::path(post, path = "/v1/wallets/{id}/withdrawals", tag = "withdrawals", request_body = WithdrawalRequest,
    params(("id" = String, Path), ("Idempotency-Key" = String, Header, description = "Unique to this withdrawal")),
    responses((status = 201, body = MovementView), (status = 403, description = "not_owner"),
              (status = 404, description = "wallet_not_found"),
              (status = 422, description = "insufficient_funds, limit_exceeded, no_rate, currency_mismatch or wallet_not_active")))]
pub async fn create(
    cx: Cx,
    Path(id): Path<String>,
    body: Body<WithdrawalRequest>,
) -> Result<Answer> {
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
    drop(db);
    cx.require_actor_for(&wallet.owner)?;
    model::fit(&wallet, None, money)?;
    let order = Order {
        kind: Kind::Withdrawal,
        limited: orders::is_limited(&cx, &wallet)?,
        wallet,
        other: None,
        money,
        reference,
        expires_in_s: None,
    };
    orders::carry_out(&cx, &key, &order).await
}
