//! The HTTP surface of the ledger.

mod accounts;
mod checkpoints;
mod entries;
mod general_ledger;
mod settlement;
mod transfers;
mod trial_balance;
mod views;

use innover_kit::{Code, Cx, Failure, Result};
use serde_json::{Map, Value};
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::limits::{METADATA_BYTES_MAX, NAME_CHARS_MAX, TEXT_CHARS_MAX};

const READ: &str = "ledger:read";
const WRITE: &str = "ledger:write";

/// The services that open accounts and post entries by themselves, whoever they act for: what a
/// wallet is opened for or topped up with is decided there.
const TRUSTED_CALLERS: [&str; 1] = ["wallet"];

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Ledger",
        description = "Double-entry journal: accounts, entries that balance in every currency, statements."
    ),
    servers((url = "/api/ledger"))
)]
struct Document;

/// The routes and their document.
pub fn routes() -> OpenApiRouter {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(accounts::open, accounts::list))
        .routes(routes!(accounts::get))
        .routes(routes!(accounts::statement))
        .routes(routes!(accounts::balance))
        .routes(routes!(accounts::close))
        .routes(routes!(entries::create))
        .routes(routes!(entries::get))
        .routes(routes!(entries::reverse))
        .routes(routes!(transfers::create))
        .routes(routes!(transfers::batch))
        .routes(routes!(transfers::get))
        .routes(routes!(transfers::post))
        .routes(routes!(transfers::void))
        .routes(routes!(settlement::refuse_payment))
        .routes(routes!(settlement::refuse_refund))
        .routes(routes!(settlement::refuse_transfer))
        .routes(routes!(trial_balance::get))
        .routes(routes!(general_ledger::get))
        .routes(routes!(checkpoints::create, checkpoints::list))
        .routes(routes!(checkpoints::get))
        .routes(routes!(checkpoints::journal))
        .routes(routes!(checkpoints::key))
}

/// The service that calls on its own account, if it is one that may.
fn trusted(cx: &Cx) -> Option<&str> {
    cx.claims()
        .map(|c| c.caller.as_str())
        .filter(|caller| TRUSTED_CALLERS.contains(caller))
}

/// Requires a trusted service or `ledger:write`; the answer is who it is, for the record.
fn writer(cx: &Cx) -> Result<String> {
    if let Some(service) = trusted(cx) {
        return Ok(service.to_owned());
    }
    let identity = cx.require(WRITE)?;
    let who = if identity.sub.is_empty() {
        &identity.client_id
    } else {
        &identity.sub
    };
    Ok(who.clone())
}

fn invalid(what: impl Into<String>, param: &str) -> Failure {
    Failure::new(Code::InvalidRequest, what).param(param)
}

/// A name: 1 to 64 of `[A-Za-z0-9_.-]`.
fn name<'a>(text: &'a str, param: &str) -> Result<&'a str> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if (1..=NAME_CHARS_MAX).contains(&text.len()) && text.bytes().all(plain) {
        return Ok(text);
    }
    Err(invalid(
        format!("1 to {NAME_CHARS_MAX} of letters, digits, `_`, `.` and `-`"),
        param,
    ))
}

/// The id a caller gave, if any. Ids like `pay_…` are the platform's own: nobody else may take the
/// id of a payment before it is booked.
fn callers_id<'a>(id: Option<&'a str>, by_service: bool, param: &str) -> Result<Option<&'a str>> {
    let Some(id) = id else { return Ok(None) };
    let id = name(id, param)?;
    let prefix = id.split_once('_').map_or("", |(prefix, _)| prefix);
    let is_ours = prefix.len() == 3 && prefix.bytes().all(|b| b.is_ascii_lowercase());
    if is_ours && !by_service {
        let what =
            format!("ids that begin with `{prefix}_` are the platform's own; choose another");
        return Err(invalid(what, param));
    }
    Ok(Some(id))
}

/// A line of text of at most 140 characters.
fn line<'a>(text: &'a str, param: &str) -> Result<&'a str> {
    if text.chars().count() <= TEXT_CHARS_MAX && !text.chars().any(char::is_control) {
        return Ok(text);
    }
    Err(invalid(
        format!("one line of at most {TEXT_CHARS_MAX} characters"),
        param,
    ))
}

/// A time of RFC 3339 in microseconds.
fn time(text: &str, param: &str) -> Result<i64> {
    innover_kit::contract::time::parse_rfc3339(text).map_err(|e| invalid(e, param))
}

/// Metadata as it is stored.
fn metadata(object: &Map<String, Value>) -> Result<String> {
    let text = serde_json::to_string(object).map_err(|e| invalid(e.to_string(), "/metadata"))?;
    if text.len() <= METADATA_BYTES_MAX {
        return Ok(text);
    }
    Err(invalid(
        format!("metadata has {METADATA_BYTES_MAX} bytes at most"),
        "/metadata",
    ))
}
