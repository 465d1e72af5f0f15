//! What the refund service is told of a payment: who stands on both sides, and what was booked.

use axum::extract::Path;
use innover_kit::{Answer, Code, Cx, Db, Failure, Result, context::insufficient_scope};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    model::State,
    store::{self, Payment},
};

/// The only service that gives payments back.
const REFUND: &str = "refund";

/// A payment as the refund service needs it. Amounts are minor units.
#[derive(Debug, Serialize, ToSchema)]
pub struct CaptureView {
    payment_id: String,
    #[schema(value_type = String)]
    state: State,
    payer_wallet: String,
    payee_wallet: String,
    payer_owner: String,
    payee_owner: String,
    payer_account: String,
    payee_account: String,
    source_minor: i64,
    source_currency: String,
    /// Null until it is converted, as all that follows from the conversion.
    target_minor: Option<i64>,
    target_currency: String,
    margin_minor: Option<i64>,
    /// Target units per source unit, exact.
    rate: Option<String>,
    /// The exact product in the target currency, before it was rounded.
    exact: Option<String>,
    /// The journal entry; null until it is booked.
    ledger_entry_id: Option<String>,
}

impl From<Payment> for CaptureView {
    fn from(p: Payment) -> CaptureView {
        CaptureView {
            payment_id: p.id,
            state: p.state,
            payer_wallet: p.payer_wallet,
            payee_wallet: p.payee_wallet,
            payer_owner: p.payer_owner,
            payee_owner: p.payee_owner,
            payer_account: p.payer_account,
            payee_account: p.payee_account,
            source_minor: p.source_minor,
            source_currency: p.source_currency,
            target_minor: p.target_minor,
            target_currency: p.target_currency,
            margin_minor: p.margin_minor,
            rate: p.rate,
            exact: p.exact,
            ledger_entry_id: p.entry_id,
        }
    }
}

/// What a payment captured, for the refund service.
#[utoipa::path(get, path = "/v1/payments/{id}/capture", tag = "services",
    params(("id" = String, Path, description = "pay_…")),
    responses((status = 200, description = "Both sides of the payment", body = CaptureView),
              (status = 404, description = "No such payment")))]
pub async fn get(cx: Cx, Path(id): Path<String>) -> Result<Answer> {
    // It shows owners and accounts whoever asks, so it is for the service that decides with them
    // alone.
    if cx.claims().is_none_or(|c| c.caller != REFUND) {
        return Err(insufficient_scope("service:refund"));
    }
    let db = Db::open().await?;
    let payment = store::by_id(&db, &id)
        .await?
        .ok_or_else(|| Failure::new(Code::PaymentNotFound, "there is no payment with this id"))?;
    Answer::json(200, &CaptureView::from(payment))
}
