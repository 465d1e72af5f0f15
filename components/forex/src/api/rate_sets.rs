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
    idempotency, ids,
    page::{Page, PageQuery},
};
use innover_money::ecb::{self, DailyRates};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{READ, query};
use crate::{
    limits::{FILE_BYTES_MAX, RATE_SETS_MAX, SOURCE_BYTES_MAX},
    rates,
    sets::{self, Load, PlanError},
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
pub(super) struct RateSetsView {
    /// Days that were new.
    added: usize,
    /// Days that got another revision.
    replaced: usize,
    /// Days that were there with the same rates.
    unchanged: usize,
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
    let required = required_currencies().await?;
    batch::with_retries(|| async {
        let mut db = Db::open().await?;
        if let Some(key) = &key
            && let Some(answer) = key.replay(&db).await?
        {
            return Ok(answer);
        }
        let newest = rates::newest(&db).await?;
        let stored = store::of_days(&db, load.days.iter().map(|d| d.date.as_str())).await?;
        let now = ids::now_us();
        let plan =
            sets::plan(&load, &stored, Some(&newest.date), &required, now).map_err(refuse_plan)?;
        let changed = !plan.insert.is_empty();
        let view = RateSetsView {
            added: plan.added,
            replaced: plan.replaced,
            unchanged: plan.unchanged,
        };
        let answer = Answer::json(if changed { 201 } else { 200 }, &view)?;
        let mut batch = Batch::new();
        if changed {
            let sets = plan
                .insert
                .iter()
                .map(|(set, rates)| (set, rates.as_slice()));
            store::insert_sets(&mut batch, sets, loaded_by);
        }
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
    let load = Load {
        days: checked(&body.value)?,
        source: body.value.source,
        replace: body.value.replace,
        history: body.value.history,
    };
    Ok((load, body.fields))
}

/// A file of the ECB's.
fn file(asked: &FileQuery, bytes: &Bytes) -> Result<(Load, Fields)> {
    let refuse = |why: String| Failure::new(Code::InvalidRequest, why);
    let text =
        std::str::from_utf8(bytes).map_err(|e| refuse(format!("the file is not UTF-8: {e}")))?;
    let days =
        ecb::parse(text).map_err(|e| refuse(format!("this is no file of the ECB's: {e}")))?;
    if days.len() > RATE_SETS_MAX {
        let why = format!(
            "the file holds {} days, {RATE_SETS_MAX} at once are taken: `innover forex load` sends them in parts",
            days.len()
        );
        return Err(refuse(why));
    }
    let fields = [
        ("file".to_owned(), text.into()),
        ("replace".to_owned(), asked.replace.into()),
        ("history".to_owned(), asked.history.into()),
    ];
    let load = Load {
        days,
        source: sets::ECB.into(),
        replace: asked.replace,
        history: asked.history,
    };
    Ok((load, fields.into_iter().collect()))
}

fn checked(request: &RateSetsRequest) -> Result<Vec<DailyRates>> {
    let refuse = |param: String, why: String| Failure::new(Code::InvalidRequest, why).param(param);
    let printable = request.source.bytes().all(|b| b.is_ascii_graphic());
    if request.source.is_empty() || request.source.len() > SOURCE_BYTES_MAX || !printable {
        let why = format!("source is 1 to {SOURCE_BYTES_MAX} printable characters, e.g. ECB");
        return Err(refuse("/source".into(), why));
    }
    if request.sets.is_empty() || request.sets.len() > RATE_SETS_MAX {
        return Err(refuse(
            "/sets".into(),
            format!("send 1 to {RATE_SETS_MAX} daily sets at once"),
        ));
    }
    let mut days: Vec<DailyRates> = Vec::with_capacity(request.sets.len());
    let mut seen = std::collections::BTreeSet::new();
    for (at, set) in request.sets.iter().enumerate() {
        let day = sets::check(at, &set.date, &set.rates)
            .map_err(|e| refuse(format!("/sets/{}/{}", e.set, e.field), e.fault))?;
        if !seen.insert(set.date.as_str()) {
            return Err(refuse(
                format!("/sets/{at}/date"),
                format!("{} is listed twice", set.date),
            ));
        }
        days.push(day);
    }
    Ok(days)
}

/// `fx_currencies` where the platform sets it, else what the ECB quotes today.
async fn required_currencies() -> Result<Vec<innover_money::RateCurrency>> {
    let configured = innover_kit::config::get("fx_currencies").await.ok();
    let codes = configured.as_deref().unwrap_or(sets::REQUIRED_DEFAULT);
    sets::required(codes).map_err(|e| Failure::new(Code::NotReady, format!("`fx_currencies`: {e}")))
}

fn refuse_plan(error: PlanError) -> Failure {
    let text = error.to_string();
    match error {
        PlanError::Incomplete { set, .. } => {
            let mut failure =
                Failure::new(Code::InvalidRequest, text).param(format!("/sets/{set}/rates"));
            failure.0.status = 422;
            failure
        }
        PlanError::Differs { .. } => Failure::new(Code::AlreadyExists, text),
    }
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
