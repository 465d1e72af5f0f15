//! The rule set that decides, the shipped one until another is activated, and the one in shadow.

use std::sync::{Arc, Mutex, PoisonError};

use innover_kit::{Batch, BatchError, Code, Db, Failure, Result, ids};
use serde::Deserialize;

use crate::{
    model::{Rule, RuleSet},
    store::{self, Active, SetRow},
};

/// Who the shipped set is recorded as created by.
const CREATED_BY_SHIPPED: &str = "shipped";

/// Compiled versions, newest first. A version never changes, so one is the same for every request
/// of the instance.
static COMPILED: Mutex<Vec<(i64, Arc<RuleSet>)>> = Mutex::new(Vec::new());

/// The active one, the one in shadow, and those before them.
const COMPILED_MAX: usize = 4;

#[derive(Deserialize)]
struct Shipped {
    description: String,
    rules: Vec<Rule>,
}

/// Which version is active; stores and activates the shipped one in an empty database.
///
/// # Errors
/// A database failure.
pub async fn active(db: &mut Db) -> Result<Active> {
    if let Some(active) = store::active(db).await? {
        return Ok(active);
    }
    seed(db).await?;
    store::active(db)
        .await?
        .ok_or_else(|| Failure::new(Code::NotReady, "no rule set is active"))
}

async fn seed(db: &mut Db) -> Result<()> {
    let damaged = |e: String| {
        Failure::new(
            Code::Internal,
            format!("the shipped rules are damaged: {e}"),
        )
    };
    let shipped: Shipped =
        serde_json::from_str(include_str!("shipped.json")).map_err(|e| damaged(e.to_string()))?;
    let set = RuleSet::compile(shipped.rules).map_err(|e| damaged(e.to_string()))?;
    let now = ids::now_us();
    let mut batch = Batch::new();
    store::insert(
        &mut batch,
        &SetRow {
            version: 1,
            description: shipped.description,
            rules: serde_json::to_string(set.rules()).map_err(|e| damaged(e.to_string()))?,
            compiled: set.stored().into(),
            created_at: now,
            created_by: CREATED_BY_SHIPPED.into(),
        },
    );
    store::activate(
        &mut batch,
        &Active {
            seq: 1,
            version: 1,
            activated_at: now,
        },
        CREATED_BY_SHIPPED,
    );
    match batch.commit(db).await {
        // Another request stored it first, and that is as good.
        Ok(()) | Err(BatchError::Expectation { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A version compiled, by this instance only once.
///
/// # Errors
/// As [`load`].
pub async fn compiled(db: &Db, version: i64) -> Result<Arc<RuleSet>> {
    let known = || COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, set)) = known().iter().find(|(known, _)| *known == version) {
        return Ok(set.clone());
    }
    let set = Arc::new(load(db, version).await?);
    let mut known = known();
    known.insert(0, (version, set.clone()));
    known.truncate(COMPILED_MAX);
    Ok(set)
}

/// One version, compiled.
///
/// # Errors
/// 404 when there is no such version; 422 `invalid_rule` when this release no longer accepts it.
pub async fn load(db: &Db, version: i64) -> Result<RuleSet> {
    let row = find(db, version).await?;
    let rules: Vec<Rule> = rules(&row)?;
    RuleSet::restore(rules, &row.compiled).map_err(|e| {
        Failure::new(
            Code::InvalidRule,
            format!("version {version} is not acceptable any more: {e}"),
        )
    })
}

/// One version as stored.
///
/// # Errors
/// 404 when there is no such version.
pub async fn find(db: &Db, version: i64) -> Result<SetRow> {
    store::version(db, version).await?.ok_or_else(|| {
        Failure::new(
            Code::NotFound,
            format!("there is no version {version} of the rules"),
        )
    })
}

/// The rules of a stored version.
///
/// # Errors
/// 500 when the row is damaged.
pub fn rules(row: &SetRow) -> Result<Vec<Rule>> {
    serde_json::from_str(&row.rules).map_err(|e| {
        Failure::new(
            Code::Internal,
            format!("version {} is damaged: {e}", row.version),
        )
    })
}
