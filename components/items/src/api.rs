//! The HTTP surface: everybody's own items.

use axum::extract::{Path, Query};
use innover_kit::{
    Answer, Batch, Body, Cause, Code, Cx, Db, Failure, Result, batch,
    contract::time::rfc3339,
    idempotency, ids,
    page::{Page, PageQuery},
};
use serde::{Deserialize, Serialize};
use serde_json::Map;
use utoipa::{OpenApi, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    events::created,
    model::{Item, NAME_CHARS_MAX, Name},
    store,
};

const READ: &str = "item:read";
const WRITE: &str = "item:write";

#[derive(OpenApi)]
#[openapi(
    info(title = "Items", description = "Everybody's own list of items."),
    servers((url = "/api/items"))
)]
struct Document;

/// The routes and their document.
pub fn routes() -> OpenApiRouter {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(create, list))
        .routes(routes!(get, rename, delete))
}

/// An item.
#[derive(Debug, Serialize, ToSchema)]
struct ItemView {
    #[schema(example = "itm_0192f3c2a0f47b1e8d5c6f7a8b9c0d1e")]
    id: String,
    name: String,
    /// Grows by one with every change.
    version: i64,
    /// RFC 3339.
    created_at: String,
    /// RFC 3339.
    updated_at: String,
}

impl From<&Item> for ItemView {
    fn from(item: &Item) -> ItemView {
        ItemView {
            id: item.id.clone(),
            name: item.name.as_str().to_owned(),
            version: item.version,
            created_at: rfc3339(item.created_at),
            updated_at: rfc3339(item.updated_at),
        }
    }
}

/// What an item is called.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ItemRequest {
    /// 1 to 100 characters.
    #[schema(example = "desk lamp")]
    name: String,
}

impl ItemRequest {
    fn name(&self) -> Result<Name> {
        Name::new(&self.name).ok_or_else(|| {
            let what = format!(
                "1 to {NAME_CHARS_MAX} characters, without control characters or spaces around them"
            );
            Failure::new(Code::InvalidRequest, what).param("/name")
        })
    }
}

/// Make an item.
#[utoipa::path(post, path = "/v1/items", tag = "items", request_body = ItemRequest,
    responses((status = 201, description = "Made", body = ItemView)))]
async fn create(cx: Cx, body: Body<ItemRequest>) -> Result<Answer> {
    let who = cx.require(WRITE)?;
    let name = body.value.name()?;
    let key = cx.idempotency(&body.fields)?;
    let mut db = Db::open().await?;
    if let Some(key) = &key
        && let Some(answer) = key.replay(&db).await?
    {
        return Ok(answer);
    }
    let item = Item::new(ids::new_id("itm"), who.sub.clone(), name, ids::now_us());
    let mut batch = Batch::new();
    store::insert(&mut batch, std::slice::from_ref(&item));
    batch.emit(created(&item, Cause::from(&cx)));
    let answer = Answer::json(201, &ItemView::from(&item))?;
    Ok(idempotency::commit(&mut db, batch, key.as_ref(), answer).await?)
}

/// List one's own items, oldest first.
#[utoipa::path(get, path = "/v1/items", tag = "items", params(PageQuery),
    responses((status = 200, description = "A page", body = Page<ItemView>)))]
async fn list(cx: Cx, Query(query): Query<PageQuery>) -> Result<Answer> {
    let who = cx.require(READ)?;
    let (limit, after) = (query.limit()?, query.after()?);
    let db = Db::open().await?;
    let items = store::page(&db, &who.sub, &after, i64::from(limit) + 1).await?;
    let views = items.iter().map(ItemView::from).collect();
    Answer::json(200, &Page::new(views, limit, |v: &ItemView| &v.id))
}

async fn load(db: &Db, id: &str) -> Result<Item> {
    let what = "there is no item with this id";
    let item = store::by_id(db, id).await?;
    item.ok_or_else(|| Failure::new(Code::ItemNotFound, what))
}

/// Read an item: one's own, or any for those who read everyone's.
#[utoipa::path(get, path = "/v1/items/{id}", tag = "items",
    params(("id" = String, Path, description = "itm_…")),
    responses((status = 200, description = "The item", body = ItemView),
              (status = 404, description = "item_not_found")))]
async fn get(cx: Cx, Path(id): Path<String>) -> Result<Answer> {
    cx.require(READ)?;
    let db = Db::open().await?;
    let item = load(&db, &id).await?;
    cx.require_reader_of(&item.owner)?;
    Answer::json(200, &ItemView::from(&item))
}

/// Rename an item of one's own.
#[utoipa::path(put, path = "/v1/items/{id}", tag = "items", request_body = ItemRequest,
    params(("id" = String, Path, description = "itm_…")),
    responses((status = 200, description = "Renamed", body = ItemView),
              (status = 404, description = "item_not_found")))]
async fn rename(cx: Cx, Path(id): Path<String>, body: Body<ItemRequest>) -> Result<Answer> {
    cx.require(WRITE)?;
    let name = body.value.name()?;
    let key = cx.idempotency(&body.fields)?;
    // Somebody may change it between the read and the commit: then from the read again.
    batch::with_retries(|| async {
        let mut db = Db::open().await?;
        if let Some(key) = &key
            && let Some(answer) = key.replay(&db).await?
        {
            return Ok(answer);
        }
        let item = load(&db, &id).await?;
        cx.require_actor_for(&item.owner)?;
        let item = item.renamed(name.clone(), ids::now_us());
        let mut batch = Batch::new();
        store::update(&mut batch, &item);
        let answer = Answer::json(200, &ItemView::from(&item))?;
        Ok(idempotency::commit(&mut db, batch, key.as_ref(), answer).await?)
    })
    .await
}

/// Delete an item of one's own; the answer is the item as it was.
#[utoipa::path(delete, path = "/v1/items/{id}", tag = "items",
    params(("id" = String, Path, description = "itm_…")),
    responses((status = 200, description = "Deleted", body = ItemView),
              (status = 404, description = "item_not_found")))]
async fn delete(cx: Cx, Path(id): Path<String>) -> Result<Answer> {
    cx.require(WRITE)?;
    let key = cx.idempotency(&Map::new())?;
    batch::with_retries(|| async {
        let mut db = Db::open().await?;
        if let Some(key) = &key
            && let Some(answer) = key.replay(&db).await?
        {
            return Ok(answer);
        }
        let item = load(&db, &id).await?;
        cx.require_actor_for(&item.owner)?;
        let mut batch = Batch::new();
        store::delete(&mut batch, &item);
        let answer = Answer::json(200, &ItemView::from(&item))?;
        Ok(idempotency::commit(&mut db, batch, key.as_ref(), answer).await?)
    })
    .await
}
