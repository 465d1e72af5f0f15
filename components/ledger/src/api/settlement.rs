//! The end of a payment, refund or transfer that got stuck: booked already, or refused from now on.
//! Never both.

use axum::extract::Path;
use innover_kit::{Answer, Batch, Body, Cause, Code, Cx, Db, Failure, Result, batch, ids};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{callers_id, invalid, line, trusted, views::TransferView};
use crate::{
    events::{self, Subject},
    model::Book,
    store::{
        entries::{self, EntryRow, Known, Refused, Written},
        pending,
    },
};

/// The code of what was given up before it came: what is refused here is refused for this.
pub(super) const TIMED_OUT: &str = "timed_out";

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
                give_up(cx, db, id, service, id, service).await?;
                None
            }
        };
        Answer::json(200, &Settlement { entry_id })
    })
    .await
}

/// What was asked for, so that a late request is told from another use of its id.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GivenUp {
    /// The transfer's.
    kind: String,
    /// The transfer's.
    reference: String,
}

/// What there is of a transfer.
#[derive(Debug, Serialize, ToSchema)]
struct Found {
    /// As it stands; null when it is refused.
    transfer: Option<TransferView>,
}

/// Refuse a transfer from now on, unless it is booked or reserved.
///
/// For the service `wallet`, as for payments: a request that was on its way for long, or comes at the
/// same moment, meets the refusal.
#[utoipa::path(post, path = "/v1/transfers/{id}/refuse", tag = "transfers", request_body = GivenUp,
    params(("id" = String, Path)),
    responses((status = 200, description = "There already, or refused", body = Found)))]
pub async fn refuse_transfer(
    cx: Cx,
    Path(id): Path<String>,
    body: Body<GivenUp>,
) -> Result<Answer> {
    let Some(service) = trusted(&cx) else {
        let what = "for the wallet service only";
        return Err(Failure::new(Code::InsufficientScope, what));
    };
    callers_id(Some(&id), true, "id")?;
    if [Subject::Payment, Subject::Refund]
        .iter()
        .any(|s| id.starts_with(s.prefix()))
    {
        return Err(invalid("this is no id of a transfer", "id"));
    }
    let kind = super::entries::kind(&body.value.kind, true)?;
    let reference = line(&body.value.reference, "/reference")?;
    batch::with_retries(|| async {
        let mut db = Db::open().await?;
        db.lock().await?;
        let transfer = match pending::find(&db, &id).await? {
            Some(row) => Some(TransferView::current(&row)),
            None => match entries::find(&db, &id).await? {
                Some(Known::Booked(entry, lines)) => Some(TransferView::booked(&entry, &lines)),
                Some(Known::Refused(..)) => None,
                None => {
                    give_up(&cx, db, &id, kind, reference, service).await?;
                    None
                }
            },
        };
        Answer::json(200, &Found { transfer })
    })
    .await
}

/// Takes the id, so that nothing else is ever booked under it.
async fn give_up(
    cx: &Cx,
    mut db: Db,
    id: &str,
    kind: &str,
    reference: &str,
    service: &str,
) -> Result<()> {
    let now = ids::now_us();
    let row = EntryRow {
        id: id.to_owned(),
        kind: kind.to_owned(),
        reference: reference.to_owned(),
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
    Ok(())
}
