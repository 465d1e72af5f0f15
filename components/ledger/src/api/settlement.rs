//! The end of a payment or refund that got stuck: booked already, or refused from now on. Never
//! both.

use axum::extract::Path;
use innover_kit::{Answer, Batch, Cause, Code, Cx, Db, Failure, Result, batch, ids};
use serde::Serialize;
use utoipa::ToSchema;

use super::invalid;
use crate::{
    events::{self, Subject},
    model::Book,
    store::entries::{self, EntryRow, Known, Refused, Written},
};

/// What is refused here is refused for this.
const TIMED_OUT: &str = "timed_out";

/// How it ended.
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
pub async fn refuse_payment(cx: Cx, Path(id): Path<String>) -> Result<Answer> {
    refuse(&cx, Subject::Payment, &id).await
}

/// Refuse a refund from now on, unless it is booked.
///
/// For the service `refund`, as for payments.
#[utoipa::path(post, path = "/v1/refunds/{id}/refuse", tag = "entries",
    params(("id" = String, Path, description = "ref_…")),
    responses((status = 200, description = "Booked or refused", body = Settlement)))]
pub async fn refuse_refund(cx: Cx, Path(id): Path<String>) -> Result<Answer> {
    refuse(&cx, Subject::Refund, &id).await
}

async fn refuse(cx: &Cx, subject: Subject, id: &str) -> Result<Answer> {
    let service = subject.as_str();
    if cx.claims().is_none_or(|c| c.caller != service) {
        let what = format!("for the {service} service only");
        return Err(Failure::new(Code::InsufficientScope, what));
    }
    // Entries of all subjects share a table: a service gives up its own alone.
    if !id.starts_with(subject.prefix()) {
        return Err(invalid(format!("this is no id of a {service}"), "id"));
    }
    batch::with_retries(|| async {
        let mut db = Db::open().await?;
        db.lock().await?;
        let entry_id = match entries::find(&db, id).await? {
            Some(Known::Booked(entry, _)) => Some(entry.id),
            Some(Known::Refused(..)) => None,
            None => {
                let now = ids::now_us();
                let row = EntryRow {
                    id: id.to_owned(),
                    kind: service.into(),
                    reference: id.to_owned(),
                    reverses: None,
                    metadata: "{}".into(),
                    created_by: service.into(),
                    created_at: now,
                };
                let detail = "it was not booked in time".to_owned();
                let refused = Refused::of(&[], TIMED_OUT, detail, String::new());
                let mut batch = Batch::new();
                batch.emit(events::rejected(&row, &refused, Cause::from(cx)));
                let written = Written {
                    refused: vec![(row, refused)],
                    ..Written::default()
                };
                entries::write(&mut batch, &Book::default(), &written, now);
                batch.commit(&mut db).await?;
                None
            }
        };
        Answer::json(200, &Settlement { entry_id })
    })
    .await
}
