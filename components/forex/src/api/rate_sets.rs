//! Daily sets: stored whole or not at all, never changed.

use std::collections::BTreeMap;

use axum::{
    body::Bytes,
    extract::{Query, rejection::QueryRejection},
    http::{HeaderMap, header},
};
use innover_kit::{
    Answer, Batch, Body, Code, Cx, Db, Failure, Result, batch,
    contract::time::rfc3339,
    idempotency,
    page::{Page, PageQuery},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{READ, query};
use crate::{
    limits::FILE_BYTES_MAX,
    loading, rates,
    sets::{Load, Plan},
    store::{self, SetRow},
};

const WRITE: &str = "forex:write";
/// The media types of the ECB's files, and of a file nobody named.
const FILES: [&str; 4] = ["application/xml", "text/xml", "text/csv", "text/plain"];

/// The parts of a request that an idempotency key is compared by.
type Fields = serde_json::Map<String, serde_json::Value>;

/// Daily sets to store.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RateSetsRequest {
    /// Who published them.
    #[schema(example = "ECB")]
    source: String,
    sets: Vec<RateSet>,
    /// Whether a day that has other rates gets another revision; without it that is 409.
    #[serde(default)]
    replace: bool,
    /// Whether a single set belongs to the history and may have holes. A request of one set is else
    /// a daily one, which is complete or refused.
    #[serde(default)]
    history: bool,
}

/// What a file of the ECB's does not say of itself.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(super) struct FileQuery {
    /// Whether a day that has other rates gets another revision; without it that is 409.
    #[serde(default)]
    replace: bool,
    /// Whether a file of one day belongs to the history and may have holes.
    #[serde(default)]
    history: bool,
}

/// The rates of one day.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RateSet {
    #[schema(example = "2026-10-30")]
    date: String,
    /// Units per euro. A currency without a rate that day is left out.
    #[schema(example = json!({"USD": "1.1172"}))]
    rates: BTreeMap<String, String>,
}

/// What became of them.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct RateSetsView {
    /// Days that were new.
    added: usize,
    /// Days that got another revision.
    replaced: usize,
    /// Days that were there with the same rates.
    unchanged: usize,
}

impl From<&Plan> for RateSetsView {
    fn from(plan: &Plan) -> RateSetsView {
        RateSetsView {
            added: plan.added,
            replaced: plan.replaced,
            unchanged: plan.unchanged,
        }
    }
}

/// Stores daily sets: all of them or none. A day that is there with the same rates is left alone;
/// one with other rates is 409 unless `replace` is set, and then both are kept. A daily set, and any
/// that would be priced with, must hold every currency of the configured list.
///
/// Takes JSON, or a file of the ECB's as it is published: the daily or 90-day XML
/// (`application/xml`), the daily CSV or the history (`text/csv`); what it is shows its content.
#[utoipa::path(post, path = "/v1/rate-sets", tag = "rates", params(FileQuery),
    request_body(content((RateSetsRequest = "application/json"), (String = "application/xml"),
                         (String = "text/csv"))),
    responses((status = 200, body = RateSetsView), (status = 201, body = RateSetsView),
              (status = 400), (status = 409), (status = 413), (status = 415), (status = 422)))]
pub(super) async fn load_rate_sets(
    cx: Cx,
    asked: Result<Query<FileQuery>, QueryRejection>,
    headers: HeaderMap,
    bytes: Bytes,
) -> Result<Answer> {
    let who = cx.require(WRITE)?;
    let loaded_by = if who.sub.is_empty() {
        &who.client_id
    } else {
        &who.sub
    };
    let (load, fields) = read(&query(asked)?, &headers, &bytes)?;
    let key = cx.idempotency(&fields)?;
    batch::with_retries(|| async {
        let mut db = Db::open().await?;
        if let Some(key) = &key
            && let Some(answer) = key.replay(&db).await?
        {
            return Ok(answer);
        }
        let plan = loading::plan(&db, &load).await?;
        let changed = !plan.insert.is_empty();
        let answer = Answer::json(if changed { 201 } else { 200 }, &RateSetsView::from(&plan))?;
        let mut batch = Batch::new();
        loading::write(&mut batch, &plan, loaded_by);
        Ok(idempotency::commit(&mut db, batch, key.as_ref(), answer).await?)
    })
    .await
}

/// What is to be loaded, and what an idempotency key is compared by.
fn read(asked: &FileQuery, headers: &HeaderMap, bytes: &Bytes) -> Result<(Load, Fields)> {
    let media = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let bare = media.split(';').next().unwrap_or_default().trim();
    if FILES.iter().any(|file| bare.eq_ignore_ascii_case(file)) {
        return file(asked, bytes);
    }
    let body =
        Body::<RateSetsRequest>::parse(Some(media), bytes, FILE_BYTES_MAX).map_err(|e| match e
            .code()
        {
            Code::UnsupportedMediaType => Failure::new(
                Code::UnsupportedMediaType,
                format!(
                    "send JSON, or a file of the ECB's with `Content-Type: {}`",
                    FILES.join("` or `")
                ),
            ),
            _ => e,
        })?;
    let RateSetsRequest {
        source,
        sets,
        replace,
        history,
    } = body.value;
    let sets = sets.into_iter().map(|set| (set.date, set.rates)).collect();
    let load = Load {
        replace,
        history,
        ..loading::sets(source, sets)?
    };
    Ok((load, body.fields))
}

/// A file of the ECB's.
fn file(asked: &FileQuery, bytes: &Bytes) -> Result<(Load, Fields)> {
    let text = std::str::from_utf8(bytes)
        .map_err(|e| Failure::new(Code::InvalidRequest, format!("the file is not UTF-8: {e}")))?;
    let load = Load {
        replace: asked.replace,
        history: asked.history,
        ..loading::file(text)?
    };
    let fields = [
        ("file".to_owned(), text.into()),
        ("replace".to_owned(), asked.replace.into()),
        ("history".to_owned(), asked.history.into()),
    ];
    Ok((load, fields.into_iter().collect()))
}

/// One stored set.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RateSetView {
    date: String,
    revision: i64,
    source: String,
    loaded_at: String,
}

/// The days that have rates, newest first.
#[utoipa::path(get, path = "/v1/rate-sets", params(PageQuery), tag = "rates",
    responses((status = 200, body = Page<RateSetView>), (status = 400)))]
pub(super) async fn list_rate_sets(
    cx: Cx,
    page: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Answer> {
    cx.require(READ)?;
    let page = query(page)?;
    let (limit, before) = (page.limit()?, page.after()?);
    let db = Db::open().await?;
    rates::newest(&db).await?;
    let sets = store::page(&db, &before, i64::from(limit) + 1).await?;
    let views = sets
        .into_iter()
        .map(
            |SetRow {
                 date,
                 revision,
                 source,
                 loaded_at,
                 ..
             }| RateSetView {
                date,
                revision,
                source,
                loaded_at: rfc3339(loaded_at),
            },
        )
        .collect();
    Answer::json(
        200,
        &Page::new(views, limit, |set: &RateSetView| set.date.as_str()),
    )
}
