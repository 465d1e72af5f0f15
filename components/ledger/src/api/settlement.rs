//! The end of a payment that got stuck: booked already, or refused from now on. Never both.

use axum::extract::Path;
use innover_kit::{Answer, Batch, Cause, Code, Cx, Db, Failure, Result, batch, ids};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    events,
    store::{self, Outcome},
};

/// The only service that gives up on payments.
const PAYMENT: &str = "payment";
/// What a payment refused here is refused for.
const TIMED_OUT: &str = "timed_out";

/// How a payment ended.
#[derive(Debug, Serialize, ToSchema)]
struct Settlement {
    /// The entry it was booked with; null when it is refused.
    entry_id: Option<String>,
}

/// Refuse a payment from now on, unless it is booked.
///
/// For the service `payment`. The refusal takes the place of the payment's entry, so a booking that
/// comes later, or at the same moment, meets it.
#[utoipa::path(post, path = "/v1/payments/{id}/refuse", tag = "entries",
    params(("id" = String, Path, description = "pay_…")),
    responses((status = 200, description = "Booked or refused", body = Settlement)))]
pub async fn refuse(cx: Cx, Path(id): Path<String>) -> Result<Answer> {
    if cx.claims().is_none_or(|c| c.caller != PAYMENT) {
        return Err(Failure::new(
            Code::InsufficientScope,
            "for the payment service only",
        ));
    }
    batch::with_retries(|| async {
        let mut db = Db::open().await?;
        if let Some(entry_id) = store::settlement(&db, &id).await? {
            return Answer::json(200, &Settlement { entry_id });
        }
        let detail = "it was not booked in time".to_owned();
        let mut batch = Batch::new();
        batch.emit(events::rejected_event(
            &id,
            TIMED_OUT,
            &detail,
            Cause::from(&cx),
        ));
        let refused = Outcome::Refused {
            code: TIMED_OUT,
            detail,
        };
        store::settle(&mut batch, &[(id.clone(), refused)], ids::now_us());
        batch.commit(&mut db).await?;
        Answer::json(200, &Settlement { entry_id: None })
    })
    .await
}
