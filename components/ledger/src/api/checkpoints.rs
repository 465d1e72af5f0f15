//! Checkpoints, and the journal they cover.

use axum::extract::{Path, Query};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use innover_journal::CheckpointLine;
use innover_kit::{
    Answer, Batch, Code, Cx, Db, Failure, Result,
    batch::with_retries,
    contract::time::rfc3339,
    page::{Page, PageQuery},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{READ, writer};
use crate::{
    checkpoints as signing,
    store::{
        checkpoints,
        journal::{self, Cursor},
    },
};

/// A signed statement of what all accounts were at one moment.
#[derive(Debug, Serialize, ToSchema)]
pub struct CheckpointView {
    /// From 1, without gaps.
    number: i64,
    created_at: String,
    accounts: i64,
    postings: i64,
    /// Merkle root of all accounts' heads, hex.
    root: String,
    /// Digest of the checkpoint before, hex; null for the first.
    previous: Option<String>,
    /// Ed25519 (RFC 8032), hex.
    signature: String,
    /// Where the next page starts.
    #[serde(skip)]
    cursor: String,
}

impl From<&CheckpointLine> for CheckpointView {
    fn from(line: &CheckpointLine) -> CheckpointView {
        CheckpointView {
            number: line.number,
            created_at: rfc3339(line.created_at),
            accounts: line.accounts,
            postings: line.postings,
            root: line.root.to_string(),
            previous: line.previous.map(String::from),
            signature: line.signature.clone(),
            cursor: line.number.to_string(),
        }
    }
}

/// Make a checkpoint now.
///
/// Answers the newest one when nothing was opened or posted since.
#[utoipa::path(post, path = "/v1/checkpoints", tag = "checkpoints",
    responses((status = 201, body = CheckpointView), (status = 503, description = "not_ready: no signing key")))]
pub async fn create(cx: Cx) -> Result<Answer> {
    writer(&cx)?;
    // Repeating it makes another statement of the same truth, so it needs no Idempotency-Key.
    with_retries(async || {
        let mut db = Db::open().await?;
        let mut batch = Batch::new();
        let made = match signing::next(&db, &mut batch).await? {
            Some(line) => {
                batch.commit(&mut db).await?;
                line
            }
            None => checkpoints::newest(&db)
                .await?
                .ok_or_else(|| Failure::new(Code::NotFound, "there is no account to sign for"))?,
        };
        Answer::json(201, &CheckpointView::from(&made))
    })
    .await
}

/// The checkpoints, newest first.
#[utoipa::path(get, path = "/v1/checkpoints", tag = "checkpoints", params(PageQuery),
    responses((status = 200, body = Page<CheckpointView>)))]
pub async fn list(cx: Cx, Query(page): Query<PageQuery>) -> Result<Answer> {
    cx.require(READ)?;
    let limit = page.limit()?;
    let before = match page.after()?.as_str() {
        "" => i64::MAX,
        number => number.parse().map_err(|_| bad_cursor())?,
    };
    let db = Db::open().await?;
    let lines = checkpoints::page(&db, before, i64::from(limit) + 1).await?;
    let views = lines.iter().map(CheckpointView::from).collect();
    Answer::json(
        200,
        &Page::new(views, limit, |view: &CheckpointView| &view.cursor),
    )
}

/// One checkpoint.
#[utoipa::path(get, path = "/v1/checkpoints/{number}", tag = "checkpoints", params(("number" = i64, Path)),
    responses((status = 200, body = CheckpointView), (status = 404, description = "No such checkpoint")))]
pub async fn get(cx: Cx, Path(number): Path<i64>) -> Result<Answer> {
    cx.require(READ)?;
    let db = Db::open().await?;
    let line = existing(&db, number).await?;
    Answer::json(200, &CheckpointView::from(&line))
}

/// The journal as a checkpoint covers it.
///
/// Up to 1,000 records a page, in the order `innover ledger verify` reads them in: the checkpoint,
/// entries by id, accounts by id each followed by its postings, and the counts.
#[utoipa::path(get, path = "/v1/checkpoints/{number}/journal", tag = "checkpoints",
    params(("number" = i64, Path), ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before")),
    responses((status = 200, body = Page<Object>), (status = 404, description = "No such checkpoint")))]
pub async fn journal(
    cx: Cx,
    Path(number): Path<i64>,
    Query(page): Query<PageQuery>,
) -> Result<Answer> {
    cx.require(READ)?;
    let cursor = Cursor::decode(&page.after()?).ok_or_else(bad_cursor)?;
    let db = Db::open().await?;
    let checkpoint = existing(&db, number).await?;
    let (data, next) = journal::page(&db, &checkpoint, cursor).await?;
    let next_cursor = next.map(|cursor| URL_SAFE_NO_PAD.encode(cursor.encode()));
    Answer::json(200, &Page { data, next_cursor })
}

/// The public key checkpoints are verified with, as a JWK (RFC 8037).
#[utoipa::path(get, path = "/v1/checkpoint-key", tag = "checkpoints",
    responses((status = 200, body = Object)))]
pub async fn key(cx: Cx) -> Result<Answer> {
    cx.require(READ)?;
    Answer::json(200, &signing::public_jwk(signing::key().await?))
}

async fn existing(db: &Db, number: i64) -> Result<CheckpointLine> {
    let missing = || Failure::new(Code::NotFound, format!("there is no checkpoint {number}"));
    checkpoints::by_number(db, number)
        .await?
        .ok_or_else(missing)
}

fn bad_cursor() -> Failure {
    Failure::new(
        Code::InvalidCursor,
        "pass `next_cursor` of the page before unchanged",
    )
    .param("cursor")
}
