//! Withdrawing a payment: certain only once the ledger says that it will not book it.

use axum::extract::Path;
use innover_kit::{
    Answer, Code, Cx, Db, Failure, FormOrJson, Result, batch,
    idempotency::{self, IdempotencyKey},
};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{PaymentView, WRITE, order};
use crate::{
    jobs,
    model::{Signal, State, may_be_withdrawn, next},
    store::{self, Change, Payment, Writer},
};

/// Why a payment is withdrawn.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CancelRequest {
    /// For the timeline, up to 140 characters.
    #[serde(default)]
    reason: String,
}

/// Cancel a payment that nobody has taken up.
///
/// For the payer's owner, finance and admin: while it is under review, or initiated and not taken by
/// forex yet. Nothing was booked then and nothing will be. A payment that is further on is 409.
#[utoipa::path(post, path = "/v1/payments/{id}/cancel", tag = "payments",
    request_body = CancelRequest,
    params(("id" = String, Path, description = "pay_…"),
           ("Idempotency-Key" = String, Header, description = "Unique to this cancellation")),
    responses((status = 200, description = "Cancelled", body = PaymentView),
              (status = 403, description = "not_owner"),
              (status = 404, description = "payment_not_found"),
              (status = 409, description = "invalid_state: it is converted, booked or ended")))]
pub(super) async fn cancel(
    cx: Cx,
    Path(id): Path<String>,
    FormOrJson(body): FormOrJson<CancelRequest>,
) -> Result<Answer> {
    cx.require(WRITE)?;
    order::check_reference(&body.value.reason, "/reason")?;
    let key = cx.require_idempotency(&body.fields)?;
    // The payment may move between the read and the commit: then what is allowed is decided anew.
    batch::with_retries(|| attempt(&cx, &key, &id, &body.value.reason)).await
}

async fn attempt(cx: &Cx, key: &IdempotencyKey, id: &str, reason: &str) -> Result<Answer> {
    let mut db = Db::open().await?;
    if let Some(answer) = key.replay(&db).await? {
        return Ok(answer);
    }
    let mut payment = load(cx, &db, id).await?;
    let withdrawn = payment.withdrawn_by.is_some();
    let mut writer = Writer::default();
    if payment.state == State::Cancelled {
        // The ledger's word came as an event before its answer did, or this is a retry.
        return finish(&mut db, key, writer, &payment).await;
    }
    // Once withdrawn, it may be cancelled as long as the ledger has not booked it.
    let open = match withdrawn {
        true => next(payment.state, Signal::Cancelled).is_some(),
        false => may_be_withdrawn(payment.state),
    };
    if !open {
        return Err(too_late(&payment));
    }
    if payment.state != State::Review {
        if !withdrawn {
            // Kept first, so that the ledger's refusal is known for what it is whoever reads it.
            writer.withdraw(&payment, &order::caller(cx)?);
            std::mem::take(&mut writer).finish().commit(&mut db).await?;
        }
        if jobs::settle(cx, &payment).await?.entry_id.is_some() {
            return Err(too_late(&payment));
        }
        payment = load(cx, &db, id).await?;
        if payment.state == State::Cancelled {
            return finish(&mut db, key, writer, &payment).await;
        }
    }
    let to = next(payment.state, Signal::Cancelled).ok_or_else(|| too_late(&payment))?;
    let cause = payment.cause();
    let who = &cx.identity()?.preferred_username;
    writer.note(
        &payment.id,
        "decision",
        to.as_str(),
        &cause,
        &format!("{who}: {reason}"),
    );
    writer.change(&payment, to, Change::default(), &cause);
    let after = Payment {
        state: to,
        version: payment.version + 1,
        ..payment
    };
    finish(&mut db, key, writer, &after).await
}

async fn load(cx: &Cx, db: &Db, id: &str) -> Result<Payment> {
    let payment = store::by_id(db, id)
        .await?
        .ok_or_else(|| Failure::new(Code::PaymentNotFound, "there is no payment with this id"))?;
    cx.require_actor_for(&payment.payer_owner)?;
    Ok(payment)
}

async fn finish(
    db: &mut Db,
    key: &IdempotencyKey,
    writer: Writer,
    payment: &Payment,
) -> Result<Answer> {
    let answer = Answer::json(200, &PaymentView::from(payment))?;
    Ok(idempotency::commit(db, writer.finish(), Some(key), answer).await?)
}

fn too_late(payment: &Payment) -> Failure {
    let what = match payment.state {
        State::Declined | State::Failed | State::Completed => {
            format!(
                "the payment is `{}`, that is its end",
                payment.state.as_str()
            )
        }
        state => format!(
            "the payment is `{}` and being booked; once it is completed it can be refunded",
            state.as_str()
        ),
    };
    Failure::new(Code::InvalidState, what)
}
