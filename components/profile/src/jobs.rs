//! The tasks of `profile-tasks`: checks of documents, the end of those whose last day is over, and
//! the rotation of the keys that wrap data keys.

use std::collections::BTreeMap;

use innover_kit::{
    Batch, Cause, Code, Cx, Db, Failure, Job, Result, config,
    contract::time::date,
    ids,
    jobs::{Handled, Running, Task},
    log,
};
use serde::Deserialize;
use serde_json::json;

use crate::{
    model::documents::{self, Facts, Standing},
    seal,
    store::{self, Writer},
};

/// Checks a document.
pub const VERIFY_KYC: Task = Task::new("profile.verify_kyc", &["document_id?"], verify_kyc);
/// Ends documents whose last day is over.
pub const EXPIRE: Task = Task::new("profile.expire", &["after?"], expire);
/// Wraps data keys anew.
pub const ROTATE: Task = Task::new("profile.rotate", &["after?"], rotate);

const QUEUE: &str = "profile-tasks";
/// A document that waits for this long has lost its job: far longer than the milliseconds a check
/// takes, and than the backlog a burst can build up.
const WAITING_US: i64 = 300_000_000;
/// Checks enqueued at once for documents that lost theirs.
const WAITING_MAX: i64 = 100;
/// Documents ended in one commit.
const EXPIRE_MAX: i64 = 200;
/// Keys wrapped anew in one commit: about 20 ms of work, during which nobody else writes.
const ROTATE_MAX: i64 = 500;

/// The job that checks a document.
pub fn verification(document_id: &str) -> (&'static str, Job) {
    let job = VERIFY_KYC.job(ids::new_uuid(), vec![document_id.into()]);
    (QUEUE, job)
}

/// The job that wraps data keys anew.
pub fn rotation() -> (&'static str, Job) {
    (QUEUE, ROTATE.job(ids::new_uuid(), Vec::new()))
}

async fn review_all() -> Result<bool> {
    match config::get("kyc_review").await?.trim() {
        "rules" => Ok(false),
        "all" => Ok(true),
        other => Err(Failure::new(
            Code::NotReady,
            format!("the variable `kyc_review` is `rules` or `all`, not `{other}`"),
        )),
    }
}

#[derive(Deserialize)]
struct Verify {
    document_id: Option<String>,
}

/// `profile.verify_kyc(document_id=None)`: checks a document that was submitted; the result is where it
/// stands. Without an argument it enqueues a check for every document that lost its own.
pub fn verify_kyc<'a>(_cx: &'a Cx, db: &'a Db, jobs: &'a [Job]) -> Running<'a> {
    Box::pin(async move {
        let mut handled = Handled::default();
        let mut writer = Writer::default();
        for (job, Verify { document_id }) in VERIFY_KYC.each(jobs, &mut handled) {
            let Some(id) = document_id else {
                let enqueued = recover(db, &mut handled.batch).await?;
                let result = json!({ "enqueued": enqueued });
                handled.results.insert(job.id.clone(), result);
                continue;
            };
            match verify_one(db, job, &id, &mut writer).await {
                Ok(standing) => {
                    let result = json!({ "state": standing });
                    handled.results.insert(job.id.clone(), result);
                }
                Err(failure) if failure.code() == Code::DocumentNotFound => {
                    handled.refused.insert(job.id.clone(), failure);
                }
                Err(failure) => return Err(failure),
            }
        }
        handled.batch.append(writer.finish());
        Ok(handled)
    })
}

async fn recover(db: &Db, batch: &mut Batch) -> Result<usize> {
    let before = ids::now_us() - WAITING_US;
    let waiting = store::documents::waiting(db, before, WAITING_MAX).await?;
    for id in &waiting {
        let (queue, job) = verification(id);
        batch.enqueue(queue, job, Cause::default());
    }
    Ok(waiting.len())
}

async fn verify_one(db: &Db, job: &Job, id: &str, writer: &mut Writer) -> Result<Standing> {
    let stored = store::documents::find(db, id).await?.ok_or_else(|| {
        Failure::new(
            Code::DocumentNotFound,
            format!("there is no document `{id}`"),
        )
    })?;
    let document = stored.document.clone();
    if document.standing != Standing::Submitted {
        return Ok(document.standing);
    }
    let owner = store::find(db, &document.profile_id)
        .await?
        .ok_or_else(|| Failure::from(Code::Conflict))?;
    let number_taken = match &stored.number_digest {
        Some(digest) => store::documents::is_taken(db, digest, &document.profile_id).await?,
        None => false,
    };
    let opened = stored.open(&*seal::keks().await?)?;
    let today = date(writer.now_us());
    let (standing, findings) = documents::check(&Facts {
        kind: document.kind,
        number: opened.number.as_deref(),
        expires_on: document.expires_on.as_deref(),
        has_content: document.media_type.is_some(),
        number_taken,
        today: &today,
        review_all: review_all().await?,
    });
    writer.record_rules(&document, standing, &findings);
    writer.go(&document, &owner.profile, standing, &findings, &job.into())?;
    Ok(standing)
}

/// `profile.expire(after=None)`: documents whose last day is over do not count any more. A page at a
/// time; each page enqueues the next one in its own commit.
pub fn expire<'a>(_cx: &'a Cx, db: &'a Db, jobs: &'a [Job]) -> Running<'a> {
    Box::pin(async move {
        let Some((job, others)) = only_the_first(jobs) else {
            return Ok(Handled::default());
        };
        let after = cursor(EXPIRE, job)?;
        let mut writer = Writer::default();
        let today = date(writer.now_us());
        let past = store::documents::past(db, &today, &after, EXPIRE_MAX).await?;
        let findings = [documents::Finding::PastExpiry];
        for stored in &past {
            let document = &stored.document;
            let owner = store::find(db, &document.profile_id).await?;
            let owner = owner.ok_or_else(|| Failure::from(Code::Conflict))?;
            writer.record_rules(document, Standing::Expired, &findings);
            let cause = Cause::from(job);
            writer.go(
                document,
                &owner.profile,
                Standing::Expired,
                &findings,
                &cause,
            )?;
        }
        let mut batch = writer.finish();
        let last = past.last().map(|stored| stored.document.id.as_str());
        next_page(
            &mut batch,
            EXPIRE,
            past.len() as i64 == EXPIRE_MAX,
            last,
            job,
        );
        Ok(others.with(job, batch, json!({ "expired": past.len() })))
    })
}

/// `profile.rotate(after=None)`: wraps data keys under the newest key of `profile_keys`. A page at a
/// time; each page enqueues the next one in its own commit, and what is wrapped already is left
/// alone, so it may end anywhere and start again. The result says what is left under which key.
pub fn rotate<'a>(cx: &'a Cx, db: &'a Db, jobs: &'a [Job]) -> Running<'a> {
    Box::pin(async move {
        let Some((job, others)) = only_the_first(jobs) else {
            return Ok(Handled::default());
        };
        let after = cursor(ROTATE, job)?;
        let keks = seal::keks().await?;
        store::keys::prove(db, &keks).await?;
        let outdated = store::keys::outdated(db, keks.newest(), &after, ROTATE_MAX).await?;
        let mut left: BTreeMap<String, i64> = store::keys::counts(db).await?.into_iter().collect();
        left.remove(keks.newest());
        let mut changes = Vec::new();
        let mut faults: BTreeMap<String, String> = BTreeMap::new();
        for key in &outdated {
            match keks.rewrap(key) {
                Ok(rewrapped) => {
                    if let Some(count) = left.get_mut(&key.kek_id) {
                        *count -= 1;
                    }
                    changes.push((key.clone(), rewrapped));
                }
                // One that cannot be opened stays as it is; the others go on.
                Err(fault) => drop(faults.insert(key.kek_id.clone(), fault.to_string())),
            }
        }
        left.retain(|_, count| *count > 0);
        for (kek_id, fault) in &faults {
            let fields = [
                ("kek_id", kek_id.as_str().into()),
                ("error", fault.as_str().into()),
            ];
            log::warn(cx, "data keys cannot be rewrapped", &fields);
        }
        let mut batch = Batch::new();
        if !changes.is_empty() {
            store::keys::replace(&mut batch, &changes, ids::now_us());
        }
        let last = outdated.last().map(|key| key.owner.as_str());
        next_page(
            &mut batch,
            ROTATE,
            outdated.len() as i64 == ROTATE_MAX,
            last,
            job,
        );
        let result = json!({
            "wraps_under": keks.newest(), "rewrapped": changes.len(), "left": left, "faults": faults,
        });
        Ok(others.with(job, batch, result))
    })
}

/// Several jobs of one page task that are delivered together are one: the others would find the rows
/// as the first one found them.
fn only_the_first(jobs: &[Job]) -> Option<(&Job, Others)> {
    let (first, others) = jobs.split_first()?;
    let others = others.iter().map(|job| job.id.clone()).collect();
    Some((first, Others(others)))
}

struct Others(Vec<String>);

impl Others {
    fn with(self, job: &Job, batch: Batch, result: serde_json::Value) -> Handled {
        let mut handled = Handled::all(batch);
        for id in self.0 {
            let joined = json!({ "joined": job.id });
            handled.results.insert(id, joined);
        }
        handled.results.insert(job.id.clone(), result);
        handled
    }
}

#[derive(Deserialize)]
struct Page {
    after: Option<String>,
}

/// Where a page starts: the argument, or the beginning.
fn cursor(task: Task, job: &Job) -> Result<String> {
    let page: Page = task.arguments(job)?;
    Ok(page.after.unwrap_or_default())
}

fn next_page(batch: &mut Batch, task: Task, full: bool, last: Option<&str>, job: &Job) {
    if let Some(last) = last.filter(|_| full) {
        let next = task.job(ids::new_uuid(), vec![last.into()]);
        batch.enqueue(QUEUE, next, job.into());
    }
}
