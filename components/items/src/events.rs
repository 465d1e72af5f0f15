//! What it tells others.

use innover_kit::{Cause, Emit, contract::time::rfc3339};
use serde_json::json;

use crate::model::Item;

/// `item.created`. The request's id and Idempotency-Key go along as headers, by its cause.
pub fn created(item: &Item, cause: Cause) -> Emit {
    Emit {
        kind: "item.created",
        key: item.id.clone(),
        key_version: item.version,
        data: json!({
            "id": item.id,
            "timestamp": rfc3339(item.created_at),
            "source_service": "items",
        }),
        cause,
    }
}
