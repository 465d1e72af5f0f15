//! Lists: `?limit=` (1–200, default 50) and an opaque `?cursor=`, stable under inserts.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use innover_contract::{
    Code,
    limits::{PAGE_LIMIT_DEFAULT, PAGE_LIMIT_MAX},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{Failure, Result};

/// The query of a list.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PageQuery {
    /// Items per page, 1 to 200.
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

impl PageQuery {
    /// Items per page.
    ///
    /// # Errors
    /// 400 outside 1–200.
    pub fn limit(&self) -> Result<u32> {
        match self.limit.unwrap_or(PAGE_LIMIT_DEFAULT) {
            n @ 1..=PAGE_LIMIT_MAX => Ok(n),
            n => Err(Failure::new(
                Code::InvalidRequest,
                format!("limit is 1 to {PAGE_LIMIT_MAX}, not {n}"),
            )
            .param("limit")),
        }
    }

    /// The id after which the page starts; empty for the first page. Ids are time-ordered, so an
    /// insert never moves a page.
    ///
    /// # Errors
    /// 400 `invalid_cursor`.
    pub fn after(&self) -> Result<String> {
        let Some(cursor) = &self.cursor else {
            return Ok(String::new());
        };
        URL_SAFE_NO_PAD
            .decode(cursor)
            .ok()
            .and_then(|b| String::from_utf8(b).ok())
            .ok_or_else(|| {
                Failure::new(
                    Code::InvalidCursor,
                    "pass `next_cursor` of the page before unchanged",
                )
                .param("cursor")
            })
    }
}

/// One page.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Page<T> {
    /// The items.
    pub data: Vec<T>,
    /// Pass as `?cursor=` for the next page; null on the last one.
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// A page of at most `limit` items from a query that asked for one more; `id` names an item.
    pub fn new(mut items: Vec<T>, limit: u32, id: impl Fn(&T) -> &str) -> Page<T> {
        let more = items.len() > limit as usize;
        items.truncate(limit as usize);
        let next_cursor = items
            .last()
            .filter(|_| more)
            .map(|last| URL_SAFE_NO_PAD.encode(id(last)));
        Page {
            data: items,
            next_cursor,
        }
    }
}
