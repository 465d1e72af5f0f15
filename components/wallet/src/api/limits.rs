//! What an owner may still let leave today.

use axum::extract::Path;
use innover_kit::{Answer, Cx, Db, Result, contract::time, ids};
use innover_money::Currency;
use serde::Serialize;
use utoipa::ToSchema;

use super::{READ, allowance::table, wallets::existing};
use crate::{
    ledger::decimal,
    model::limits::day,
    store::{self, movements},
};

/// A wallet owner's limits, in euros. All wallets of an owner share them.
#[derive(Debug, Serialize, ToSchema)]
pub struct LimitsView {
    /// The owner's KYC tier, 0 to 3.
    tier: i64,
    /// What limits are measured in.
    #[schema(example = "EUR")]
    currency: &'static str,
    per_transaction: PerTransaction,
    per_day: PerDay,
}

#[derive(Debug, Serialize, ToSchema)]
struct PerTransaction {
    /// Null for no limit.
    #[schema(example = "250.00")]
    limit: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
struct PerDay {
    /// The day, UTC.
    #[schema(example = "2026-10-30")]
    date: String,
    /// Null for no limit.
    #[schema(example = "500.00")]
    limit: Option<String>,
    /// What transfers, withdrawals and holds of the day have taken.
    #[schema(example = "120.00")]
    used: String,
    /// What is left; null for no limit.
    #[schema(example = "380.00")]
    remaining: Option<String>,
}

/// The limits of a wallet's owner, and what is left of them today.
#[utoipa::path(get, path = "/v1/wallets/{id}/limits", tag = "limits", params(("id" = String, Path)),
    responses((status = 200, body = LimitsView), (status = 403, description = "not_owner"),
              (status = 404, description = "wallet_not_found")))]
pub async fn get(cx: Cx, Path(id): Path<String>) -> Result<Answer> {
    cx.require(READ)?;
    let table = table().await?;
    let db = Db::open().await?;
    let wallet = existing(&db, &id).await?;
    cx.require_reader_of(&wallet.owner)?;
    let tier = store::tier(&db, &wallet.owner).await?;
    let limits = table.of(tier);
    let now = ids::now_us();
    let used = movements::used(&db, &wallet.owner, day(now)).await?;
    let eur = |cents| decimal(cents, Currency::EUR);
    Answer::json(
        200,
        &LimitsView {
            tier,
            currency: Currency::EUR.code(),
            per_transaction: PerTransaction {
                limit: limits.per_transaction.map(eur),
            },
            per_day: PerDay {
                date: time::date(now),
                limit: limits.per_day.map(eur),
                used: eur(used),
                remaining: limits.remaining(used).map(eur),
            },
        },
    )
}
