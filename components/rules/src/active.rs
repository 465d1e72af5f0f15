//! The rule set that decides: the shipped one until another is activated, compiled once per instance.

use std::sync::{Arc, Mutex, PoisonError};

use innover_kit::{Batch, BatchError, Code, Db, Failure, Result, ids};
use serde::Deserialize;

use crate::{
    model::{Rule, RuleSet},
    store::{self, Active, SetRow},
};

/// Who the shipped set is recorded as created by.
const CREATED_BY_SHIPPED: &str = "shipped";

/// The compiled active set, kept until a query says that another one is active. It is the same for
/// every request of the instance.
static COMPILED: Mutex<Option<(Active, Arc<RuleSet>)>> = Mutex::new(None);

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

/// The active version and its rules, compiled only when it is not the one this instance has.
///
/// # Errors
/// A database failure.
pub async fn compiled(db: &mut Db) -> Result<(i64, Arc<RuleSet>)> {
    let active = active(db).await?;
    let cached = COMPILED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    if let Some((_, set)) = cached.filter(|(cached, _)| *cached == active) {
        return Ok((active.version, set));
    }
    let set = Arc::new(load(db, active.version).await?);
    *COMPILED.lock().unwrap_or_else(PoisonError::into_inner) = Some((active, set.clone()));
    Ok((active.version, set))
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
