//! Holds: money reserved in a wallet for another wallet or the house, captured or released later.

use axum::extract::{Path, Query};
use innover_kit::{
    Answer, Body, Code, Cx, Db, Failure, Result,
    amount::Amount,
    contract::time::rfc3339,
    page::{Page, PageQuery},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    READ, WRITE,
    orders::{self, Order},
    wallets::existing,
};
use crate::{
    ledger::decimal,
    limits::{HOLD_SECONDS_DEFAULT, HOLD_SECONDS_MAX},
    model::{
        self,
        movement::{Kind, Movement},
    },
    store::movements,
};

/// Money to be reserved.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HoldRequest {
    #[schema(value_type = Amount)]
    amount: Amount,
    /// The wallet's currency.
    #[schema(example = "EUR")]
    currency: String,
    /// The wallet a capture goes to, in the same currency; the house's cash when absent.
    payee_wallet: Option<String>,
    /// What it is for, up to 140 characters.
    #[serde(default)]
    reference: String,
    /// Seconds until it expires, up to 90 days; a week when absent.
    expires_in_s: Option<i64>,
}

/// A hold.
#[derive(Debug, Serialize, ToSchema)]
pub struct HoldView {
    id: String,
    wallet_id: String,
    /// Null when a capture goes to the house's cash.
    payee_wallet: Option<String>,
    /// `requested`, `held`, `captured`, `released`, `expired` or `refused`.
    #[schema(example = "held")]
    state: &'static str,
    #[schema(example = "10.00")]
    amount: String,
    /// What was captured of it.
    #[schema(example = "0.00")]
    captured: String,
    #[schema(example = "EUR")]
    currency: String,
    reference: String,
    /// The journal entry of its capture.
    entry_id: Option<String>,
    expires_at: Option<String>,
    created_at: String,
    updated_at: String,
    /// Its place in lists.
    #[serde(skip)]
    place: String,
}

impl From<&Movement> for HoldView {
    fn from(m: &Movement) -> HoldView {
        HoldView {
            id: m.id.clone(),
            wallet_id: m.wallet_id.clone(),
            payee_wallet: m.other_wallet.clone(),
            state: m.state.as_str(),
            amount: decimal(m.amount, m.currency),
            captured: decimal(m.moved, m.currency),
            currency: m.currency.code().into(),
            reference: m.reference.clone(),
            entry_id: m.entry_id.clone(),
            expires_at: m.expires_at.map(rfc3339),
            created_at: rfc3339(m.created_at),
            updated_at: rfc3339(m.updated_at),
            place: m.place.clone(),
        }
    }
}

/// Place a hold. The wallet's owner does, or the house.
#[utoipa::path(post, path = "/v1/wallets/{id}/holds", tag = "holds", request_body = HoldRequest,
    params(("id" = String, Path), ("Idempotency-Key" = String, Header, description = "Unique to this hold")),
    responses((status = 201, body = HoldView), (status = 403, description = "not_owner"),
              (status = 404, description = "wallet_not_found"),
              (status = 422, description = "insufficient_funds, limit_exceeded, no_rate, currency_mismatch or wallet_not_active")))]
pub async fn create(cx: Cx, Path(id): Path<String>, body: Body<HoldRequest>) -> Result<Answer> {
    cx.require(WRITE)?;
    let key = cx.require_idempotency(&body.fields)?;
    let request = body.value;
    let money = orders::money(&request.amount, &request.currency)?;
    let reference = orders::line(&request.reference, "/reference")?;
    let expires_in_s = request.expires_in_s.unwrap_or(HOLD_SECONDS_DEFAULT);
    if !(1..=HOLD_SECONDS_MAX).contains(&expires_in_s) {
        let what = format!("a hold lasts 1 to {HOLD_SECONDS_MAX} seconds");
        return Err(Failure::new(Code::InvalidRequest, what).param("/expires_in_s"));
    }
    let db = Db::open().await?;
    if let Some(answer) = key.replay(&db).await? {
        return Ok(answer);
    }
    let wallet = existing(&db, &id).await?;
    cx.require_actor_for(&wallet.owner)?;
    let other = match &request.payee_wallet {
        Some(payee) => Some(
            existing(&db, payee)
                .await
                .map_err(|failure| failure.param("/payee_wallet"))?,
        ),
        None => None,
    };
    drop(db);
    model::fit(&wallet, other.as_ref(), money)?;
    let order = Order {
        kind: Kind::Hold,
        limited: orders::is_limited(&cx, &wallet)?,
        wallet,
        other,
        money,
        reference,
        expires_in_s: Some(expires_in_s),
    };
    orders::carry_out(&cx, &key, &order).await
}

/// The hold with this id.
///
/// # Errors
/// 404 `hold_not_found`.
pub async fn existing_hold(db: &Db, id: &str) -> Result<Movement> {
    movements::get(db, id)
        .await?
        .filter(|m| m.kind == Kind::Hold)
        .ok_or_else(|| Failure::new(Code::HoldNotFound, format!("hold `{id}` does not exist")))
}

/// One hold. Both sides may read it.
#[utoipa::path(get, path = "/v1/holds/{id}", tag = "holds", params(("id" = String, Path)),
    responses((status = 200, body = HoldView), (status = 403, description = "not_owner"),
              (status = 404, description = "hold_not_found")))]
pub async fn get(cx: Cx, Path(id): Path<String>) -> Result<Answer> {
    cx.require(READ)?;
    let db = Db::open().await?;
    let hold = existing_hold(&db, &id).await?;
    if let Err(not_owner) = cx.require_reader_of(&hold.owner) {
        let Some(payee) = &hold.other_wallet else {
            return Err(not_owner);
        };
        cx.require_reader_of(&existing(&db, payee).await?.owner)?;
    }
    Answer::json(200, &HoldView::from(&hold))
}

/// A wallet's holds, oldest first.
#[utoipa::path(get, path = "/v1/wallets/{id}/holds", tag = "holds", params(("id" = String, Path), PageQuery),
    responses((status = 200, body = Page<HoldView>), (status = 404, description = "wallet_not_found")))]
pub async fn list(cx: Cx, Path(id): Path<String>, Query(page): Query<PageQuery>) -> Result<Answer> {
    cx.require(READ)?;
    let (limit, after) = (page.limit()?, page.after()?);
    let db = Db::open().await?;
    let wallet = existing(&db, &id).await?;
    cx.require_reader_of(&wallet.owner)?;
    let holds =
        movements::of_wallet(&db, &wallet.id, Kind::Hold, &after, i64::from(limit) + 1).await?;
    let views = holds.iter().map(HoldView::from).collect();
    Answer::json(200, &Page::new(views, limit, |view: &HoldView| &view.place))
}
