//! The ledger's SQL.

pub mod accounts;
pub mod checkpoints;
pub mod entries;
pub mod journal;
mod kept;
pub mod pending;
pub mod reports;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use innover_journal::Hash;
use innover_kit::db::DbError;
use innover_money::Currency;

use crate::model::Side;

/// The step that moves accounts: it fails when one of them moved or was closed since it was read.
pub const STEP_ACCOUNTS: &str = "accounts";
/// The step that opens accounts: it fails when one of them exists.
pub const STEP_OPEN: &str = "open";
/// The step that writes entries and the ids of reservations: it fails when one of the ids is taken, or
/// one of the entries reverses what was reversed before.
pub const STEP_ENTRIES: &str = "entries";
/// The step that writes reservations or ends them: it fails when an id is taken, or one ended before.
pub const STEP_PENDING: &str = "pending";

fn currency(text: &str) -> Result<Currency, DbError> {
    Currency::parse(text).map_err(|e| DbError::Shape(e.to_string()))
}

fn side(text: &str) -> Result<Side, DbError> {
    Side::parse(text).ok_or_else(|| DbError::Shape(format!("`{text}` is no side")))
}

/// A hash as stored: 43 characters instead of 64, since each posting has one.
fn hash_text(hash: Hash) -> String {
    URL_SAFE_NO_PAD.encode(hash.as_bytes())
}

fn hash(text: &str) -> Result<Hash, DbError> {
    URL_SAFE_NO_PAD
        .decode(text)
        .ok()
        .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
        .map(Hash::from)
        .ok_or_else(|| DbError::Shape(format!("`{text}` is no hash")))
}
