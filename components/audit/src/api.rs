//! The HTTP surface: searching, exporting and verifying the trail. Nothing writes.

use axum::{
    extract::{Query, rejection::QueryRejection},
    response::{IntoResponse, Response},
};
use http::header;
use innover_kit::{
    Answer, Code, Cx, Db, Failure, Result,
    contract::time::{parse_rfc3339, rfc3339},
    page::{Page, PageQuery},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, OpenApi, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    limits::{EXPORT_ROWS_MAX, VERIFY_ROWS, VERIFY_ROWS_MAX},
    model::{self, Fault, Head, Record},
    store::{self, Search},
};

const READ: &str = "audit:read";

#[derive(OpenApi)]
#[openapi(
    info(title = "Audit", description = "Every event of the platform, append-only and sealed."),
    servers((url = "/api/audit"))
)]
struct Document;

/// The routes and their document.
pub fn routes() -> OpenApiRouter {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(search))
        .routes(routes!(export))
        .routes(routes!(verify))
}

/// The trail is of everybody's doings, so no scope of a plain user opens it.
fn auditor(cx: &Cx) -> Result<()> {
    cx.require(READ)?;
    cx.require_reader_of("")
}

type Asked<T> = Result<Query<T>, QueryRejection>;

fn read<T>(query: Asked<T>) -> Result<T> {
    query
        .map(|Query(query)| query)
        .map_err(|e| Failure::new(Code::InvalidRequest, e.body_text()))
}

/// A row of the trail.
#[derive(Debug, Serialize, ToSchema)]
struct RecordView {
    /// Its number, 1 and up, without holes.
    seq: i64,
    event_id: String,
    /// The service that told.
    #[schema(example = "/innover/payment")]
    source: String,
    /// The event's type.
    #[schema(example = "payment.completed")]
    action: String,
    /// What it happened to.
    subject: String,
    /// On whose request: the subject of their token; null when nobody asked.
    actor: Option<String>,
    /// RFC 3339.
    occurred_at: String,
    /// RFC 3339.
    recorded_at: String,
    /// The request's id.
    correlation_id: Option<String>,
    trace_id: Option<String>,
    /// The event's payload.
    #[schema(value_type = Object)]
    data: Value,
    /// SHA-256 over the row and the hash of the one before.
    hash: String,
}

impl From<Record> for RecordView {
    fn from(record: Record) -> RecordView {
        let known = |text: String| Some(text).filter(|text| !text.is_empty());
        RecordView {
            seq: record.seq,
            event_id: record.event_id,
            source: record.source,
            action: record.action,
            subject: record.subject,
            actor: known(record.actor),
            occurred_at: rfc3339(record.occurred_at),
            recorded_at: rfc3339(record.recorded_at),
            correlation_id: known(record.correlation_id),
            trace_id: known(record.trace_id),
            data: serde_json::from_str(&record.data).unwrap_or_default(),
            hash: record.hash,
        }
    }
}

/// What is searched for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct SearchQuery {
    /// On whose request.
    actor: Option<String>,
    /// What it happened to, e.g. a payment's id.
    subject: Option<String>,
    /// The event's type.
    action: Option<String>,
    /// RFC 3339: not before.
    from: Option<String>,
    /// RFC 3339: before.
    to: Option<String>,
}

fn time(text: Option<&String>, otherwise: i64, name: &str) -> Result<i64> {
    text.map_or(Ok(otherwise), |text| {
        parse_rfc3339(text).map_err(|e| Failure::new(Code::InvalidRequest, e).param(name))
    })
}

/// Search the trail, newest first.
#[utoipa::path(get, path = "/v1/audit", tag = "audit", params(SearchQuery, PageQuery),
    responses((status = 200, description = "A page", body = Page<RecordView>)))]
async fn search(
    cx: Cx,
    Query(query): Query<SearchQuery>,
    Query(page): Query<PageQuery>,
) -> Result<Answer> {
    auditor(&cx)?;
    let (limit, after) = (page.limit()?, page.after()?);
    let search = Search {
        actor: query.actor.as_deref().unwrap_or_default(),
        subject: query.subject.as_deref().unwrap_or_default(),
        action: query.action.as_deref().unwrap_or_default(),
        from: time(query.from.as_ref(), i64::MIN, "from")?,
        to: time(query.to.as_ref(), i64::MAX, "to")?,
    };
    let db = Db::open().await?;
    let records = store::search(&db, search, &after, i64::from(limit) + 1).await?;
    let views = records.into_iter().map(RecordView::from).collect();
    Answer::json(200, &Page::new(views, limit, |v: &RecordView| &v.event_id))
}

/// Which rows are exported.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ExportQuery {
    /// The number of the last row that is there already; 0 for the first page.
    after: Option<i64>,
    /// Rows, 1 to 1000; 1000 when absent.
    limit: Option<u32>,
}

/// Export the trail in order, as JSON lines: everything a row's hash is made of.
///
/// Ask again with the last row's number as `after` until nothing comes. `tools/audit-verify` checks
/// the lines without this service.
#[utoipa::path(get, path = "/v1/audit/export", tag = "audit", params(ExportQuery),
    responses((status = 200, description = "A row per line", body = String, content_type = "application/x-ndjson")))]
async fn export(cx: Cx, query: Asked<ExportQuery>) -> Result<Response> {
    auditor(&cx)?;
    let query = read(query)?;
    let limit = match query.limit.unwrap_or(EXPORT_ROWS_MAX) {
        n @ 1..=EXPORT_ROWS_MAX => n,
        n => {
            let what = format!("limit is 1 to {EXPORT_ROWS_MAX}, not {n}");
            return Err(Failure::new(Code::InvalidRequest, what).param("limit"));
        }
    };
    let db = Db::open().await?;
    let after = query.after.unwrap_or(0);
    let mut lines = String::new();
    for record in store::after(&db, after, i64::from(limit)).await? {
        let line = serde_json::to_string(&record)
            .map_err(|e| Failure::new(Code::Internal, e.to_string()))?;
        lines.push_str(&line);
        lines.push('\n');
    }
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], lines).into_response())
}

/// From where on, and against what, the trail is verified.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct VerifyQuery {
    /// The row verified last; 0 to begin at the first.
    after: Option<i64>,
    /// An earlier head as `<seq>:<hash>`: it must still be part of the trail.
    head: Option<String>,
}

/// The end of the trail, or of the part that was verified.
#[derive(Debug, Serialize, ToSchema)]
struct HeadView {
    seq: i64,
    hash: String,
}

impl From<Head> for HeadView {
    fn from(Head { seq, hash }: Head) -> HeadView {
        HeadView { seq, hash }
    }
}

/// The first bad row.
#[derive(Debug, Serialize, ToSchema)]
struct FaultView {
    seq: i64,
    what: String,
}

/// What a verification found.
#[derive(Debug, Serialize, ToSchema)]
struct Verification {
    /// Whether everything up to `through` is as it was written.
    ok: bool,
    /// Whether that is the whole trail; else go on with `?after=<through.seq>`.
    complete: bool,
    /// Rows this request verified.
    checked: i64,
    through: HeadView,
    /// The trail's end. Keep it elsewhere and pass it as `?head=` next time: who rewrites the whole
    /// trail cannot rewrite that.
    head: HeadView,
    fault: Option<FaultView>,
}

/// Recompute the chain and name the first bad row.
#[utoipa::path(get, path = "/v1/audit/verify", tag = "audit", params(VerifyQuery),
    responses((status = 200, description = "What was found", body = Verification)))]
async fn verify(cx: Cx, query: Asked<VerifyQuery>) -> Result<Answer> {
    auditor(&cx)?;
    let query = read(query)?;
    let db = Db::open().await?;
    // Rows added from here on are not verified; they are behind this head.
    let head = store::head(&db).await?;
    let start = query.after.unwrap_or(0);
    let mut through = match store::hash(&db, start).await? {
        Some(hash) => Head { seq: start, hash },
        None if start == 0 => Head::default(),
        None => {
            let what = "the trail has no row of this number";
            return Err(Failure::new(Code::InvalidRequest, what).param("after"));
        }
    };
    let end = head.seq.min(start.saturating_add(VERIFY_ROWS_MAX));
    let mut fault = anchored(&db, query.head.as_deref()).await?;
    while fault.is_none() && through.seq < end {
        let rows = store::after(&db, through.seq, VERIFY_ROWS.min(end - through.seq)).await?;
        if rows.is_empty() {
            break;
        }
        for row in &rows {
            match model::follow(&through, row) {
                Ok(next) => through = next,
                Err(found) => {
                    fault = Some(found);
                    break;
                }
            }
        }
    }
    // The last row's successor is missing, or the head is not the last row's.
    if fault.is_none() && (through.seq == head.seq || through.seq < end) {
        fault = model::ends(&through, &head).err();
    }
    Answer::json(
        200,
        &Verification {
            ok: fault.is_none(),
            complete: fault.is_none() && through == head,
            checked: through.seq - start,
            through: through.into(),
            head: head.into(),
            fault: fault.map(|Fault { seq, what }| FaultView { seq, what }),
        },
    )
}

/// Whether an earlier head is still part of the trail.
async fn anchored(db: &Db, head: Option<&str>) -> Result<Option<Fault>> {
    let Some(text) = head else { return Ok(None) };
    let read = || {
        let (seq, hash) = text.split_once(':')?;
        Some((seq.parse::<i64>().ok()?, hash))
    };
    let (seq, hash) = read().ok_or_else(|| {
        Failure::new(Code::InvalidRequest, "a head is `<seq>:<hash>`").param("head")
    })?;
    let found = store::hash(db, seq).await?.unwrap_or_default();
    Ok((found != hash).then(|| Fault {
        seq,
        what: "it is not the row that was the head".into(),
    }))
}
