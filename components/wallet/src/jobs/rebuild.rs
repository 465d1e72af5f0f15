//! The rebuild: every wallet against its account in the ledger, page by page. A job compares some
//! pages, and the next one goes on where it ended.

use innover_kit::{
    Batch, Cause, Code, Cx, Db, Failure, Job, Result, ids,
    jobs::{Handled, Running, Task},
    log,
};
use serde::Deserialize;
use serde_json::json;

use crate::{
    events::{self, Of},
    ledger,
    limits::REBUILD_PAGES,
    model::{
        State, Wallet,
        comparison::{Account, Difference, Finding, compare},
    },
    store::{
        self,
        decisions::{self, Decision},
        rebuilds::{self, Rebuild},
    },
};

/// `wallet.rebuild(rebuild_id?)`: without an id, as the schedule runs it, one is begun.
pub const TASK: Task = Task::new("wallet.rebuild", &["rebuild_id?"], run);
/// The queue of this service's jobs.
pub const QUEUE: &str = "wallet-tasks";
/// Who asked for a rebuild, and closed a wallet, when nobody did.
pub const ITSELF: &str = "wallet.rebuild";

impl Rebuild {
    /// A rebuild that has compared nothing yet.
    pub fn begun(id: String, requested_by: String) -> Rebuild {
        let now = ids::now_us();
        Rebuild {
            id,
            done: false,
            version: 1,
            requested_by,
            cursor: String::new(),
            after_account: String::new(),
            checked: 0,
            differing: 0,
            repaired: 0,
            started_at: now,
            updated_at: now,
        }
    }
}

/// The job that goes on with a rebuild. Its id says where, so that it is one job however often it is
/// enqueued.
pub fn job(rebuild: &Rebuild) -> Job {
    let id = format!("{}-{}", rebuild.id, rebuild.version);
    TASK.job(id, vec![rebuild.id.clone().into()])
}

/// Compares the next pages of one rebuild.
pub fn run<'a>(cx: &'a Cx, db: &'a Db, jobs: &'a [Job]) -> Running<'a> {
    Box::pin(async move {
        let mut handled = Handled::default();
        let Some((job, others)) = jobs.split_first() else {
            return Ok(handled);
        };
        // One at a time: two in one commit would write the same tables. They come again.
        for other in others {
            let later = Failure::new(Code::Conflict, "another rebuild goes first");
            handled.refused.insert(other.id.clone(), later);
        }
        let mut rebuild = rebuild_of(db, job).await?;
        if !rebuild.done {
            let found = compare_pages(cx, db, &mut rebuild).await?;
            handled.batch = write(cx, &mut rebuild, &found, &Cause::from(job));
        }
        let result = json!({
            "rebuild_id": rebuild.id,
            "done": rebuild.done,
            "checked": rebuild.checked,
            "differing": rebuild.differing,
            "repaired": rebuild.repaired,
        });
        handled.results.insert(job.id.clone(), result);
        Ok(handled)
    })
}

#[derive(Deserialize)]
struct Which {
    rebuild_id: Option<String>,
}

/// The rebuild a job goes on with, with the version it will have.
async fn rebuild_of(db: &Db, job: &Job) -> Result<Rebuild> {
    let Some(id) = TASK.arguments::<Which>(job)?.rebuild_id else {
        return Ok(Rebuild::begun(format!("reb_{}", job.id), ITSELF.into()));
    };
    let mut rebuild = rebuilds::get(db, &id)
        .await?
        .ok_or_else(|| Failure::new(Code::NotFound, format!("rebuild `{id}` does not exist")))?;
    rebuild.version += 1;
    Ok(rebuild)
}

async fn compare_pages(cx: &Cx, db: &Db, rebuild: &mut Rebuild) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    for _ in 0..REBUILD_PAGES {
        let cursor = (!rebuild.cursor.is_empty()).then_some(rebuild.cursor.as_str());
        // The ledger first: what a wallet then shows is of that moment or later.
        let (accounts, next) = ledger::accounts(cx, cursor).await?;
        let last = next.as_ref().and_then(|_| last_id(&accounts));
        let wallets = store::of_account_range(db, &rebuild.after_account, last).await?;
        let (doubtful, certain): (Vec<Finding>, Vec<Finding>) = compare(&accounts, &wallets)
            .into_iter()
            .partition(|f| is_doubtful(f.what));
        found.extend(certain);
        if !doubtful.is_empty() {
            let (fresh, _) = ledger::accounts(cx, cursor).await?;
            found.extend(confirmed(&fresh, doubtful));
        }
        rebuild.checked += i64::try_from(wallets.len()).unwrap_or(i64::MAX);
        if let Some(last) = last {
            rebuild.after_account = last.to_owned();
        }
        rebuild.done = next.is_none();
        rebuild.cursor = next.unwrap_or_default();
        if rebuild.done {
            break;
        }
    }
    Ok(found)
}

fn last_id(accounts: &[Account]) -> Option<&str> {
    accounts.last().map(|a| a.holds.account_id.as_str())
}

/// Whether a wallet that moved or was opened between the two reads looks like this too.
fn is_doubtful(what: Difference) -> bool {
    matches!(what, Difference::Ahead | Difference::NoAccount)
}

/// Those that still differ in that way from accounts read after the wallets.
fn confirmed(fresh: &[Account], doubtful: Vec<Finding>) -> Vec<Finding> {
    let wallets: Vec<Wallet> = doubtful.into_iter().filter_map(|f| f.wallet).collect();
    let mut still = compare(fresh, &wallets);
    still.retain(|f| f.wallet.is_some() && is_doubtful(f.what));
    still
}

/// What the pages found, its repair, and the next job or the end.
fn write(cx: &Cx, rebuild: &mut Rebuild, found: &[Finding], cause: &Cause) -> Batch {
    let mut batch = Batch::new();
    let repairs: Vec<(&Wallet, &Wallet)> = found
        .iter()
        .filter_map(|f| Some((f.wallet.as_ref()?, f.repaired.as_ref()?)))
        .collect();
    rebuild.differing += count(found.len());
    rebuild.repaired += count(repairs.len());
    rebuild.updated_at = ids::now_us();
    for finding in found {
        log::warn(
            cx,
            "a wallet differs from the ledger",
            &[
                ("rebuild_id", rebuild.id.as_str().into()),
                ("what", finding.what.as_str().into()),
                ("account_id", finding.account_id.as_str().into()),
                ("repaired", finding.repaired.is_some().into()),
            ],
        );
    }
    rebuilds::save(&mut batch, rebuild);
    rebuilds::insert_differences(&mut batch, &rebuild.id, found);
    store::repair(&mut batch, repairs.iter().copied());
    close(&mut batch, &repairs, rebuild, cause);
    if !repairs.is_empty() {
        let repaired: Vec<Wallet> = repairs.iter().map(|(_, w)| (*w).clone()).collect();
        batch.emit(events::updated(Of::default(), &repaired, cause.clone()));
    }
    if rebuild.done {
        batch.emit(events::rebuilt(rebuild, cause.clone()));
    } else {
        batch.enqueue(QUEUE, job(rebuild), cause.clone());
    }
    batch
}

/// Wallets whose accounts were closed, and which were not, when a process died in between.
fn close(batch: &mut Batch, repairs: &[(&Wallet, &Wallet)], rebuild: &Rebuild, cause: &Cause) {
    let closed = repairs
        .iter()
        .filter(|(before, after)| before.state != after.state && after.state == State::Closed);
    let mut made = Vec::new();
    for (_, wallet) in closed {
        let decision = Decision {
            id: ids::new_id("dec"),
            wallet_id: wallet.id.clone(),
            action: "close".into(),
            reason: format!("its account is closed, as {} found", rebuild.id),
            decided_by: ITSELF.into(),
            decided_at: rebuild.updated_at,
        };
        batch.emit(events::decided(
            "wallet.closed",
            wallet,
            &decision,
            cause.clone(),
        ));
        made.push(decision);
    }
    decisions::insert(batch, &made);
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
