//! Every wallet against the ledger, on demand.

use axum::extract::{Path, Query};
use innover_kit::{
    Answer, Batch, Body, Cause, Code, Cx, Db, Failure, Result,
    contract::time::rfc3339,
    idempotency, ids,
    page::{Page, PageQuery},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{READ, operator};
use crate::{
    jobs::rebuild,
    store::rebuilds::{self, Difference, Rebuild},
};

/// Nothing has to be said.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RebuildRequest {}

/// A comparison of every wallet with the ledger.
#[derive(Debug, Serialize, ToSchema)]
pub struct RebuildView {
    id: String,
    /// `running` or `done`.
    #[schema(example = "done")]
    state: &'static str,
    requested_by: String,
    /// Wallets compared so far.
    checked: i64,
    /// Differences found.
    differing: i64,
    /// Differences that were repaired.
    repaired: i64,
    started_at: String,
    updated_at: String,
}

impl From<&Rebuild> for RebuildView {
    fn from(r: &Rebuild) -> RebuildView {
        RebuildView {
            id: r.id.clone(),
            state: if r.done { "done" } else { "running" },
            requested_by: r.requested_by.clone(),
            checked: r.checked,
            differing: r.differing,
            repaired: r.repaired,
            started_at: rfc3339(r.started_at),
            updated_at: rfc3339(r.updated_at),
        }
    }
}

/// A difference that was found.
#[derive(Debug, Serialize, ToSchema)]
pub struct DifferenceView {
    /// `lagging`, `amounts`, `ahead`, `not_closed`, `not_closed_in_ledger`, `no_account` or
    /// `no_wallet`.
    #[schema(example = "lagging")]
    kind: String,
    account_id: String,
    /// Null for an account without a wallet.
    wallet_id: Option<String>,
    /// What the wallet showed: `posted_minor`, `held_minor`, `version`; null without a wallet.
    #[schema(value_type = Object)]
    shown: Value,
    /// The same of the ledger; null without an account.
    #[schema(value_type = Object)]
    ledger: Value,
    repaired: bool,
    /// Its place in lists.
    #[serde(skip)]
    place: String,
}

impl From<&Difference> for DifferenceView {
    fn from(d: &Difference) -> DifferenceView {
        let object = |text: &str| serde_json::from_str(text).unwrap_or_default();
        DifferenceView {
            kind: d.kind.clone(),
            account_id: d.account_id.clone(),
            wallet_id: (!d.wallet_id.is_empty()).then(|| d.wallet_id.clone()),
            shown: object(&d.shown),
            ledger: object(&d.ledger),
            repaired: d.repaired,
            place: d.id.clone(),
        }
    }
}

/// Compare every wallet with the ledger, and repair what differs. For ops_user, finance and admin.
#[utoipa::path(post, path = "/v1/rebuilds", tag = "rebuilds", request_body = RebuildRequest,
    params(("Idempotency-Key" = String, Header, description = "Unique to this rebuild")),
    responses((status = 202, description = "Begun", body = RebuildView),
              (status = 403, description = "insufficient_scope")))]
pub async fn create(cx: Cx, body: Body<RebuildRequest>) -> Result<Answer> {
    let requested_by = operator(&cx)?;
    let key = cx.require_idempotency(&body.fields)?;
    let mut db = Db::open().await?;
    if let Some(answer) = key.replay(&db).await? {
        return Ok(answer);
    }
    let rebuild = Rebuild::begun(ids::new_id("reb"), requested_by);
    let mut batch = Batch::new();
    rebuilds::save(&mut batch, &rebuild);
    batch.enqueue(rebuild::QUEUE, rebuild::job(&rebuild), Cause::from(&cx));
    let answer = Answer::json(202, &RebuildView::from(&rebuild))?;
    Ok(idempotency::commit(&mut db, batch, Some(&key), answer).await?)
}

async fn existing(db: &Db, id: &str) -> Result<Rebuild> {
    rebuilds::get(db, id)
        .await?
        .ok_or_else(|| Failure::new(Code::NotFound, format!("rebuild `{id}` does not exist")))
}

/// One rebuild. For those who may read everyone's wallets.
#[utoipa::path(get, path = "/v1/rebuilds/{id}", tag = "rebuilds", params(("id" = String, Path)),
    responses((status = 200, body = RebuildView), (status = 404, description = "not_found")))]
pub async fn get(cx: Cx, Path(id): Path<String>) -> Result<Answer> {
    cx.require(READ)?;
    cx.require_reader_of("")?;
    let db = Db::open().await?;
    Answer::json(200, &RebuildView::from(&existing(&db, &id).await?))
}

/// What a rebuild found.
#[utoipa::path(get, path = "/v1/rebuilds/{id}/differences", tag = "rebuilds", params(("id" = String, Path), PageQuery),
    responses((status = 200, body = Page<DifferenceView>), (status = 404, description = "not_found")))]
pub async fn differences(
    cx: Cx,
    Path(id): Path<String>,
    Query(page): Query<PageQuery>,
) -> Result<Answer> {
    cx.require(READ)?;
    cx.require_reader_of("")?;
    let (limit, after) = (page.limit()?, page.after()?);
    let db = Db::open().await?;
    let rebuild = existing(&db, &id).await?;
    let rows = rebuilds::differences(&db, &rebuild.id, &after, i64::from(limit) + 1).await?;
    let views = rows.iter().map(DifferenceView::from).collect();
    Answer::json(
        200,
        &Page::new(views, limit, |view: &DifferenceView| &view.place),
    )
}
