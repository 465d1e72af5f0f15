//! Delivery at least once, effects exactly once: an event or a job is marked in the batch of its
//! effect, table `inbox(id, handled_at, result)`, and what is marked is only answered again. A job
//! without an effect leaves no mark.
//!
//! Items of one delivery share a commit. When that commit loses a race, each is tried on its own,
//! so one item in trouble does not hold up the others.

use std::collections::{BTreeMap, BTreeSet};

use innover_contract::Code;
use serde_json::Value as Json;

use crate::{Batch, Cx, Db, Failure, Result, batch, batch::BatchError, call, db::DbError, log};

/// The step's name in a failed batch.
pub(crate) const STEP: &str = "inbox";

/// How often one item is tried again here when it loses a race, before the deliverer is asked to
/// come back later.
const ATTEMPTS: usize = 5;

/// When a handler's database is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locking {
    /// At the commit: a handler may call other services; a lost race is tried again.
    AtCommit,
    /// Before it reads ([`Db::lock`]): for handlers of rows that many move, which call nobody.
    BeforeReading,
}

/// What a handler decided for the items it was given: one batch for all of them, and what it
/// refuses. An item that is neither refused nor given a result simply took effect.
#[derive(Default)]
pub struct Handled {
    /// The effect of all items that are not refused.
    pub batch: Batch,
    /// Items refused, by id, with the reason.
    pub refused: BTreeMap<String, Failure>,
    /// Results of jobs, by id.
    pub results: BTreeMap<String, Json>,
}

impl Handled {
    /// The whole effect is `batch`.
    pub fn all(batch: Batch) -> Handled {
        Handled {
            batch,
            ..Handled::default()
        }
    }
}

/// An item of a delivery.
pub(crate) trait Item: Clone {
    /// Whether an item is marked as handled even when handling it changed nothing.
    const MARKED_ALWAYS: bool;

    fn id(&self) -> &str;
    /// Items of one key are handled in order.
    fn key(&self) -> &str;
    /// Items of one kind are handled together.
    fn kind(&self) -> &str;
}

/// The answer to one item: a status as for HTTP, the result, the error.
pub(crate) struct Outcome {
    pub status: u16,
    pub result: Json,
    pub error: String,
    /// The failure's code.
    pub code: String,
}

impl Outcome {
    pub(crate) fn done(result: Json) -> Outcome {
        Outcome {
            status: 200,
            result,
            error: String::new(),
            code: String::new(),
        }
    }

    pub(crate) fn failed(failure: &Failure) -> Outcome {
        Outcome {
            status: failure.status(),
            result: Json::Null,
            error: failure.to_string(),
            code: failure.0.code.clone(),
        }
    }
}

/// Handles a delivery: skips what was handled before, groups the rest by kind, and answers per item.
pub(crate) async fn deliver<I: Item>(
    cx: &Cx,
    prefix: &str,
    items: &[I],
    handle: &impl AsyncFn(&Db, &[I]) -> Result<Handled>,
    locking: Locking,
) -> Result<BTreeMap<String, Outcome>> {
    let mut db = Db::open().await?;
    let mut outcomes = handled_before(&db, prefix, items).await?;
    let mut waiting: Vec<I> = items
        .iter()
        .filter(|item| !outcomes.contains_key(item.id()))
        .cloned()
        .collect();
    let mut blocked: BTreeSet<String> = BTreeSet::new();
    while !waiting.is_empty() {
        // One round takes the first waiting item of every key; what comes later for the same key
        // must see its effect.
        let mut keys = BTreeSet::new();
        let (round, later): (Vec<I>, Vec<I>) = waiting
            .into_iter()
            .partition(|item| keys.insert(item.key().to_owned()));
        waiting = later;
        let mut groups: BTreeMap<String, Vec<I>> = BTreeMap::new();
        for item in round {
            if blocked.contains(item.key()) {
                let first = Failure::new(Code::Conflict, "an earlier item of this key comes first");
                outcomes.insert(item.id().to_owned(), Outcome::failed(&first));
            } else {
                groups.entry(item.kind().to_owned()).or_default().push(item);
            }
        }
        for group in groups.into_values() {
            run_group(cx, &mut db, prefix, &group, handle, &mut outcomes, locking).await;
            for item in &group {
                let status = outcomes.get(item.id()).map_or(500, |o| o.status);
                // A parked item does not hold up its key: it will not come back.
                if innover_contract::event::disposition(status)
                    == innover_contract::event::Disposition::Retry
                {
                    blocked.insert(item.key().to_owned());
                }
            }
        }
    }
    Ok(outcomes)
}

async fn run_group<I: Item>(
    cx: &Cx,
    db: &mut Db,
    prefix: &str,
    group: &[I],
    handle: &impl AsyncFn(&Db, &[I]) -> Result<Handled>,
    outcomes: &mut BTreeMap<String, Outcome>,
    locking: Locking,
) {
    match attempt(db, prefix, group, handle, locking).await {
        Ok(done) => outcomes.extend(done),
        Err(_) if group.len() > 1 => {
            for item in group {
                run_one(cx, db, prefix, item, handle, outcomes, locking).await;
            }
        }
        Err(_) => run_one(cx, db, prefix, &group[0], handle, outcomes, locking).await,
    }
}

async fn run_one<I: Item>(
    cx: &Cx,
    db: &mut Db,
    prefix: &str,
    item: &I,
    handle: &impl AsyncFn(&Db, &[I]) -> Result<Handled>,
    outcomes: &mut BTreeMap<String, Outcome>,
    locking: Locking,
) {
    let one = std::slice::from_ref(item);
    let mut last = Failure::from(Code::Conflict);
    for tries in 0..ATTEMPTS {
        if tries > 1 {
            call::sleep_ms(call::jitter_ms(1 << tries)).await;
        }
        match attempt(db, prefix, one, handle, locking).await {
            Ok(done) => return outcomes.extend(done),
            Err(Attempt::Failed(failure)) => {
                last = failure;
                break;
            }
            Err(Attempt::Batch(BatchError::Expectation { step, .. })) => {
                // Another delivery of the same item may have won.
                match handled_before(db, prefix, one).await {
                    Ok(done) if !done.is_empty() => return outcomes.extend(done),
                    _ => {
                        last = Failure::new(Code::Conflict, format!("lost a race at step `{step}`"))
                    }
                }
            }
            Err(Attempt::Batch(error @ BatchError::Before)) => last = error.into(),
            Err(Attempt::Batch(BatchError::Db(DbError::Overtaken { text, .. }))) => {
                last = Failure::new(Code::Conflict, text);
            }
            Err(Attempt::Batch(error)) => {
                last = error.into();
                break;
            }
        }
    }
    log::warn(
        cx,
        "delivery failed",
        &[
            ("id", item.id().into()),
            ("kind", item.kind().into()),
            ("error", last.to_string().into()),
        ],
    );
    outcomes.insert(item.id().to_owned(), Outcome::failed(&last));
}

enum Attempt {
    Failed(Failure),
    Batch(BatchError),
}

async fn attempt<I: Item>(
    db: &mut Db,
    prefix: &str,
    group: &[I],
    handle: &impl AsyncFn(&Db, &[I]) -> Result<Handled>,
    locking: Locking,
) -> Result<BTreeMap<String, Outcome>, Attempt> {
    if let Locking::BeforeReading = locking {
        db.lock().await.map_err(|e| Attempt::Batch(e.into()))?;
    }
    let handled = handle(db, group).await;
    if handled.is_err() && db.is_locked() {
        db.rollback();
    }
    let Handled {
        mut batch,
        refused,
        mut results,
    } = handled.map_err(Attempt::Failed)?;
    let mut outcomes = BTreeMap::new();
    let marked = I::MARKED_ALWAYS || !batch.is_empty();
    for item in group {
        let outcome = match refused.get(item.id()) {
            Some(failure) => Outcome::failed(failure),
            None => {
                let result = results.remove(item.id()).unwrap_or(Json::Null);
                if marked {
                    let stored = (!result.is_null()).then(|| result.to_string());
                    batch.handled(&format!("{prefix}{}", item.id()), stored);
                }
                Outcome::done(result)
            }
        };
        outcomes.insert(item.id().to_owned(), outcome);
    }
    batch.commit(db).await.map_err(Attempt::Batch)?;
    Ok(outcomes)
}

async fn handled_before<I: Item>(
    db: &Db,
    prefix: &str,
    items: &[I],
) -> Result<BTreeMap<String, Outcome>> {
    let ids = items.iter().map(|item| format!("{prefix}{}", item.id()));
    let rows = batch::existing(
        db,
        "SELECT id, result FROM inbox WHERE id IN (SELECT id FROM rows($1: id TEXT))",
        ids,
    )
    .await?;
    rows.iter()
        .map(|row| {
            let marked = row.text(0)?;
            let id = marked.strip_prefix(prefix).unwrap_or(marked).to_owned();
            let result = row
                .opt_text(1)?
                .and_then(|text| serde_json::from_str(text).ok());
            Ok((id, Outcome::done(result.unwrap_or(Json::Null))))
        })
        .collect()
}
